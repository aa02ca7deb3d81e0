"""A teacher in 8 bits: when it is held so, what it then answers, and what is forecast of it."""

from collections.abc import Iterator
from copy import deepcopy
from functools import cache, partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch
from transformers import BertForSequenceClassification, PreTrainedModel

from compression.distillation.teacher import FeatureRequest, Teacher
from compression.engine import training_memory
from compression.engine.context import StageContext
from compression.engine.stages import distill as distill_stage, teacher_precision
from compression.engine.stages.task_training import NamedTraining
from compression.evaluation.validate import Validation, logits
from compression.models import linear_layers
from compression.models.linear_layers import is_linear
from compression.planning.estimator import Counted, PlannedJob
from compression.planning.memory import TRAINED_BYTES, trainings
from compression.planning.preflight import preflight
from compression.planning.training_work import asks_in_float32
from compression.quantization import frozen_int8, precision
from compression.quantization.dynamic_int8 import integer_rows
from compression.quantization.frozen_int8 import freeze_int8
from compression.quantization.moe_layers import fused_expert_modules
from compression.schema.errors import TrainingDiverged
from compression.schema.events import Event, Log
from compression.schema.recipe.distill import Distill, General, Teachers
from compression.schema.recipe.prune import Prune, Recovery
from compression.schema.recipe.quantize import Qat, Quantize
from compression.schema.recipe.recipe import Evaluate, JobEvaluate, Prepare, Recipe, Train
from compression.schema.report.measurements import Parameters
from compression.system import memory
from compression.training import trainer
from compression.training.save import TrainingCheckpointer
from tests.compression.engine.stages.test_distill import TRAIN, deep, paused_at
from tests.compression.planning.test_planning import DATA, MODEL
from tests.support import decoder_models as decoders
from tests.support.stage_runs import distill, prepare, prune
from tests.support.tiny_bert import state_of, tiny_config


@cache
def tuned() -> BertForSequenceClassification:
    state = state_of(deep(), Recipe(prepare=Prepare(epochs=3, rate=3e-3), train=TRAIN))
    list(prepare(state))
    assert state.validate().score > 0.95
    return deepcopy(state.model)


def untaught(recipe: Recipe) -> StageContext:
    """A student of two layers that knows nothing, beside a teacher that knows the task."""
    torch.manual_seed(5)
    state = state_of(BertForSequenceClassification(tiny_config(num_labels=2)).eval(), recipe)
    state.teacher = deepcopy(tuned()).requires_grad_(False)
    return state


def taught(distillation: Distill, **changes: object) -> tuple[StageContext, list[object]]:
    state = untaught(Recipe(distill=distillation, train=TRAIN))
    for name, value in changes.items():
        setattr(state, name, value)
    return state, list(distill(state))


def same(one: StageContext, other: StageContext) -> bool:
    return all(mine.equal(theirs) for mine, theirs in zip(one.model.parameters(), other.model.parameters(), strict=True))


def test_a_new_attempt_holds_the_teacher_as_the_one_before_and_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("compression.system.progress.SECONDS_BETWEEN", 0.0)
    monkeypatch.setattr("compression.distillation.teacher.TEACHER_BYTES", 0)
    room = 0
    monkeypatch.setattr(memory, "available", lambda: room)
    asked = Distill(epochs=2, rate=3e-3, hidden=1.0)
    whole, _ = taught(asked)
    kept = paused_at(untaught(Recipe(distill=asked, train=TRAIN)), tmp_path / "tight", "distill", 25)
    room = 1 << 40
    again, _ = taught(asked, checkpointer=_resuming(tmp_path / "tight", kept))
    assert same(again, whole)
    assert again.notes == whole.notes
    # The other way round there is no room any more for what was there before.
    kept = paused_at(untaught(Recipe(distill=asked, train=TRAIN)), tmp_path / "roomy", "distill", 25)
    room = 0
    later, _ = taught(asked, checkpointer=_resuming(tmp_path / "roomy", kept))
    assert sum(note.startswith(teacher_precision.NOTE) for note in later.notes) == 1
    assert [note.split(":")[1].split(",")[0] for note in later.notes if "other room" in note] == [
        " for a part of it the teacher was asked with its weights in 8 bits"
    ]


