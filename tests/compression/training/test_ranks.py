"""Two processes train as one: the same losses and weights, and what either saved is taken up by the other."""

import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import Shard, distribute_tensor

from compression.distillation import teacher as teachers
from compression.distillation.live_teacher import Member
from compression.distillation.loss_weights import ScheduledWeights
from compression.distillation.objective import DistillationObjective, FeatureAlignment
from compression.distillation.states_teacher import StatesTeacher
from compression.distillation.teacher import Teacher
from compression.engine.context import StageContext
from compression.engine.stages.objectives import objective_hooks
from compression.evaluation.validate import Validation, validate
from compression.modalities.base import label_loss
from compression.models.running_statistics import saved_buffers
from compression.schema.errors import RankLost
from compression.schema.events import Event
from compression.schema.recipe.distill import Distill
from compression.schema.recipe.prune import Prune, Recovery
from compression.schema.recipe.quantize import Qat, Quantize
from compression.schema.recipe.recipe import Prepare, Recipe, Train
from compression.schema.stages import Stage
from compression.system import child_process
from compression.system.progress import Returning, Step
from compression.training import ranks
from compression.training.budget import Budget
from compression.training.config import TrainingConfig
from compression.training.ranks import Ranks
from compression.training.sharded import Sharded
from compression.training.trainer import train
from compression.training.work import NO_HOOKS, ONE_PROCESS, Processes, TrainingHooks, Work
from tests.compression.modalities.text.causal_lm.test_packed_examples import TASK, rows as packed
from tests.compression.training.conftest import WORK as STAGES_OF, Listener, checkpointer, resumed, state_before, weights
from tests.support import sharded_layers
from tests.support.tiny_language import model as language_model
from tests.support.tiny_maps import MapBatch, MapRows, Normalized, maps

ROOT = Path(__file__).parents[3]
RECIPE = Recipe(
    prepare=Prepare(epochs=2, rate=3e-3),
    quantize=Quantize(qat=Qat(full=1, ramp=0, quantized=1, rate=1e-3)),
    prune=Prune(ratio=0.5, multiple=8, calibration_rows=64, recovery=Recovery(epochs=2, rate=1e-3)),
    distill=Distill(epochs=2, rate=3e-3, hidden=1.0, attention=1.0, weighting="uncertainty"),
    train=Train(batch=63, max_length=32, precision="float32"),
)
"""320 rows in batches of 63: the last has five, of which the second process gets two."""
LOSS, WEIGHT = 2e-4, 1e-3
"""Tolerances: of losses relative, of weights absolute. A training moves weights by up to 7e-3 and 2e-2."""


RISING = count(1)
"""Scores of validation, in place of the true ones: the last epoch is the best, so its weights are those that stay."""


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Let one process sum in the order of two, which have a thread each."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ranks]:
    ranks = Ranks(2, tmp_path_factory.mktemp("ranks"))
    yield ranks
    ranks.close()


def silent(state: StageContext) -> StageContext:
    """Take out dropout, whose numbers are each process's own."""
    for module in state.model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    for key in ("hidden_dropout_prob", "attention_probs_dropout_prob"):
        setattr(state.model.config, key, 0.0)
    return state


@dataclass
class Done:
    """A stage that was done, with the loss of each of its steps."""

    state: StageContext
    losses: list[float] = field(default_factory=list)


def do(
    stage: Stage,
    processes: Processes,
    device: str = "cpu",
    *,
    hear: Callable[[Iterator[Event]], Any] = list,
    after: Callable[[int], None] = lambda _: None,
    **changes: Any,
) -> Done:
    """Do a stage, and keep its last weights. hear: takes its events; after: is called with the number of each step."""
    state = silent(state_before(stage, device, RECIPE))
    state.processes = processes
    for name, value in changes.items():
        setattr(state, name, value)
    done, usual = Done(state), state.train

    def train(*given: Any, **named: Any) -> Iterator[Any]:
        judge = named.pop("judge", None) or partial(validate, state.model, state.rows["validation"])
        named["judge"] = lambda: replace(judge(), score=float(next(RISING)))
        for news in (each := Returning(usual(*given, **named))):
            if isinstance(news, Step) and news.loss is not None and news.score is None:
                done.losses.append(news.loss)
                after(len(done.losses))
            yield news
        return each.result

    state.train = train  # type: ignore[method-assign,assignment]
    hear(STAGES_OF[stage](state))
    return done


