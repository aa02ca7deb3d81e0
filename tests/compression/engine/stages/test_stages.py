"""The stages on a tiny model: each changes what it says it changes, and the student comes nearer to its teacher."""

from collections import Counter
from collections.abc import Callable, Iterable
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from torch.optim.optimizer import register_optimizer_step_pre_hook
from transformers import BertForSequenceClassification

from compression.distillation import teacher
from compression.engine import checkpoints
from compression.engine.checkpoints import StageCheckpoint
from compression.engine.context import StageContext
from compression.engine.stages.insert_quantization import calibration_rows, settle_ranges
from compression.engine.stages.quantize import depths, ordered, sensitivities, share, simulate_first
from compression.evaluation.validate import logits
from compression.models.adapters.registry import ENCODER_ADAPTERS
from compression.pruning.scores import score_units
from compression.quantization.dynamic_int8 import FakeQuantEmbedding, FakeQuantLinear
from compression.quantization.fake_quantize import DYNAMIC, remove_fake_quantization, simulation_of
from compression.quantization.precision import gradient_precision, has_bfloat16
from compression.schema.events import Event, Progress
from compression.schema.recipe.distill import TERMS, Distill, General
from compression.schema.recipe.prune import Prune, Recovery
from compression.schema.recipe.quantize import Qat, Quantize
from compression.schema.recipe.recipe import Prepare, Recipe, Train
from compression.schema.report.measurements import Shape
from tests.support.stage_runs import distill, prepare, prune, quantize
from tests.support.tiny_bert import apart, lesson_of, state_of

BERT = ENCODER_ADAPTERS["bert"]

TRAIN = Train(batch=16, max_length=32)
HALF = Prune(ratio=0.5, multiple=8, calibration_rows=64)


def scores_of(events: Iterable[Event]) -> list[float]:
    return [event.score for event in events if isinstance(event, Progress) and event.score is not None]


def prepared(model: BertForSequenceClassification, recipe: Recipe) -> StageContext:
    state = state_of(model, recipe)
    list(prepare(state))
    return state


def faked(model: BertForSequenceClassification) -> set[int]:
    kinds = (FakeQuantLinear, FakeQuantEmbedding)
    return {BERT.quantization_group(name) for name, module in model.named_modules() if isinstance(module, kinds)}


def make_loud(model: BertForSequenceClassification, deep: int, times: float) -> None:
    """In one layer, make a channel so loud that all others are rounded to nothing, and the same answers."""
    layer = BERT.layers(model)[deep]
    with torch.no_grad():
        for value in (layer.value.weight, layer.value.bias):
            value[7] *= times
        layer.attended.weight[:, 7] /= times
        layer.attended.weight *= 3


def spy_on_training(monkeypatch: pytest.MonkeyPatch, look: Callable[[BertForSequenceClassification], None]) -> None:
    forward = BertForSequenceClassification.forward

    def spy(self: BertForSequenceClassification, *args: object, **named: object) -> object:
        if torch.is_grad_enabled():
            look(self)
        return forward(self, *args, **named)

    monkeypatch.setattr(BertForSequenceClassification, "forward", spy)


def recovering(model: BertForSequenceClassification, recovery: Recovery) -> StageContext:
    return prepared(model, Recipe(prepare=Prepare(epochs=0), prune=HALF.model_copy(update={"recovery": recovery}), train=TRAIN))


def test_prepare_leaves_a_frozen_teacher_that_answers_alike(model: BertForSequenceClassification) -> None:
    state = prepared(model, Recipe(prepare=Prepare(epochs=3, rate=3e-3), train=TRAIN))
    assert not any(p.requires_grad for p in state.teacher.parameters())
    assert logits(state.teacher, state.rows["test"]).equal(logits(state.model, state.rows["test"]))
    before = logits(state.teacher, state.rows["test"])
    list(quantize(state))
    assert logits(state.teacher, state.rows["test"]).equal(before)
    assert not logits(state.model, state.rows["test"]).equal(before)


def test_no_teacher_is_kept_where_no_stage_asks_it(model: BertForSequenceClassification) -> None:
    untaught = Recipe(prepare=Prepare(epochs=0), quantize=None, distill=None, train=TRAIN)
    assert prepared(model, untaught).teacher is None
    for by in ("labels", "teacher"):
        cut = untaught.model_copy(update={"prune": Prune(recovery=Recovery(epochs=1, by=by))})
        assert (prepared(model, cut).teacher is not None) == (by == "teacher")


