"""The cut: which layers go, what a target comes to, steps, and curves that cost no pass."""

from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from transformers import BertForSequenceClassification, PreTrainedModel

from compression.engine.context import StageContext, unpredicted
from compression.engine.stages.prune import _saved, unit_scores
from compression.engine.stages.recover import phases
from compression.evaluation.validate import logits
from compression.models.adapters.registry import ENCODER_ADAPTERS, adapter_of
from compression.models.architectures.families import ARCHITECTURE_SPECS
from compression.planning.device_times import ShapeTimes
from compression.pruning import scores
from compression.pruning.prune_progress import PruneProgress
from compression.quantization.fake_quantize import insert_fake_quantization
from compression.quantization.precision import gradient_precision
from compression.schema.events import Event, Log, Progress
from compression.schema.recipe.base import Axis, Precision
from compression.schema.recipe.distill import Distill
from compression.schema.recipe.prune import Prune, Recovery, TargetLatency
from compression.schema.recipe.recipe import Prepare, Recipe, Train
from compression.schema.report.measurements import Latency, NotMeasured
from tests.client.figures import row
from tests.support import decoder_models
from tests.support.device_tables import made_table
from tests.support.stage_runs import distill, prepare, prune, quantize
from tests.support.tiny_bert import WORDS, state_of, tiny_config

BERT = ENCODER_ADAPTERS["bert"]

TRAIN = Train(batch=16, max_length=32)


def deep() -> BertForSequenceClassification:
    torch.manual_seed(0)
    return BertForSequenceClassification(tiny_config(num_labels=2, num_hidden_layers=3)).eval()


def cut(
    settings: Prune,
    model: PreTrainedModel | None = None,
    *,
    simulated: bool = True,
    timed: Any = None,
    device_times: Any = unpredicted,
) -> tuple[StageContext, list[Event]]:
    recipe = Recipe(prepare=Prepare(epochs=0), prune=settings, distill=Distill(epochs=1), train=TRAIN)
    state = state_of(model or deep(), recipe)
    state.timed, state.device_times = timed, device_times
    list(prepare(state))
    if simulated:
        list(quantize(state))
    return state, list(prune(state))


def test_the_layer_that_changes_nothing_goes_and_no_answer_with_it() -> None:
    model = deep()
    with torch.no_grad():
        idle = BERT.layers(model)[1]
        for part in (idle.attended, idle.down):
            part.weight.zero_()
            part.bias.zero_()
    before = logits(model, state_of(model, Recipe()).rows["test"])
    state, _ = cut(Prune(ratio={"layers": 0.3}), model, simulated=False)
    assert state.model.config.num_hidden_layers == 2
    assert state.result.pruning["layers"] == {"before": 3, "after": 2, "asked": 0.3, "taken": pytest.approx(1 / 3)}
    assert state.result.pruning["ffn"]["taken"] == 0
    # Of the layer nothing is left but that its norms were applied to what they had normalized before.
    assert torch.allclose(logits(state.model, state.rows["test"]), before, atol=1e-4)
    list(distill(state))  # which compares its layers with a teacher's that has one more
    assert logits(state.model, state.rows["test"]).isfinite().all()


def test_each_axis_has_its_own_ratio() -> None:
    state, _ = cut(Prune(ratio={"hidden": 0.25, "ffn": 0.5, "layers": 0.6}, multiple=8))
    shape = BERT.shape_of(state.model.config)
    assert (shape.hidden, shape.heads, shape.ffn, shape.layers) == (24, 3, 32, 1)


@pytest.mark.parametrize("target", [0.3, 22_000])
def test_the_mildest_cut_that_has_so_few_parameters_is_taken(target: float) -> None:
    state, _ = cut(Prune(axes=("ffn",), target_params=target, multiple=1))
    whole, left = (BERT.parameters_of(deep()).total, BERT.parameters_of(state.model).total)
    most = target if target > 1 else (1 - target) * whole
    assert left <= most
    assert left > most - 2 * 65 * 3  # a hundredth less, which is one unit of 65 parameters in each layer, is too little
    assert state.result.pruning["ffn"]["asked"] == pytest.approx(state.result.pruning["ffn"]["taken"], abs=0.01)