def assert_near(ours: StageContext, theirs: StageContext) -> None:
    for one, other in zip(weights(ours), weights(theirs), strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=WEIGHT)


def check_same_losses(stage: Stage, two: Ranks, device: str = "cpu") -> None:
    # In the same parts: losses of features are means over tokens, so rows weigh a little otherwise among others.
    alone, together = do(stage, ONE_PROCESS, device, parts=2), do(stage, two, device)
    assert together.losses == pytest.approx(alone.losses, rel=LOSS)
    assert len(alone.losses) == 12
    assert_near(together.state, alone.state)
    assert {type(parameter) for parameter in together.state.model.parameters()} == {nn.Parameter}
    scores = [validate(one.state.model, one.state.rows["validation"]).score for one in (alone, together)]
    assert scores[0] == pytest.approx(scores[1], abs=0.02)


@pytest.mark.parametrize("stage", STAGES_OF)
def test_two_processes_have_the_losses_of_one(stage: Stage, two: Ranks) -> None:
    """Tuning, simulated integers layer by layer, layers that join, and features compared through learned projections."""
    check_same_losses(stage, two)


def taken_up(place: Path, first: dict[str, Any], then: dict[str, Any]) -> list[Done]:
    """Distil and save each step; return what goes on otherwise from a save in mid-epoch, and from the last one."""
    (place / "kept").mkdir(parents=True)
    listener = Listener(place / "kept")
    do("distilled", **first, hear=listener.hear, checkpointer=checkpointer(place))
    assert len(listener.saves) == 13
    return [do("distilled", **then, checkpointer=resumed(place, listener, number)) for number in (4, 13)]


@pytest.mark.parametrize(("first", "then"), [(2, 1), (1, 2)])
def test_what_some_processes_saved_others_take_up(first: int, then: int, two: Ranks, tmp_path: Path) -> None:
    """As one process in the same parts does; what is saved says in how many micro-batches batches go on, on each device."""
    alone, halves = {"processes": ONE_PROCESS}, {"processes": ONE_PROCESS, "parts": 2}
    ours: dict[int, dict[str, Any]] = {1: halves if first == 2 else alone, 2: {"processes": two}}
    wanted = taken_up(tmp_path / "alone", halves if first == 2 else alone, halves)
    found = taken_up(tmp_path / "together", ours[first], ours[then])
    assert [len(one.losses) for one in found] == [8, 0]
    for one, other in zip(found, wanted, strict=True):
        assert one.losses == pytest.approx(other.losses, rel=LOSS)
        assert_near(one.state, other.state)


def language_losses(processes: Processes, terms: set[str], parts: int = 2, teachers: int = 1) -> list[float]:
    """Train a decoder on its text, or on such terms against teachers that answer each batch or have answered before."""
    student, rows = language_model(initializer_range=0.02), packed()
    plan = TrainingConfig("distill", 1, 1e-3, 3, 0, parts=parts, accumulate=2, precision="float32", recompute=True)
    loss: Any = label_loss(TASK, student)
    hooks = TrainingHooks()
    if terms:
        settings = Distill(hidden=1.0, attention=1.0)
        each = [language_model(initializer_range=0.1 * (1 + number)).requires_grad_(False) for number in range(teachers)]
        teacher = each[0]
        comparison = FeatureAlignment.of(student, teacher, settings, terms, apart=False)
        if "soft" in terms:
            members = [Member(model, rows, 1.0 + number) for number, model in enumerate(each)]
            asked: Teacher = StatesTeacher.of(members, comparison.teacher, cache_file=None).asked()
        else:
            asked = Teacher(teacher, rows, comparison.teacher, logits=torch.zeros((len(rows), 0)))
        weigher = ScheduledWeights(dict.fromkeys(sorted(terms), (1.0, 1.0)))
        loss = DistillationObjective(student, asked, comparison, settings, rows, weigher=weigher)
        hooks = objective_hooks(loss, loss.before_step)
    ticks = train(student, plan, rows, rows, loss, hooks=hooks, budget=Budget(), processes=processes)
    return [tick.loss for tick in ticks if isinstance(tick, Step) and tick.loss is not None]