def test_the_share_of_quantized_layers_grows_in_phases() -> None:
    qat = Qat(full=2, ramp=3, quantized=2)
    assert [share(qat, epoch) for epoch in range(1, 8)] == [0, 0, 0.25, 0.5, 0.75, 1, 1]


def test_depths_are_quantized_in_their_order(model: BertForSequenceClassification) -> None:
    seen = []
    for part in (0.0, 0.25, 0.5, 0.75, 1.0, 0.25):
        simulate_first(model, part, [0, 2, 10_000, 1])
        seen.append(faked(model))
    assert seen == [set(), {0}, {0, 2}, {0, 2, 10_000}, {0, 1, 2, 10_000}, {0}]


def test_qat_quantizes_ever_more_depths_to_all(model: BertForSequenceClassification, monkeypatch: pytest.MonkeyPatch) -> None:
    make_loud(model, 0, 300)
    qat = Qat(full=1, ramp=3, quantized=1, rate=3e-3)
    state = prepared(model, Recipe(prepare=Prepare(epochs=0), quantize=Quantize(qat=qat, calibration_rows=32), train=TRAIN))
    found = sensitivities(model, calibration_rows(state), DYNAMIC)
    order = sorted(found, key=found.__getitem__)
    assert order != depths(model)
    seen: list[set[int]] = []
    spy_on_training(monkeypatch, lambda trained: seen.append(faked(trained)))
    scores = scores_of(quantize(state))
    assert len(scores) == qat.epochs
    epochs = [seen[start : start + 20] for start in range(0, len(seen), 20)]
    assert epochs == [[set(order[:count])] * 20 for count in range(5)]
    assert faked(state.model) == set(order)
    assert max(scores) > 0.8


def test_a_training_whose_best_epoch_had_no_integers_says_so(model: BertForSequenceClassification) -> None:
    def told(full: int, quantized: int) -> list[str]:
        qat = Qat(full=full, ramp=0, quantized=quantized, rate=3e-3)
        state = prepared(model, Recipe(prepare=Prepare(epochs=0), quantize=Quantize(qat=qat), train=TRAIN))
        list(quantize(state))
        return [note for note in state.notes if "one of the" in note]

    assert told(0, 1) == []
    assert told(1, 0) == ["That epoch is one of the 1 in full precision: training with integers brought nothing better."]


@pytest.mark.parametrize("deep", [0, 1])
def test_the_depth_that_bears_rounding_least_is_quantized_last(model: BertForSequenceClassification, deep: int) -> None:
    make_loud(model, deep, 3000)
    qat = Qat(full=0, ramp=3, quantized=0)
    state = state_of(model, Recipe(quantize=Quantize(qat=qat, calibration_rows=32)))
    order = ordered(state, qat)
    assert (sorted(order), order[-1]) == ([0, 1, 2, 10_000], deep + 1)
    assert f"layer {deep + 1} " in state.notes[-1].rsplit(",", 1)[1]
    assert faked(model) == {0, 1, 2, 10_000}
    assert ordered(state, qat.model_copy(update={"order": "depth"})) == [0, 1, 2, 10_000]


def test_a_static_model_is_calibrated_anew_when_it_was_cut(model: BertForSequenceClassification, tmp_path: Path) -> None:
    qat = Qat(full=0, ramp=1, quantized=1, rate=1e-3)
    static = Quantize(scheme="static-int8", calibration_rows=32, smoothing=0.5, qat=qat)
    state = prepared(model, Recipe(prepare=Prepare(epochs=2, rate=3e-3), quantize=static, prune=HALF, train=TRAIN))
    list(quantize(state))
    settle_ranges(state)
    before, names = simulation_of(state.model), set(state.model.state_dict())
    assert len(before.ranges) == len(state.result.ranges) == 14
    assert any(note.startswith("Smoothed with α = 0.5") for note in state.notes)
    list(prune(state))
    settle_ranges(state)
    after = simulation_of(state.model)
    assert set(after.ranges) == set(before.ranges)
    assert not set(after.ranges.values()) & set(before.ranges.values())
    assert set(state.model.state_dict()) == names
    # What a checkpoint keeps computes as the model does.
    answers = logits(state.model, state.rows["test"])
    kept = StageCheckpoint(
        fingerprint="x", stage="pruned", labels=("a", "b"), simulation=after, rows=(), artifacts=(), pruning=None, files=()
    )
    checkpoints.write(tmp_path, state.model, kept)
    again = checkpoints.open_model(tmp_path, checkpoints.read(tmp_path, "pruned", {"pruned": "x"}))
    assert logits(again, state.rows["test"]).equal(answers)
    remove_fake_quantization(again)
    assert not logits(again, state.rows["test"]).equal(answers)