def test_attempts_that_had_room_for_the_states_and_had_none_say_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("compression.system.progress.SECONDS_BETWEEN", 0.0)
    monkeypatch.setattr("compression.distillation.teacher.TEACHER_BYTES", 0)
    asked = Distill(epochs=2, rate=3e-3, hidden=1.0, teachers=Teachers(precision="float32"))

    def attempt(number: int, room: int, step: int | None) -> StageContext:
        """Go on where the attempt before was stopped. step: at which this one is stopped."""
        state = untaught(Recipe(distill=asked, train=TRAIN))
        state.scratch, state.cache_bytes = tmp_path / "scratch", room
        before = tmp_path / str(number - 1) if number else None
        if step is not None:
            paused_at(state, tmp_path / str(number), "distill", step, before)
            return state
        if before is not None:
            state.checkpointer = _resuming(tmp_path / str(number), before)
        list(distill(state))
        return state

    assert not any("other room" in note for note in attempt(0, 1 << 40, None).notes)
    attempt(0, 1 << 40, 10)
    attempt(1, 0, 25)
    (told,) = [note for note in attempt(2, 0, None).notes if "other room" in note]
    assert "the teacher was asked anew in each epoch, for another it was not" in told


@pytest.mark.parametrize("train", ["auto", "bfloat16", "float32"])
@pytest.mark.parametrize("teachers", ["auto", "float32", "int8"])
def test_a_forecast_knows_how_a_card_asks_teachers(train: Any, teachers: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(teacher_precision, "has_bfloat16", lambda _: True)
    recipe = Recipe(distill=Distill(teachers=Teachers(precision=teachers)), train=Train(precision=train))
    context: Any = SimpleNamespace(recipe=recipe, device=torch.device("cuda"))
    assert recipe.distill is not None
    assert teacher_precision.asks_in_half(context, recipe.distill) != asks_in_float32(recipe)


def _resuming(folder: Path, kept: Path) -> TrainingCheckpointer:
    checkpointer = TrainingCheckpointer(folder / "second", "work", resume=kept)
    assert checkpointer.look() is None
    return checkpointer


def _bytes(model: PreTrainedModel) -> int:
    tensors = {tensor.data_ptr(): tensor for tensor in [*model.parameters(), *model.buffers()]}
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors.values())


@pytest.mark.parametrize("kind", ["llama", "qwen2", "gpt2", "deepseek_v2", "deepseek_v3"])
@torch.no_grad()
def test_a_held_model_answers_as_one_of_rounded_weights(kind: str) -> None:
    model, rounded = (decoders.tiny(kind, hidden_size=64) if kind != "gpt2" else decoders.tiny(kind) for _ in range(2))
    rounded.load_state_dict(model.state_dict())
    ids = torch.arange(40).view(2, 20)
    whole = model(input_ids=ids).logits
    # The output layer, tied or not, makes the answers of states that are kept in float32.
    whole_ones = [*(m for m in rounded.modules() if isinstance(m, torch.nn.Embedding)), rounded.get_output_embeddings()]
    tables = {id(m.weight) for m in whole_ones}
    count = 0
    for module in rounded.modules():
        if is_linear(module) and id(module.weight) not in tables:
            matrix = linear_layers.matrix(module)
            values, scale = integer_rows(matrix)
            matrix.copy_(values * scale)
            count += values.numel()
    for _, experts in fused_expert_modules(rounded):
        for name in ("gate_up_proj", "down_proj"):
            values, scale = integer_rows(experts.get_parameter(name))
            experts.get_parameter(name).copy_(values * scale)
            count += values.numel()
    with pytest.raises(ValueError, match="trained"):
        freeze_int8(model.requires_grad_(True))
    before = _bytes(model)
    assert freeze_int8(model.requires_grad_(False)) == count
    said = model(input_ids=ids).logits
    assert torch.allclose(said, rounded(input_ids=ids).logits, atol=1e-5, rtol=1e-4)
    assert 0 < (said - whole).abs().max() < 0.1 * whole.abs().max()
    assert -0.5 * count < before - _bytes(model) - 3 * count <= 0  # four bytes became one, and a scale a row


