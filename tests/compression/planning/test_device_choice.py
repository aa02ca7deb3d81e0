"""What made tables decide: the faster scheme, and the multiple above which odd widths cost nothing."""

import pytest

from compression.export.device_table.plan import Layer
from compression.models.architectures.families import ARCHITECTURE_SPECS, NETWORK
from compression.models.networks.costs import network_facts
from compression.planning.device_choice import fastest_scheme, smallest_multiple
from compression.planning.device_times import ShapeTimes
from compression.schema.device_table import DeviceTable
from compression.schema.report.measurements import Shape
from tests.support.device_tables import made_table
from tests.support.network_graphs import resnet

SHAPE = Shape(layers=2, hidden=64, heads=2, ffn=128, vocabulary=100)
STATIC = {"onnxruntime": 100, "openvino": 9000}
SLOW_STATIC = made_table(lambda layer, runtime, form: layer.work / (STATIC[runtime] if form == "static-int8" else 1000))


def times(table: DeviceTable, family: str = "bert") -> ShapeTimes:
    return ShapeTimes(table, ARCHITECTURE_SPECS[family], None, 32)


@pytest.mark.parametrize(("table", "formats", "expected"), [
    (made_table(), (), "static-int8"), (SLOW_STATIC, (), "dynamic-int8"), (SLOW_STATIC, ("gguf-q4_0",), "dynamic-int8"),
    (SLOW_STATIC, ("transformers", "openvino-int8"), "static-int8"),
])  # fmt: skip
def test_the_scheme_that_is_fastest_in_a_runtime_of_the_job_is_taken(
    table: DeviceTable, formats: tuple[str, ...], expected: str
) -> None:
    chosen, why = fastest_scheme(times(table), SHAPE, formats)
    assert chosen == expected
    assert why.index(f"{expected} was taken") < why.index("predicts")
    assert ("OpenVINO" in why) is ("openvino-int8" in formats)
    for scheme in ("dynamic-int8", "static-int8"):
        assert f"{times(table).milliseconds(SHAPE, scheme):.2f} ms" in why


def test_without_predictions_the_scheme_is_the_usual_one() -> None:
    for nothing in (None, times(made_table(), "llama")):
        chosen, why = fastest_scheme(nothing, SHAPE, ())
        assert chosen == "dynamic-int8"
        assert "no device table" in why


@pytest.mark.parametrize("multiple", [1, 4, 8, 32, 64])
def test_the_smallest_multiple_without_a_step_is_taken(multiple: int) -> None:
    table = made_table(lambda layer, *_: layer.work / (500 if layer.inputs % multiple else 1000))
    chosen, why = smallest_multiple(times(table), "dynamic-int8")
    assert chosen == multiple
    assert f"{multiple} was taken" in why


@pytest.mark.parametrize(("scheme", "multiple"), [(None, 1), ("static-int8", 4), ("dynamic-int8", 4)])
def test_channels_of_a_network_go_by_its_convolutions(scheme: str | None, multiple: int) -> None:
    def time(layer: Layer, _: str, form: str) -> float:
        slow = layer.operation == "convolution" and form == "static-int8" and layer.inputs % 4
        return layer.work * (2 if slow else 1) / 1000

    network = network_facts(resnet((1, 1), 16, size=8))
    chosen, why = smallest_multiple(ShapeTimes(made_table(time), NETWORK, network, 0), scheme)
    assert chosen == multiple
    assert f": {'2.00' if multiple == 4 else '1.00'})" in why
    bare = made_table().model_copy(update={"rows": ()})
    assert smallest_multiple(ShapeTimes(bare, NETWORK, network, 0), scheme)[0] == 64


def test_the_form_of_the_scheme_decides_and_nothing_is_concluded_from_nothing() -> None:
    table = made_table(
        lambda layer, runtime, form: layer.work * (5 if layer.inputs % 16 and form == "static-int8" else 1) / 1000
    )
    assert smallest_multiple(times(table), "static-int8")[0] == 16
    assert smallest_multiple(times(table), "weight-only-int8")[0] == 1
    assert smallest_multiple(times(table), None)[0] == 1
    few = table.model_copy(update={"rows": tuple(row for row in table.rows if row.inputs != 512)})
    for nothing in (None, few):
        assert smallest_multiple(times(nothing) if nothing else None, None)[0] == 64