def test_the_mildest_cut_that_is_so_fast_is_found_with_few_measurements() -> None:
    asked: list[tuple[int, int]] = []

    def timed(model: BertForSequenceClassification) -> Latency | NotMeasured:
        shape = BERT.shape_of(model.config)
        asked.append((shape.layers, shape.ffn))
        return row("pruned", 1, 1, 2.0 * shape.layers + 0.1 * shape.ffn, 0.5).latency  # the baseline's is 16 ms

    settings = Prune(axes=("ffn", "layers"), multiple=8, target_latency=TargetLatency(speed_up=2.1))
    state, events = cut(settings, timed=timed)
    shape = BERT.shape_of(state.model.config)
    assert (shape.layers, shape.ffn) == (2, 32)  # 7.2 ms; 2 and 40 would take 8.0, and 7.6 are allowed
    assert len(asked) <= 4
    assert len([event for event in events if isinstance(event, Log)]) == len(asked)
    assert any("target_latency (2.1 times as fast)" in note for note in state.notes)
    settings = Prune(axes=("ffn", "layers"), multiple=8, target_latency=TargetLatency(milliseconds=0.1))
    state, events = cut(settings, timed=timed)
    assert state.model.config.num_hidden_layers == 1
    deepest = max(axis["asked"] for axis in state.result.pruning.values())
    warned = [event.message for event in events if isinstance(event, Log) and event.level == "warning"]
    assert any("out of reach" in message and f"(ratio {deepest:g})" in message for message in warned)


def test_a_device_table_says_where_to_look_first_and_both_sides_are_timed() -> None:
    asked: list[int] = []
    table = made_table(lambda layer, *_: layer.work / 1000)

    def predicted() -> Iterator[Event]:
        yield from ()
        return ShapeTimes(table, ARCHITECTURE_SPECS["bert"], None, 32)

    def timed(model: BertForSequenceClassification) -> Latency | NotMeasured:
        asked.append(BERT.shape_of(model.config).ffn)
        # Slower than predicted by a tenth, against the baseline's time.
        ms = [1.1 * ShapeTimes(table, ARCHITECTURE_SPECS["bert"], None, 32).milliseconds(BERT.shape_of(each), None)
              for each in (model.config, deep().config)]  # fmt: skip
        return row("pruned", 1, 1, 16 * ms[0] / ms[1], 0.5).latency

    settings = Prune(axes=("ffn",), multiple=1, target_latency=TargetLatency(speed_up=1.03))
    found = {}
    for device_times in (unpredicted, predicted):
        asked.clear()
        state, _ = cut(settings, timed=timed, simulated=False, device_times=device_times)
        found[device_times] = BERT.shape_of(state.model.config).ffn, len(asked)
    assert found[predicted][0] == found[unpredicted][0]
    assert found[predicted][1] <= 3 < found[unpredicted][1]
    taken = found[predicted][0]
    assert {taken, taken + 1} <= {*asked}  # the shape that is taken and the milder one are measured
    assert any("device table told where to look first" in note for note in state.notes)


def test_steps_come_to_the_same_shape_and_recover_in_between(monkeypatch: pytest.MonkeyPatch) -> None:
    passes: list[None] = []
    plain = scores.score_activations
    monkeypatch.setattr(scores, "score_activations", lambda *given, **named: passes.append(None) or plain(*given, **named))
    settings = Prune(ratio=0.5, multiple=8, steps=2, calibration_rows=64, recovery=Recovery(epochs=3, rate=1e-3))
    assert phases(settings) == [("recover, step 1 of 2", 1), ("recover, step 2 of 2", 2)]
    widths: set[tuple[int, int]] = set()
    forward = BertForSequenceClassification.forward

    def spy(self: BertForSequenceClassification, *given: object, **named: object) -> object:
        if torch.is_grad_enabled():
            widths.add((self.config.num_attention_heads, self.config.intermediate_size))
        return forward(self, *given, **named)

    monkeypatch.setattr(BertForSequenceClassification, "forward", spy)
    state, events = cut(settings)
    assert widths == {(3, 48), (2, 32)}  # √½ is left of each axis, then ½
    assert len(passes) == 1
    shape = BERT.shape_of(state.model.config)
    assert (shape.hidden, shape.heads, shape.ffn) == (16, 2, 32)
    trained = [event for event in events if isinstance(event, Progress) and event.score is not None]
    assert [event.phase for event in trained] == ["recover, step 1 of 2", *["recover, step 2 of 2"] * 2]
    told = [note for step in (1, 2) for note in (f"Cut {step} of 2 alone", f"Recovery, step {step} of 2")]
    assert [note.split(":")[0] for note in state.notes[-4:]] == told