def test_a_teacher_is_held_in_8_bits_where_memory_asks_for_it(monkeypatch: pytest.MonkeyPatch) -> None:
    # It is asked again in each epoch for what is compared.
    monkeypatch.setattr("compression.distillation.teacher.TEACHER_BYTES", 0)
    whole, _ = taught(Distill(epochs=3, rate=3e-3, hidden=1.0))
    need = teacher_precision.needed(whole)
    monkeypatch.setattr(memory, "available", lambda: need + 1)
    roomy, _ = taught(Distill(epochs=3, rate=3e-3, hidden=1.0))
    assert not [note for note in roomy.notes if "8 bits" in note]
    monkeypatch.setattr(memory, "available", lambda: need - 1)
    tight, _ = taught(Distill(epochs=3, rate=3e-3, hidden=1.0))
    (said,) = [note for note in tight.notes if "8 bits" in note]
    assert "GiB more" in said
    held = [m for m in tight.teacher.modules() if torch.nn.utils.parametrize.is_parametrized(m)]
    assert len(held) == sum(is_linear(module) for module in tuned().modules())
    floats, _ = taught(Distill(epochs=3, rate=3e-3, hidden=1.0, teachers=Teachers(precision="float32")))
    assert same(floats, whole)
    assert not same(tight, whole)
    given, wanted = (logits(state.model, state.rows["test"]).softmax(-1) for state in (tight, whole))
    assert (given - wanted).abs().max() < 0.05
    monkeypatch.setattr(memory, "available", lambda: None)
    asked, _ = taught(Distill(epochs=3, rate=3e-3, hidden=1.0, teachers=Teachers(precision="int8")))
    assert same(asked, tight)
    assert any("as the recipe says" in note for note in asked.notes)
    # The engine is stopped at a limit of its own, which may be nearer than the machine's.
    limited, _ = taught(Distill(epochs=3, rate=3e-3, hidden=1.0), memory=memory.resident() + 1000)
    assert same(limited, tight)


