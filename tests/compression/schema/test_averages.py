"""The mean over several datasets, by hand."""

import pytest

from compression.schema.report.averages import mean_row
from compression.schema.report.measurements import NotMeasured, Row, Score
from tests.client.figures import changed, row


def stages() -> tuple[Row, Row]:
    """Means of two datasets: 80 and 60 % before, 79.6 and 58 % after."""
    first = mean_row(
        {"a": row("baseline", 20_000_000, 80_000_000, 16.0, 0.8), "b": row("baseline", 20_000_004, 80_000_000, 16.0, 0.6)}, None
    )
    parts = {"a": row("quantized", 20_000_000, 20_000_000, 8, 0.796), "b": row("quantized", 20_000_004, 20_000_004, 4, 0.58)}
    return first, mean_row(parts, first)


def test_sizes_times_and_scores_are_means_and_ratios_are_those_of_the_means() -> None:
    first, then = stages()
    assert (first.parameters.total, first.size.bytes, first.size.dtype) == (20_000_002, 80_000_000, "float32")
    assert (then.parameters.embedding, then.parameters.other) == (10_000_001, 10_000_001)
    assert (then.latency.median_ms, then.latency.baseline_median_ms, then.latency.length) == (6.0, 16.0, 128)
    assert then.score.value == pytest.approx((0.796 + 0.58) / 2)
    assert then.score.standard_error == pytest.approx((0.01**2 + 0.01**2) ** 0.5 / 2)
    assert (then.score.metric, then.score.error_from, then.score.chance) == ("mean of parts", "parts", 0.5)
    assert (then.score.metrics, then.score.standard_errors) == ({"a": 0.796, "b": 0.58}, {"a": 0.01, "b": 0.01})
    assert (then.seconds, then.score.rows, then.flops) == (2.0, 2000, 1)
    assert (first.artifact, list(then.parts)) == ("baseline-onnx-int8", ["a", "b"])
    assert first.ratios.retention == 1
    assert then.ratios.size_reduction == pytest.approx(1 - 20_000_002 / 80_000_000)
    assert then.ratios.speed_up == pytest.approx(16 / 6)
    # Not the mean of 99.5 % and 96.7 %: the mean score after, held against the mean score before.
    assert then.ratios.retention == pytest.approx((0.796 + 0.58) / (0.8 + 0.6))
    assert then.ratios.retention_above_chance == pytest.approx((0.296 + 0.08) / (0.3 + 0.1))


def test_a_mean_is_timed_alone_only_if_each_part_was() -> None:
    first, then = stages()
    assert then.latency.exclusive
    beside = changed(then.parts["b"], "latency", exclusive=False)
    assert not mean_row({**then.parts, "b": beside}, first).latency.exclusive


def test_what_one_part_lacks_the_mean_lacks() -> None:
    first, then = stages()
    why = NotMeasured(not_measured="the machine was too busy")
    parts = {**then.parts, "b": then.parts["b"].model_copy(update={"latency": why, "flops": why})}
    found = mean_row(parts, first)
    assert found.latency == found.flops == NotMeasured(not_measured="b: the machine was too busy")
    assert found.ratios.speed_up is None
    assert isinstance(found.score, Score)


def test_a_report_of_one_dataset_from_before_is_read_as_it_was() -> None:
    old = row("baseline", 20_000_000, 80_000_000, 16.0, 0.8).model_dump(mode="json")
    del old["parts"]
    assert Row.model_validate(old).parts == {}


def test_an_error_that_is_not_known_may_be_as_large_as_a_value_that_floating_point_just_holds() -> None:
    known = row("baseline", 20_000_000, 80_000_000, 16.0, 0.8)
    lost = known.model_copy(update={"score": known.score.model_copy(update={"value": 1e300, "standard_error": 1e300})})
    assert mean_row({"a": lost, "b": known}, None).score.standard_error == pytest.approx(5e299)


def test_widths_of_single_layers_are_means_layer_by_layer() -> None:
    known = row("pruned", 20_000_000, 80_000_000, 16.0, 0.8)
    two = known.shape.model_copy(update={"layers": 2})
    shapes = [two.with_ffns(units) for units in ((256, 128), (384, 512))]
    parts = {name: known.model_copy(update={"shape": shape}) for name, shape in zip("ab", shapes, strict=True)}
    found = mean_row(parts, None).shape
    assert (found.ffns, found.ffn, found.each_ffn) == (None, 320, (320, 320))
    third = parts | {"b": known.model_copy(update={"shape": two.with_ffns((512, 512))})}
    assert mean_row(third, None).shape.ffns == (384, 320)
    fewer = parts | {"b": known.model_copy(update={"shape": two.model_copy(update={"layers": 4, "ffn": 64})})}
    assert (mean_row(fewer, None).shape.ffns, mean_row(fewer, None).shape.layers) == (None, 3)