def test_scores_that_an_earlier_version_saved_in_part_are_not_gone_on_from() -> None:
    settings = Prune(calibration_rows=16)
    state = state_of(deep(), Recipe(prune=settings, train=TRAIN))
    progress = PruneProgress(unit_scores(state, settings), (0.25, 0.5, 0.75), {"classifier": (-1.5, 2.0)})

    def found(tensors: dict[str, torch.Tensor]) -> tuple[int, PruneProgress | None]:
        state.checkpointer = SimpleNamespace(is_at=lambda phase: phase == "second", beside=lambda: tensors)
        return _saved(state, ["first", "second"])

    step, again = found(progress.tensors())
    assert step == 2
    assert (again.ratios, again.ranges) == (progress.ratios, progress.ranges)
    assert all(again.scores.units[name].equal(score) for name, score in progress.scores.units.items())
    for lost in ("compared", "values", "hidden", "ratios"):
        assert found({name: score for name, score in progress.tensors().items() if lost not in name}) == (2, None)


@pytest.mark.parametrize("precision", ["auto", "float32"])
def test_what_the_loss_would_change_is_in_the_recipes_precision(monkeypatch: pytest.MonkeyPatch, precision: Precision) -> None:
    monkeypatch.setattr("compression.quantization.precision.has_bfloat16", lambda device: True)
    settings, train = Prune(importance="taylor", calibration_rows=16), TRAIN.model_copy(update={"precision": precision})
    state = state_of(deep(), Recipe(prune=settings, train=train))
    insert_fake_quantization(state.model)
    with gradient_precision("float32"):
        exact = scores.score_units(state.model, settings, state.rows["train"], train.seed).tensors()
    found: list[scores.ImportanceScores] = []
    plain = scores.score_units
    noted = "compression.engine.stages.prune.score_units"
    monkeypatch.setattr(noted, lambda *given, **named: found.append(plain(*given, **named)) or found[0])
    list(prune(state))
    assert all(exact[name].equal(score) for name, score in found[0].tensors().items()) == (precision == "float32")


@pytest.mark.parametrize(("kind", "axis"), [("llama", "heads"), ("deepseek_v3", "query_rank"), ("deepseek_v3", "kv_rank")])
def test_a_decoder_s_curves_include_the_axis_that_is_cut(kind: str, axis: Axis) -> None:
    def made() -> PreTrainedModel:
        return decoder_models.tiny(kind, "ForSequenceClassification", num_labels=2, vocab_size=len(WORDS), pad_token_id=0)

    state, _ = cut(Prune(ratio=0.5, axes=(axis,), multiple=8, calibration_rows=64, sensitivity=True), made())
    (half,) = [point for point in state.result.sensitivity[axis] if point.ratio == 0.5]
    assert half.taken == state.result.pruning[axis]["taken"] > 0
    assert half.score == state.validate().score
    assert half.parameters == adapter_of(state.model).parameters_of(state.model).total


def test_curves_are_drawn_from_the_scores_that_are_there() -> None:
    plain, _ = cut(Prune(ratio=0.5, multiple=8, calibration_rows=64))
    state, _ = cut(Prune(ratio=0.5, multiple=8, calibration_rows=64, sensitivity=True))
    assert not plain.result.sensitivity
    assert set(state.result.sensitivity) == {"hidden", "ffn", "layers"}
    whole = BERT.parameters_of(deep()).total
    for axis, curve in state.result.sensitivity.items():
        assert (curve[0].ratio, curve[0].taken, curve[0].parameters) == (0, 0, whole), axis
        assert [point.ratio for point in curve[1:]] == [0.1, 0.2, 0.3, 0.4, 0.5, 0.6]
        assert [point.parameters for point in curve] == sorted((point.parameters for point in curve), reverse=True)
        assert curve[-1].parameters < whole
    # Where hidden goes alone, so does its curve: all heads stay in it.
    narrower, _ = cut(Prune(ratio=0.5, axes=("hidden",), calibration_rows=64, sensitivity=True))
    (half,) = [point for point in narrower.result.sensitivity["hidden"] if point.ratio == 0.5]
    assert (half.taken, half.score) == (0.5, narrower.validate().score)
    assert narrower.model.config.num_attention_heads == 4
    # The rows of validation are fewer than the curve would draw, so its half of the layers is the cut's own score.
    alone, _ = cut(Prune(ratio={"ffn": 0.5}, multiple=8, calibration_rows=64))
    (half,) = [point for point in state.result.sensitivity["ffn"] if point.ratio == 0.5]
    assert half.score == alone.validate().score
    # Nothing of it is left behind: the cut is the same.
    assert all(a.equal(b) for a, b in zip(plain.model.parameters(), state.model.parameters(), strict=True))