@pytest.mark.parametrize("importance", ["l1", "l1_weight", "l2", "taylor"])
def test_units_that_say_nothing_are_cut_first(model: BertForSequenceClassification, importance: str) -> None:
    mute = [3, 17, 40]
    with torch.no_grad():
        for layer in BERT.layers(model):
            layer.up.weight[mute] = 0
            layer.up.bias[mute] = 0
            layer.down.weight[:, mute] = 0
            for part in (layer.query, layer.key, layer.value):
                part.weight[8:16] = 0
                part.bias[8:16] = 0
            layer.attended.weight[:, 8:16] = 0
    state = state_of(model, Recipe())
    settings = Prune(importance=importance, axes=("ffn",), calibration_rows=64)
    to = Shape(layers=2, hidden=32, heads=3, ffn=61, vocabulary=43)
    kept = score_units(model, settings, state.rows["train"], seed=0).choose(BERT, to)
    for layer in range(2):
        assert not set(mute) & set(kept.kept[f"ffn.{layer}"].tolist())
        assert kept.kept[f"heads.{layer}"].tolist() == [0, 2, 3]
    assert kept.kept["hidden"].tolist() == list(range(32))


def test_prune_makes_the_model_narrower_and_says_what_it_took(model: BertForSequenceClassification) -> None:
    state = prepared(model, Recipe(prepare=Prepare(epochs=0), prune=HALF, train=TRAIN))
    list(quantize(state))
    before = BERT.parameters_of(state.model).total
    list(prune(state))
    assert BERT.parameters_of(state.model).total < 0.6 * before
    assert faked(state.model) == {0, 1, 2, 10_000}
    assert state.result.pruning == {
        "hidden": {"before": 32, "after": 16, "asked": 0.5, "taken": 0.5},
        "heads": {"before": 4, "after": 2, "asked": 0.5, "taken": 0.5},
        "ffn": {"before": 64, "after": 32, "asked": 0.5, "taken": 0.5, "multiple": 8},
    }
    assert any("The cut alone" in note for note in state.notes)


@pytest.mark.parametrize("shallow_first", [True, False])
def test_recovery_moves_the_shallow_layers_first_where_the_recipe_says_so(
    model: BertForSequenceClassification, monkeypatch: pytest.MonkeyPatch, shallow_first: bool
) -> None:
    state = recovering(model, Recovery(epochs=2, rate=1e-3, shallow_first=shallow_first))
    learning: list[set[str]] = []
    spy_on_training(monkeypatch, lambda it: learning.append({name for name, p in it.named_parameters() if p.requires_grad}))
    list(prune(state))
    first, second = learning[:20], learning[20:]
    everything = {name for name, _ in state.model.named_parameters()}
    assert second == [everything] * 20
    shallow = {name for name in everything if "encoder.layer.0." in name}
    assert first == [shallow if shallow_first else everything] * 20
    assert all(p.requires_grad for p in state.model.parameters())


@pytest.mark.parametrize("adapt_l2", [True, False])
def test_the_l2_of_recovery_follows_validation_where_asked(model: BertForSequenceClassification, adapt_l2: bool) -> None:
    state = recovering(model, Recovery(epochs=5, rate=1e-2, adapt_l2=adapt_l2))
    decays: list[float] = []
    with register_optimizer_step_pre_hook(lambda optimizer, *_: decays.append(optimizer.param_groups[0]["weight_decay"])):
        scores = scores_of(prune(state))
    wanted = [TRAIN.decay]
    for before, after in pairwise(scores):
        factor = 1.0 if after == before or not adapt_l2 else 0.5 if after > before else 2.0
        wanted.append(wanted[-1] * factor)
    assert decays == [decay for decay in [TRAIN.decay, *wanted[:-1]] for _ in range(20)]
    assert (len(set(decays)) > 1) == adapt_l2


