"""Layers that take different times: what is timed, what is chosen by it, and what the report says of each."""

import copy
import json
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import onnx
import pytest

from compression.engine import shipping
from compression.engine.context import StageContext, unmeasured
from compression.engine.shipping import ArtifactRequest, RunSettings, measure_beside
from compression.engine.stages.layer_times import rounded
from compression.evaluation.measure import Measured, MeasureSpec, Saving
from compression.models.adapters.registry import adapter_of
from compression.quantization.fake_quantize import is_simulated
from compression.schema.recipe.prune import Prune, Recovery, TargetLatency
from compression.schema.recipe.quantize import Quantize
from compression.schema.recipe.recipe import Evaluate, Prepare, Recipe, Train
from compression.schema.report.measurements import Latency, NotMeasured
from tests.client.figures import row
from tests.support.image_jobs import with_preprocessor
from tests.support.measuring import of
from tests.support.network_graphs import resnet
from tests.support.network_models import drawn_network
from tests.support.stage_runs import prune, quantize
from tests.support.tiny_maps import network_state

GRAPH = resnet((3, 3), 8)
"""Two kinds of blocks: three of the first stage, two of the second."""
MILLISECONDS = (2.0, 0.25)
"""What each block of a kind takes; what remains of the network takes one."""
WHOLE = 3 * MILLISECONDS[0] + 2 * MILLISECONDS[1] + 1


def latency(median_ms: float, baseline_ms: float = WHOLE) -> Latency:
    found = row("pruned", 1, 1, median_ms, 0.5).latency
    return found.model_copy(update={"baseline_median_ms": baseline_ms})


def costs(model: Any) -> float:
    """Return what a model takes by its blocks."""
    blocks = adapter_of(model).network(model.config).blocks
    widths = [model.get_submodule(block.layers[0]).weight.shape[0] for block in blocks]
    return 1 + sum(MILLISECONDS[width > 8] for width in widths)


def timed_beside(seen: list[Any]) -> Callable[..., Iterator[Saving]]:
    """Return what takes the place of timing, on a machine whose load grows with each model."""

    def timed(whole: Any, others: Iterable[Any]) -> Iterator[Saving]:
        for load, other in enumerate(others, 1):
            seen.append(other)
            yield Saving(1 - costs(other) / costs(whole), load * costs(whole))

    return timed


def state_of(timed: Any = unmeasured, /, quantized: Quantize | None = None, **settings: Any) -> StageContext:
    asked = Prune.model_validate({"ratio": {"layers": 0.4}, "calibration_rows": 32, **settings})
    recipe = Recipe(
        prepare=Prepare(epochs=0), quantize=quantized, prune=asked, distill=None, train=Train(batch=16, precision="float32")
    )
    state = network_state(drawn_network(GRAPH), recipe, varies=False)
    state.timed_beside = timed
    return state


def removed(state: StageContext) -> list[int]:
    each = state.result.pruning["layers"]["each"]
    return [number for number, found in enumerate(each.values()) if found["removed"]]


def test_each_kind_is_timed_once_and_the_report_says_of_each_block_what_it_takes_and_whether_it_went() -> None:
    seen: list[Any] = []
    state = state_of(timed_beside(seen))
    names = list(adapter_of(state.model).layer_kinds(state.model.config))
    list(prune(state))
    assert [adapter_of(model).shape_of(model.config).layers for model in seen] == [2, 3]  # all three gone, then both
    each = state.result.pruning["layers"]["each"]
    assert list(each) == names
    spent = [found["milliseconds"] for found in each.values()]
    step = 1.5 * WHOLE / 100  # the median of both wholes is of one and a half times the load
    assert spent == pytest.approx([1.5 * MILLISECONDS[0]] * 3 + [1.5 * MILLISECONDS[1]] * 2, abs=step)
    order = sorted(range(5), key=lambda number: each[names[number]]["influence"] / spent[number])
    assert removed(state) == sorted(order[:2])
    assert adapter_of(state.model).shape_of(state.model.config).layers == 3
    assert {names[number] for number in removed(state)}.isdisjoint(node.name for node in state.model.config.network.nodes)