def test_a_teacher_that_is_asked_again_is_whole_after_a_training_that_diverges(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def diverges(*_: object) -> Iterator[Event]:
        yield Log(message="It trains.")
        assert any(map(torch.nn.utils.parametrize.is_parametrized, state.teacher.modules()))
        raise TrainingDiverged("the loss is not finite")

    monkeypatch.setattr(distill_stage, "train_task", diverges)
    monkeypatch.setattr(distill_stage, "NamedTraining", partial(NamedTraining, again=True))
    asked = Distill(epochs=1, hidden=1.0, teachers=Teachers(precision="int8"))
    state = untaught(Recipe(distill=asked, train=TRAIN))
    state.scratch, whole = tmp_path, deepcopy(state.teacher).state_dict()
    with pytest.raises(TrainingDiverged):
        list(distill(state))
    now = state.teacher.state_dict()
    assert now.keys() == whole.keys()
    assert all(value.equal(now[name]) for name, value in whole.items())


def test_what_training_needs_is_no_less_than_what_it_holds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(training_memory, "step_bytes", lambda *_, **__: 0)
    held, judged = list[int](), trainer._Run.judged

    def counted(run: trainer._Run, now: Validation) -> float:
        found = judged(run, now)
        moments = [moment for of in run.optimizer.state.values() for moment in (of["exp_avg"], of["exp_avg_sq"])]
        held.append(sum(4 * part.numel() for part in (*run.good, *run.best_weights, *moments, *run.parameters)))
        return found  # of the parameters, their gradients are meant

    monkeypatch.setattr(trainer._Run, "judged", counted)
    state, _ = taught(Distill(epochs=1, rate=3e-3, hidden=0.0))
    assert held[-1] <= teacher_precision.needed(state) < 1.2 * held[-1]


def test_what_is_asked_once_is_asked_before_the_teacher_is_rounded(monkeypatch: pytest.MonkeyPatch) -> None:
    def ruined(model: torch.nn.Module) -> int:
        for parameter in model.parameters():
            parameter.zero_()
        return 1

    monkeypatch.setattr(frozen_int8, "freeze_int8", ruined)
    state, _ = taught(Distill(epochs=2, rate=3e-3, teachers=Teachers(precision="int8")))
    monkeypatch.undo()
    assert same(state, taught(Distill(epochs=2, rate=3e-3))[0])


@pytest.mark.parametrize(
    ("teachers", "train", "device", "half"),
    [
        ("auto", "auto", "cuda", True),
        ("int8", "bfloat16", "cuda", True),
        ("float32", "auto", "cuda", False),
        ("auto", "float32", "cuda", False),
        ("auto", "auto", "cpu", False),
    ],
)
def test_teachers_are_asked_in_bfloat16_on_a_card_alone(
    teachers: Any, train: Any, device: str, half: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(teacher_precision, "has_bfloat16", lambda _: True)
    context = cast(StageContext, SimpleNamespace(device=torch.device(device), recipe=Recipe(train=Train(precision=train))))
    assert teacher_precision.asks_in_half(context, Distill(teachers=Teachers(precision=teachers))) == half


def test_what_is_asked_in_bfloat16_is_nearly_what_float32_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(precision, "has_bfloat16", lambda _: True)
    rows = state_of(tuned(), Recipe()).rows["test"]
    look = FeatureRequest(states=(1,))
    exact, half = (Teacher(tuned(), rows, look, half=half).asked() for half in (False, True))
    assert not exact.logits.equal(half.logits)
    assert (exact.logits.softmax(-1) - half.logits.softmax(-1)).abs().max() < 0.02
    batch = rows.batch([0, 1, 2])
    moved = (exact.outputs(batch).hidden - half.outputs(batch).hidden).square().mean()
    assert 0 < moved < 1e-3 * exact.outputs(batch).hidden.square().mean()


def test_room_is_what_the_nearer_limit_leaves(tmp_path: Path) -> None:
    for name, text in (("memory.max", "5000\n"), ("memory.current", "3000\n"), ("memory.stat", "anon 1\ninactive_file 500\n")):
        (tmp_path / name).write_text(text)
    assert memory._of_group(tmp_path) == 2500
    own, inner = tmp_path / "own", tmp_path / "outer" / "inner"  # as a unit of systemd is in a slice
    own.write_text("0::/outer/inner\n")
    inner.mkdir(parents=True)
    for name, text in (("memory.max", "900\n"), ("memory.current", "200\n"), ("memory.stat", "anon 1\n")):
        (inner / name).write_text(text)
    assert memory._of_group(tmp_path, own) == 700
    (inner / "memory.max").write_text("max\n")
    assert memory._of_group(tmp_path, own) == 2500
    (tmp_path / "memory.max").write_text("max\n")
    assert memory._of_group(tmp_path) is None
    assert memory._of_group(tmp_path / "none") is None
    assert 0 < memory.available() < 1 << 50


def test_a_teacher_in_8_bits_is_forecast_where_nothing_larger_is_trained() -> None:
    def forecast(precision: str, epochs: int) -> int:
        recipe = Recipe(prepare=Prepare(epochs=epochs), distill=Distill(teachers=Teachers(precision=precision)))
        return preflight(MODEL, DATA, recipe, Evaluate()).estimate.memory_bytes

    assert forecast("int8", 0) == forecast("auto", 0) < forecast("float32", 0)
    assert forecast("int8", 3) == forecast("float32", 3)


def test_what_is_trained_beside_a_teacher_in_float32_is_forecast_so() -> None:
    def bytes_of(
        prune: Prune | None = None, general: General | None = None, spoken: int = 0, recipe: Recipe | None = None
    ) -> dict[str, int]:
        recipe = recipe or Recipe(prepare=Prepare(epochs=0), quantize=None, prune=prune, distill=Distill(general=general))
        sizes = (Parameters(total=total, embedding=20, other=total - 20) for total in (100, 60))
        before, after = (Counted(MODEL.shape, each, spoken=spoken) for each in sizes)
        found = trainings(PlannedJob(before, after, DATA, recipe, JobEvaluate()), "cpu")
        return {one.name: one.weights + one.gradients + one.teachers for one in found}

    assert TRAINED_BYTES == 24
    nothing = Recipe(prepare=Prepare(epochs=0), quantize=None, prune=Prune(), distill=None)
    assert bytes_of(recipe=nothing) == {}
    unasked = nothing.model_copy(update={"prune": Prune(recovery=Recovery())})  # by labels, and nobody distils
    assert bytes_of(recipe=unasked) == {"recover": 24 * 60}
    assert bytes_of(recipe=nothing.model_copy(update={"prepare": Prepare()})) == {"tune": 24 * 100}
    student = 24 * 60 + 80 + 4 * 20  # tables are not held in 8 bits
    assert bytes_of(recipe=Recipe()) == {"tune": 24 * 100, "distill": student}  # the teacher is the tuned model's copy
    assert bytes_of(recipe=Recipe(quantize=Quantize(qat=Qat())))["qat"] == 28 * 100
    assert bytes_of() == {"distill": student}
    assert bytes_of(spoken=30) == {"distill": 24 * 60 + 50 + 4 * (20 + 30)}  # nor is a language model's output layer
    assert bytes_of(general=General()) == {"general": 24 * 60 + 400, "distill": student}
    assert bytes_of(general=General(teacher="base"))["general"] == 24 * 60 + 2 * 400
    assert bytes_of(Prune(recovery=Recovery()))["recover"] == 24 * 60 + 400
    assert bytes_of(Prune(recovery=Recovery(by="teacher")))["recover"] == student  # held in 8 bits there too
    assert bytes_of(Prune(recovery=Recovery(), steps=2))["recover"] == 24 * 77 + 400  # what is left after the first of two cuts


def test_what_recovery_asks_of_the_teacher_is_forecast() -> None:
    def minutes(by: str, steps: int) -> float:
        prune = Prune(steps=steps, recovery=Recovery(epochs=3, by=by))
        many = DATA.model_copy(update={"rows": {**DATA.rows, "train": 1_000_000}})
        return preflight(MODEL, many, Recipe(prune=prune), Evaluate()).estimate.minutes

    asked = minutes("teacher", 1) - minutes("labels", 1)
    assert asked > 0
    assert minutes("teacher", 3) - minutes("labels", 3) == pytest.approx(3 * asked, rel=0.01)


def test_recovery_by_the_teacher_learns_its_answers_after_each_cut() -> None:
    settings = Prune(ratio=0.5, steps=2, multiple=8, calibration_rows=32, recovery=Recovery(epochs=4, rate=3e-3, by="teacher"))
    recipe = Recipe(prepare=Prepare(epochs=0), quantize=None, prune=settings, distill=None, train=TRAIN)
    state = state_of(deepcopy(tuned()), recipe)
    state.rows["train"].labels[:] = 0  # labels that lie: nobody may look at them
    list(prepare(state))
    list(prune(state))
    said = [note for note in state.notes if "taught by the baseline's answers" in note]
    assert [note.split(",")[1].split(" of")[0].strip() for note in said] == ["step 1", "step 2"]
    given, wanted = (logits(model, state.rows["test"]) for model in (state.model, state.teacher))
    assert (given.argmax(-1) == wanted.argmax(-1)).float().mean() > 0.9
    assert 0 < wanted.argmax(-1).float().mean() < 1