@pytest.mark.parametrize("terms", [set(), {"soft", "hard", "hidden", "attention"}, {"attention"}])
def test_two_processes_have_the_losses_of_one_for_a_decoder(
    two: Ranks, terms: set[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """By attention alone a backward pass begins within the last layer, whose output nothing reads."""
    monkeypatch.setattr(teachers, "TEACHER_BYTES", 0)
    wanted = language_losses(ONE_PROCESS, terms, parts=4)
    assert language_losses(two, terms) == pytest.approx(wanted, rel=LOSS)
    assert len(wanted) > 1


@pytest.mark.parametrize("room", [0, 1 << 30])
def test_several_teachers_of_a_decoder_are_sharded_each(two: Ranks, room: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Those that are asked for each batch, and those whose output layers alone are."""
    monkeypatch.setattr(teachers, "TEACHER_BYTES", room)
    terms, layers = {"soft", "hidden"}, sharded_layers.seen(monkeypatch)
    wanted = language_losses(ONE_PROCESS, terms, parts=4, teachers=3)
    assert language_losses(two, terms, teachers=3) == pytest.approx(wanted, rel=LOSS)
    assert layers
    assert all(one == [True] * 4 for one in layers)
    assert wanted != pytest.approx(language_losses(ONE_PROCESS, terms, parts=4), rel=LOSS)


def test_micro_batches_of_a_recipe_are_the_same_in_all_processes(two: Ranks) -> None:
    """And a loss that is a mean over rows is the same whatever is computed together."""
    train = RECIPE.train.model_copy(update={"micro_batch": 21, "checkpointing": "on", "compile": "auto"})
    recipe = RECIPE.model_copy(update={"train": train})
    alone, together = do("baseline", ONE_PROCESS), do("baseline", two, recipe=recipe)
    assert together.losses == pytest.approx(alone.losses, rel=LOSS)
    assert_near(together.state, alone.state)


def test_a_step_without_memory_ends_the_training_in_all_processes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first process alone would wait for ever if it began the step anew."""
    ranks, tried = Ranks(2, tmp_path), list[Any]()

    def loss(_: Sharded, batch: Any) -> torch.Tensor:
        tried.append(batch)
        raise torch.OutOfMemoryError("CUDA out of memory.")

    monkeypatch.setattr(Sharded, "loss", loss)
    try:
        with pytest.raises(torch.OutOfMemoryError):
            do("baseline", ranks)
        assert len(tried) == 1
        assert not ranks._children
    finally:
        ranks.close()


def test_a_process_that_ends_ends_the_training_and_the_next_starts_others(tmp_path: Path) -> None:
    ranks, killed = Ranks(2, tmp_path), list[subprocess.Popen[bytes]]()

    def kill(step: int) -> None:
        if step == 2:
            killed.extend(ranks._children)
            killed[0].kill()

    try:
        with pytest.raises(RankLost, match=r"process 1 of 2 .* SIGKILL"):
            do("baseline", ranks, after=kill)
        assert killed[0].poll() == -signal.SIGKILL
        assert len(do("baseline", ranks).losses) == 12
        (other,) = ranks._children
    finally:
        ranks.close()
    assert other.pid != killed[0].pid
    assert not psutil.pid_exists(other.pid)
    assert not list(tmp_path.glob("training-*"))


def stand_in(monkeypatch: pytest.MonkeyPatch, script: str) -> None:
    """Let a shell take the place of each further process."""

    def start(*_: Any, **__: Any) -> "subprocess.Popen[bytes]":
        return subprocess.Popen(["sh", "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE)

    monkeypatch.setattr(child_process, "start", start)


def test_a_process_that_ends_before_it_meets_the_others_is_missed_soon(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ranks, "JOIN_SECONDS", 0.5)
    stand_in(monkeypatch, "echo ready; read training; echo ready; exit 3")
    model, found = Normalized(), maps(4, 1)
    work = Work(model, TrainingConfig("prepare", 1, 1e-3, 4, 0), found, label_loss(found.task, model), NO_HOOKS, Budget())
    with pytest.raises(RankLost, match=r"process 1 of 2 .* ended with 3"), Ranks(2, tmp_path).joined(work):
        pass


def test_what_a_killed_engine_left_is_not_met(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An engine that is started again in the same folder counts its trainings from 1, too."""
    (tmp_path / "training-1.store").write_bytes(b"of processes that are gone")
    stand_in(monkeypatch, "echo ready; read training")
    started = Ranks(2, tmp_path)
    started._start(torch.device("cpu"), 1)
    left = [*tmp_path.glob("training-*")]
    started.close()
    assert not left


@pytest.mark.parametrize(("rank", "kept"), [(0, (5, 3)), (1, (0,))])
def test_only_the_first_process_keeps_what_it_saves(rank: int, kept: tuple[int, ...], tmp_path: Path) -> None:
    ranks.join_group(tmp_path / "store", 0, 1)
    try:
        part = object.__new__(Sharded)
        part.rank, part.device, part.mesh = rank, torch.device("cpu"), init_device_mesh("cpu", (1,))
        weight = distribute_tensor(torch.ones(5, 3), part.mesh, [Shard(0)])
        assert part.whole(weight, part.local(weight)).shape == kept
    finally:
        dist.destroy_process_group()


def test_the_first_process_judges_with_all_threads(two: Ranks) -> None:
    torch.set_num_threads(2)
    judged, stepped = list[int](), list[int]()

    def judge() -> Validation:
        judged.append(torch.get_num_threads())
        return Validation(next(RISING), 0.0)

    model, found = Normalized(), maps(8, 1)
    plan = TrainingConfig("prepare", 1, 1e-3, 4, 0, precision="float32")
    for _ in train(model, plan, found, judge, label_loss(found.task, model), processes=two):
        stepped.append(torch.get_num_threads())
    assert (judged, {*stepped}) == ([2, 2], {1})
    assert torch.get_num_threads() == 2


FIRST = """
import sys, time
from pathlib import Path
from compression.training.ranks import Ranks
from tests.compression.training.test_ranks import do

def told(step):
    print(ranks._children[0].pid, flush=True)
    time.sleep(600)

ranks = Ranks(2, Path(sys.argv[1]))
do("baseline", ranks, after=told)
"""


def test_no_process_outlives_the_first(tmp_path: Path) -> None:
    """Also if it is killed: the kernel ends its children."""
    command = [sys.executable, "-c", FIRST, str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT) as first:
        assert first.stdout is not None
        child = psutil.Process(int(first.stdout.readline()))
        first.kill()
        child.wait(60)


def test_running_statistics_are_the_mean_of_the_processes(two: Ranks, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each normalizes over its own rows, as micro-batches do; after a step all have the same statistics. A convolution's
    weights may lie in another order, which FSDP alone would refuse.
    """
    seen, usual = list[MapBatch](), MapRows.shuffled

    def heard(rows: MapRows, size: int, seed: int) -> Iterator[MapBatch]:
        for batch in usual(rows, size, seed):
            seen.append(batch)
            yield batch

    def network() -> Normalized:
        torch.manual_seed(0)
        return Normalized().to(memory_format=torch.channels_last).train()

    def statistics(model: Normalized) -> list[torch.Tensor]:
        return [buffer for buffer in saved_buffers(model) if buffer.is_floating_point()]

    monkeypatch.setattr(MapRows, "shuffled", heard)
    drawn = maps(64, 1)
    found = replace(drawn, pixels=drawn.pixels * torch.arange(64)[:, None, None, None])  # halves differ in both statistics
    model, plan = network().eval(), TrainingConfig("prepare", 1, 1e-3, 64, 0, precision="float32")
    rising = iter([Validation(0.0, 0.0), Validation(1.0, 0.0)])  # so that what the step left is what stays
    list(train(model, plan, found, lambda: next(rising), label_loss(found.task, model), processes=two))
    halves = []
    for half in seen[0].split(2):
        alone = network()
        alone(**half.inputs)
        halves.append(statistics(alone))
    together = statistics(model)
    assert (len(seen), len(together)) == (1, 2)
    for ours, one, other in zip(together, *halves, strict=True):
        assert not torch.allclose(one, other, rtol=0.01)
        torch.testing.assert_close(ours, (one + other) / 2, rtol=1e-5, atol=1e-5)
