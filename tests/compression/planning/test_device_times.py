"""Latencies predicted from made tables, whose layers take what their work says."""

from itertools import pairwise
from math import prod

import pytest

from compression.models.architectures.families import ARCHITECTURE_SPECS, NETWORK
from compression.models.architectures.network_shapes import multiply_adds, network_shape_at, whole_shape
from compression.models.networks.costs import network_facts
from compression.models.networks.graph import INPUT
from compression.planning.device_times import DeviceTimes, LayerWork, ShapeTimes, encoder_layers
from compression.planning.product_times import grains_of
from compression.schema.recipe.prune import Prune
from compression.schema.report.measurements import Shape
from tests.support.device_tables import CALL, RATES, made_table
from tests.support.network_graphs import GraphBuilder, mobilenet_v2, resnet

TABLE = made_table()
BERT = ARCHITECTURE_SPECS["bert"]
SHAPES = [Shape(layers=n, hidden=h, heads=h // 32, ffn=f, vocabulary=100)
          for n, h, f in ((6, 384, 1536), (6, 288, 1024), (5, 256, 768), (6, 192, 768), (2, 96, 256))]  # fmt: skip


def products(shape: Shape, tokens: int) -> int:
    linear = 4 * shape.hidden * shape.hidden + 2 * shape.hidden * shape.ffn
    return shape.layers * tokens * (linear + 2 * tokens * shape.hidden)


@pytest.mark.parametrize(("form", "tokens"), [("float32", 128), ("float32", 64), ("dynamic-int8", 128), ("static-int8", 100)])
def test_shapes_are_ranked_by_what_their_layers_take(form: str, tokens: int) -> None:
    times = ShapeTimes(TABLE, BERT, None, tokens)
    found = [times.milliseconds(shape, None if form == "float32" else form) for shape in SHAPES]
    assert all(slow > fast for slow, fast in pairwise(found))
    if form == "float32":
        work = [(CALL + products(shape, tokens) / RATES[form]) / 1000 for shape in SHAPES]
        assert found == pytest.approx(work, rel=0.05)  # what is added: norms and activations
    assert times.milliseconds(SHAPES[0], form, "openvino") != found[0]


def test_each_layer_takes_what_its_own_units_take() -> None:
    times, shape = ShapeTimes(TABLE, BERT, None, 64), SHAPES[-1]
    own = times.milliseconds(shape.with_ffns((256, 128)), "dynamic-int8")
    each = [times.milliseconds(shape.model_copy(update={"ffn": units}), "dynamic-int8") for units in (256, 128)]
    assert own == pytest.approx(sum(each) / 2)
    assert each[1] < own < each[0]


def test_a_layer_between_two_timed_ones_takes_a_time_between_theirs_and_the_call_counts_once() -> None:
    times = DeviceTimes(TABLE, "onnxruntime")
    linear = LayerWork("linear", 300, 300, 100, rounded=True)
    for form, rate in RATES.items():
        assert times.milliseconds([linear], form) == pytest.approx((CALL + 300 * 300 * 100 / rate) / 1000)
    three = LayerWork("linear", 300, 300, 100, 3)
    assert times.milliseconds([three], "static-int8") == pytest.approx((CALL + 3 * 9e6 / RATES["float32"]) / 1000)
    assert times.milliseconds([linear], "float32", 4) == pytest.approx((CALL + 4 * 9e6 / RATES["float32"]) / 1000)
    large = LayerWork("linear", 4096, 4096, 4096)
    assert times.milliseconds([large], "float32") == pytest.approx((CALL + 4096**3 / RATES["float32"]) / 1000)


def test_times_of_odd_widths_are_no_part_of_the_line() -> None:
    odd = made_table(lambda layer, *_: 1e6 if layer.inputs % 16 else layer.work / 1000)
    (wide,) = (DeviceTimes(table, "onnxruntime").milliseconds([LayerWork("linear", 505, 505, 128)], "float32")
               for table in (odd,))  # fmt: skip
    assert wide == pytest.approx((CALL + 505 * 505 * 128 / 1000) / 1000, rel=0.01)


def test_networks_are_predicted_from_their_costs() -> None:
    network = network_facts(resnet((2, 2), 32, size=16))
    whole = whole_shape(network)
    times = ShapeTimes(TABLE, NETWORK, network, 0)
    half = network_shape_at(whole, Prune(axes=("channels",)), {"channels": 0.5}, network)
    fewer = whole.model_copy(update={"layers": whole.layers - 2})
    for shape in (whole, half, fewer):
        work = multiply_adds(network, shape)
        found = times.milliseconds(shape, None)
        assert found == pytest.approx((CALL + work / RATES["float32"]) / 1000, rel=0.02)
        assert times.milliseconds(shape, "dynamic-int8") == pytest.approx((CALL + work / RATES["static-int8"]) / 1000, rel=0.02)


def test_depthwise_convolutions_take_their_own_time() -> None:
    slow = made_table(lambda layer, *_: layer.work / (10 if layer.operation == "depthwise" else 1000))
    network = network_facts(mobilenet_v2())
    work = {kind: sum(layer.multiply_adds(network.widths) for layer in network.layers
                      if layer.kind == "conv" and (layer.inputs.at(network.widths) == 1) is kind)
            for kind in (True, False)}  # fmt: skip
    assert min(work.values()) > 0
    times = [ShapeTimes(table, NETWORK, network, 0) for table in (slow, TABLE)]
    late, usual = (each.milliseconds(whole_shape(network), None) for each in times)
    assert late - usual == pytest.approx(work[True] * (1 / 10 - 1 / 1000) / 1000, rel=0.02)


def test_sums_of_residual_blocks_take_their_own_time_and_go_with_their_block() -> None:
    slow = made_table(lambda layer, *_: layer.work / (1 if layer.operation == "addition" else 1000))
    network = network_facts(resnet((2, 2), 32, size=16))
    whole = whole_shape(network)
    moved = [layer.positions * layer.outputs.at(network.widths) for layer in network.layers if layer.kind == "move"]
    late, usual = (ShapeTimes(table, NETWORK, network, 0).milliseconds(whole, None) for table in (slow, TABLE))
    assert late - usual == pytest.approx(sum(moved) * (1 - 1 / 1000) / 1000, rel=0.02)
    fewer = whole.model_copy(update={"layers": whole.layers - 1})
    assert ShapeTimes(slow, NETWORK, network, 0).milliseconds(fewer, None) < late - min(moved) / 1000


def test_convolutions_are_predicted_by_their_grains() -> None:
    slow = made_table(lambda layer, *_: layer.work / (100 if layer.inputs % 4 or layer.outputs % 4 else 1000))
    times = DeviceTimes(slow, "onnxruntime")

    def microseconds(inputs: int, outputs: int) -> float:
        layer = LayerWork("convolution", inputs, outputs, 256, grains=grains_of(inputs, outputs))
        return 1000 * times.milliseconds([layer], "float32") - CALL

    assert (grains_of(32, 48), grains_of(6, 32), grains_of(12, 3)) == ((16, 16), (16, 1), (4, 1))
    for inputs, outputs, rate in ((32, 48, 1000), (36, 44, 1000), (34, 32, 100), (18, 26, 100), (300, 500, 1000)):
        assert microseconds(inputs, outputs) == pytest.approx(9 * inputs * outputs * 256 / rate, rel=0.01)


def test_a_timed_convolution_takes_what_was_timed() -> None:
    bent = made_table(lambda layer, *_: layer.work ** (0.9 if layer.inputs == 32 else 1) / 1000)
    (row,) = (row for row in bent.rows if row.operation == "convolution" and row.runtime == "onnxruntime"
              and row.form == "float32" and (row.inputs, row.outputs, row.places) == (32, 32, 196))  # fmt: skip
    found = DeviceTimes(bent, "onnxruntime").milliseconds([LayerWork("convolution", 32, 32, 196)], "float32")
    assert found == pytest.approx((CALL + row.microseconds) / 1000, rel=0.1)


@pytest.mark.parametrize("size", [(80, 72, 2), (96, 300, 8), (64, 64, 4)])
def test_a_layer_that_took_no_longer_than_a_call_spoils_no_other(size: tuple[int, int, int]) -> None:
    lost = made_table(lambda layer, *_: 0.0 if layer.key == ("linear", 64, 64, 1, 1) else 3 + layer.work / 1000)
    found = DeviceTimes(lost, "onnxruntime").milliseconds([LayerWork("linear", *size)], "float32")
    assert 1000 * found - CALL == pytest.approx(3 + prod(size) / 1000, rel=0.02)


@pytest.mark.parametrize("form", ["float32", "dynamic-int8"])
def test_narrow_heads_take_their_own_time(form: str) -> None:
    by_size = made_table(lambda layer, *_: layer.work / 1000 * (2 if layer.inputs / layer.outputs < 32 else 1))
    work = [LayerWork("attention", heads * size, heads, 128) for heads, size in ((8, 64), (8, 20), (7, 22))]
    times = [1000 * DeviceTimes(by_size, "onnxruntime").milliseconds([one], form) - CALL for one in work]
    assert times == [pytest.approx(2 * 128 * 128 * one.inputs * (1 + at) / 1000, rel=0.01)
                     for one, at in zip(work, (0, 1, 1), strict=True)]  # fmt: skip


def test_a_convolution_of_gray_images_is_not_depthwise() -> None:
    slow = made_table(lambda layer, *_: layer.work / (10 if layer.operation == "depthwise" else 1000))
    gray, color = GraphBuilder((1, 8, 8)), GraphBuilder((3, 8, 8))
    networks = [network_facts(graph.classified(graph.conv(INPUT, 32))) for graph in (gray, color)]
    one, three = (ShapeTimes(slow, NETWORK, each, 0).milliseconds(whole_shape(each), None) for each in networks)
    assert three - one == pytest.approx(2 * 9 * 32 * 64 / 1000 / 1000, rel=0.02)


def test_what_the_table_does_not_tell_is_not_predicted() -> None:
    times = ShapeTimes(TABLE, BERT, None, 128)
    assert times.milliseconds(SHAPES[0], "weight-only-int4") is None
    assert times.milliseconds(SHAPES[0], "dynamic-int8", "openvino") is None
    assert ShapeTimes(TABLE, ARCHITECTURE_SPECS["llama"], None, 128).milliseconds(SHAPES[0], None) is None
    linear = TABLE.model_copy(update={"rows": tuple(row for row in TABLE.rows if row.operation == "linear")})
    assert ShapeTimes(linear, BERT, None, 128).milliseconds(SHAPES[0], None) is None
    assert encoder_layers(SHAPES[0], 128)  # which has more than linear layers
