"""Data sheets bound a latency from below, in forecasts alone: nothing was measured there, and nothing says so."""

from dataclasses import replace
from pathlib import Path

import pytest

from compression.planning.counted import Counted
from compression.planning.estimator import PlannedJob
from compression.planning.latency_bounds import PassWork, least_ms, pass_work, target_notes
from compression.schema.described_devices import described_device, described_devices
from compression.schema.recipe.recipe import JobEvaluate, Recipe, Targets
from compression.schema.report.measurements import Parameters, Shape
from compression.schema.validation import DataFacts

SHAPE = Shape(layers=6, hidden=384, heads=12, ffn=1536, vocabulary=30522)
MATRICES = 6 * (4 * 384 * 384 + 2 * 384 * 1536)  # of MiniLM-L6's layers
PARAMETERS = Parameters(total=22_714_754, embedding=11_918_592, other=10_796_162)
DATA = DataFacts(
    task="text-classification",
    labels=("bad", "good"),
    rows={"train": 1000},
    label_counts={"train": {"bad": 500, "good": 500}},
    mean_words=20,
    longest_words=40,
)
WHOLE = Counted(SHAPE, PARAMETERS)
PLAIN = Recipe.model_validate({"quantize": None, "prune": None, "distill": None})
JOB = PlannedJob(WHOLE, WHOLE, DATA, PLAIN, JobEvaluate())


def test_the_work_is_no_more_than_that_of_the_matrices() -> None:
    work = pass_work(JOB)
    assert 0.98 * 2 * MATRICES * 128 < work.operations <= 2 * MATRICES * 128
    assert (work.weight_bytes, work.integers) == (pytest.approx(4 * MATRICES, rel=0.02), False)
    whole = pass_work(replace(JOB, evaluate=JobEvaluate(batch=8, length=64)))
    assert whole.operations == pytest.approx(4 * work.operations)
    rounded = pass_work(replace(JOB, recipe=PLAIN.model_copy(update={"quantize": Recipe().quantize})))
    assert (rounded.weight_bytes, rounded.integers) == (work.weight_bytes / 4, True)


def test_the_greater_of_operations_and_bytes_bounds_the_time_and_what_a_cache_holds_is_free() -> None:
    a100 = described_device("A100-40GB")
    assert a100 is not None
    assert least_ms(PassWork(312e9, 1, integers=False), a100) == pytest.approx(1)
    assert least_ms(PassWork(312e9, 1, integers=True), a100) == pytest.approx(0.5)
    assert least_ms(PassWork(1e9, 1.555e9 + (40 << 20), integers=True), a100) == pytest.approx(1)
    assert least_ms(PassWork(0, 30e6, integers=True), a100) == 0
    board = described_device("jetson-agx-orin")
    assert board is not None
    assert board.half_flops is None
    assert least_ms(PassWork(1e9, 1e9, integers=False), board) is None


def test_a_target_on_a_described_device_is_bounded_and_said_to_be_unmeasured() -> None:
    (note,) = target_notes(JOB, asked(120, "a100-80gb"), ())
    assert note.startswith("NVIDIA A100 SXM, 80 GB: at best 0.008")
    assert "never measured, so targets.latency_ms stays not_measured" in note
    low = list(target_notes(JOB, asked(0.001, "A100-80GB"), ()))
    assert "less than its data sheet allows" in low[1]
    assert "raise it, cut deeper" in low[1]
    (unknown,) = target_notes(JOB, asked(5, "jetsno"), ["jetson"])
    assert "No device jetsno is registered or described" in unknown
    assert "raspberry-pi-5" in unknown
    (idle,) = target_notes(JOB, asked(5, "jetson"), ["jetson"])
    assert "put it into evaluate.devices" in idle
    for name in ("worker", None):
        assert not list(target_notes(JOB, asked(5, name), ["jetson"]))


def test_a_score_that_is_meant_as_a_share_is_noted() -> None:
    assert "in percent" in next(target_notes(JOB, Targets(score=0.743), ()))
    assert "which no model reaches" in next(target_notes(JOB, Targets(score=743), ()))
    for possible in (74.3, 100):
        assert not list(target_notes(JOB, Targets(score=possible), ()))


def test_the_documented_table_is_that_of_the_files() -> None:
    text = Path("docs/devices.md").read_text()
    for name, one in described_devices().items():
        figures = (one.fp32_flops, one.tf32_flops, one.half_flops, one.int8_ops)
        cells = [f"`{name}`", one.title, *("–" if rate is None else f"{rate / 1e12:g}" for rate in figures)]
        cells += ["–" if one.bandwidth is None else f"{one.bandwidth / 1e9:g}"]
        cells += [
            "–" if size is None else f"{size / unit:g}" for size, unit in ((one.memory_bytes, 1e9), (one.cache_bytes, 1 << 20))
        ]
        cells += ["–" if one.power_watts is None else f"{one.power_watts:g}", one.source]
        assert f"| {' | '.join(cells)} |" in text


def test_widths_that_are_searched_for_have_no_bound() -> None:
    for more in ({}, {"auto": {}}):
        recipe = Recipe.model_validate({"prune": {"search": "solver"}, **more})
        (note,) = target_notes(replace(JOB, recipe=recipe), asked(0.001, "A100-80GB"), ())
        assert "never measured, so targets.latency_ms stays not_measured" in note
        assert "data sheet allows depends" in note


def test_a_search_meets_its_own_target_whatever_equal_ratios_leave() -> None:
    searching = replace(JOB, recipe=Recipe.model_validate({"prune": {"search": "solver", "target_params": 0.9}}))
    assert list(target_notes(searching, Targets(parameter_reduction=0.9), ())) == []
    (note,) = target_notes(searching, Targets(parameter_reduction=0.95), ())
    assert note.endswith("the forecast takes 90.0% away: cut deeper or ask for less.")


def asked(value: float, device: str | None) -> Targets:
    return Targets.model_validate({"latency_ms": {"value": value, "device": device}})


def test_fewer_parameters_than_the_forecast_leaves_are_told_of() -> None:
    (note,) = target_notes(JOB, Targets(parameters=10), ())
    assert note.startswith("targets.parameters allows 10, and the forecast leaves 22,714,754: cut deeper")
    assert list(target_notes(JOB, Targets(parameters=22_714_754), ())) == []
    searching = replace(JOB, recipe=Recipe.model_validate({"auto": {}, "prune": {"search": "solver"}}))
    assert list(target_notes(searching, Targets(parameters=10), ())) == []  # its size is not known yet


def test_a_share_of_parameters_that_the_forecast_does_not_reach_is_told_of() -> None:
    half = replace(JOB.result, parameters=JOB.result.parameters.model_copy(update={"total": JOB.model.parameters.total // 2}))
    cut = replace(JOB, result=half)
    (note,) = target_notes(cut, Targets(parameter_reduction=0.6), ())
    assert note.startswith("targets.parameter_reduction asks for 60.0%, and the forecast takes 50.0% away: cut deeper")
    for reached in (Targets(parameter_reduction=0.4), Targets()):
        assert list(target_notes(cut, reached, ())) == []
    assert list(target_notes(JOB, Targets(), ())) == []  # nothing is cut, and the usual target is nobody's wish
    by_tokens = replace(cut, recipe=Recipe.model_validate({"prune": {"axes": ["vocabulary", "ffn"]}}))
    assert list(target_notes(by_tokens, Targets(parameter_reduction=0.6, parameters=10), ())) == []  # more go on the worker