def test_without_times_blocks_go_by_influence_alone_and_the_row_says_why() -> None:
    state = state_of()
    list(prune(state))
    each = list(state.result.pruning["layers"]["each"].values())
    assert {found["milliseconds"] for found in each} == {None}
    order = sorted(range(5), key=lambda number: each[number]["influence"])
    assert removed(state) == sorted(order[:2])
    assert any("by influence alone" in note and "no baseline artifact" in note for note in state.notes)


def test_nothing_is_timed_if_no_layer_goes() -> None:
    seen: list[Any] = []
    state = state_of(timed_beside(seen), ratio={"channels": 0.5}, sensitivity=True)
    list(prune(state))
    assert seen == []
    assert "layers" not in state.result.pruning


def test_integers_are_timed_as_integers_without_another_calibration(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Any] = []
    state = state_of(timed_beside(seen), Quantize(scheme="static-int8", calibration_rows=16))
    list(quantize(state))
    before = copy.deepcopy(state.model.state_dict())
    list(prune(state))
    assert len(seen) == 2
    assert all(map(is_simulated, seen))
    for model in seen:
        model(state.rows["validation"].batch([0, 1]).pixels)
    assert all(value.equal(before[name]) for name, value in state.model.state_dict().items() if name == "conv_0.weight")


def test_an_attempt_that_goes_on_chooses_by_the_times_that_are_saved() -> None:
    recovery = Recovery(epochs=1, rate=1e-3, shallow_first=False)
    first = state_of(timed_beside([]), recovery=recovery)
    saved: list[Any] = []
    plain = first.resumable
    first.resumable = lambda phase, beside=None: saved.append(beside) or plain(phase, beside)  # type: ignore[method-assign]
    list(prune(first))
    (beside,) = saved
    again = state_of(recovery=recovery)
    again.saved = lambda phase: beside  # type: ignore[method-assign]
    list(prune(again))
    assert removed(again) == removed(first)
    assert again.result.pruning == first.result.pruning


def test_a_latency_target_times_the_network_without_the_blocks_that_go() -> None:
    state = state_of(timed_beside([]), ratio=0.5, axes=("layers",), target_latency=TargetLatency(milliseconds=5.0))
    shapes: list[list[str]] = []

    def timed(model: Any) -> Latency:
        shapes.append(list(adapter_of(model).layer_kinds(model.config)))
        return latency(costs(model))

    state.timed = timed
    list(prune(state))
    assert list(adapter_of(state.model).layer_kinds(state.model.config)) in shapes


@pytest.mark.parametrize(("share", "step"), [(0.2, 0.2), (0.004, 0.01), (-0.03, 0.01), (0.016, 0.02)])
def test_savings_are_rounded_and_none_is_nothing(share: float, step: float) -> None:
    assert rounded(share) == pytest.approx(step)


def test_each_model_is_measured_against_the_given_one_from_files_that_are_gone_afterwards(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = drawn_network(GRAPH)
    small = drawn_network(resnet((1, 1), 8))
    (tmp_path / "preprocessor").mkdir()
    with_preprocessor(tmp_path / "preprocessor", 8)
    (tmp_path / "scratch").mkdir()
    rows = tmp_path / "scratch" / "test.jsonl"
    rows.write_text(json.dumps({"image": "", "index": 0, "label": 0}))
    seen: list[tuple[Any, ...]] = []

    def measured(spec: MeasureSpec, *, last_try: bool = False) -> Any:
        convolutions = [
            sum(node.op_type == "Conv" for node in onnx.load(Path(folder, "model.onnx")).graph.node)
            for folder in (spec.folder, spec.baseline)
        ]
        seen.append((*convolutions, spec.test_rows))
        reason = NotMeasured(not_measured="not here")
        return of(Measured(latency=latency(1.0, 2.0), saved=0.4, score=reason, peak_memory_bytes=1))

    monkeypatch.setattr(shipping, "measure_artifact", measured)
    run = RunSettings(
        task="image-classification", labels=tuple("abcde"), evaluate=Evaluate(), output=tmp_path, rows={"test": rows}, sample=[]
    )
    request = ArtifactRequest(
        kind="onnx", stage="pruned", precision="float32", preprocessor=tmp_path / "preprocessor", max_length=0
    )
    found = list(measure_beside(whole, [small, whole], request, run))
    assert found == [Saving(0.4, 2.0)] * 2
    assert seen == [(6, 14, None), (14, 14, None)]
    assert list((tmp_path / "scratch").iterdir()) == [rows]