def test_every_training_has_its_own_patience(model: BertForSequenceClassification) -> None:
    still = {"epochs": 7, "rate": 1e-12}  # no weight moves, so no epoch is better than the model before it
    recipe = Recipe(
        prepare=Prepare(patience=1, **still),
        quantize=None,
        prune=HALF.model_copy(update={"recovery": Recovery(patience=2, **still)}),
        distill=Distill(patience=4, general=General(patience=5, **still), **still),
        train=Train(batch=320),
    )
    state = state_of(model, recipe)
    events = [event for stage in (prepare, prune, distill) for event in stage(state)]
    trained = Counter(event.phase for event in events if isinstance(event, Progress) and event.score is not None)
    # Of recovery the three epochs in which the shallow layers learn alone are not counted.
    assert trained == {"tune": 1, "recover": 3 + 2, "general": 5, "distill": 4}


@pytest.mark.parametrize("attention", [0.0, 1.0])
def test_the_student_comes_nearer_to_its_teacher(model: BertForSequenceClassification, attention: float) -> None:
    settings = Distill(epochs=4, rate=3e-3, hard=0.0, attention=attention)
    state = prepared(model, Recipe(prepare=Prepare(epochs=4, rate=3e-3), prune=HALF, distill=settings, train=TRAIN))
    list(quantize(state))
    list(prune(state))

    before = apart(state)
    fractions = [event.fraction for event in distill(state) if isinstance(event, Progress)]
    assert apart(state) < 0.5 * before
    assert faked(state.model) == {0, 1, 2, 10_000}
    assert fractions == sorted(fractions)


def test_a_teacher_too_large_for_memory_is_asked_again(
    model: BertForSequenceClassification, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    rows = state_of(model, Recipe()).rows["train"]
    batch = rows.batch([5, 0, 9])
    look = teacher.FeatureRequest((0, 1, 2), scores=(1, 2), relations=2)
    kept = teacher.Teacher(model, rows, look).asked()
    monkeypatch.setattr(teacher, "TEACHER_BYTES", 0)
    asked = teacher.Teacher(model, rows, look).asked()
    spilled = teacher.Teacher(model, rows, look, cache_file=(tmp_path / "states", kept.bytes)).asked()
    assert (kept.keeps, asked.keeps, spilled.keeps, spilled.on_disk) == (True, False, True, True)
    assert (tmp_path / "states").stat().st_size == kept.bytes
    assert not teacher.Teacher(model, rows, look, cache_file=(tmp_path / "more", kept.bytes - 1)).asked().keeps
    with gradient_precision("float32"):
        other = asked.outputs(batch)
    quick, mine, read = asked.outputs(batch), kept.outputs(batch), spilled.outputs(batch)
    if has_bfloat16(torch.device("cpu")):
        assert quick.hidden.dtype == torch.float32
        assert 0 < (quick.hidden - other.hidden).norm() < 0.02 * other.hidden.norm()
        assert torch.equal(quick.logits, other.logits), "they were asked once, in float32"
    direct = teacher.request_features(model, batch, rows.task, look)
    for name in ("logits", "hidden", "scores", "relations"):
        assert torch.allclose(getattr(mine, name), getattr(other, name), atol=5e-3)
        assert torch.equal(getattr(mine, name), getattr(read, name))
        padding = 0 if name in ("logits", "hidden") else (1 - batch.mask)[:, :, None] * getattr(direct, name)
        assert torch.allclose(getattr(mine, name), getattr(direct, name) - padding, atol=5e-3)
    spilled.close()
    assert not (tmp_path / "states").exists()
    with torch.autocast("cpu", torch.bfloat16):  # as a job without integers trains where the processor knows bfloat16
        assert torch.equal(kept.outputs(batch).hidden, mine.hidden)


@pytest.mark.parametrize("term", TERMS)
def test_every_weight_of_the_recipe_counts(model: BertForSequenceClassification, term: str) -> None:
    weights = dict.fromkeys(TERMS, 0.0)
    found = []
    for weight in (1.0, 2.0):
        settings = Distill(**{**weights, term: weight})
        state = prepared(model, Recipe(prepare=Prepare(epochs=0), prune=HALF, distill=settings))
        list(prune(state))
        rows = state.rows["train"]
        found.append(lesson_of(state, settings, rows)(rows.batch([0, 1, 2, 3])).item())
    assert found[0] > 0
    assert found[1] == pytest.approx(2 * found[0], rel=0.02)
