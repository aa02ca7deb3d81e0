"""A network's file of integers computes what training simulated, with the operators that runtimes have for integers."""

from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, numpy_helper

from compression.evaluation.runtimes.openvino import imported
from compression.export.onnx.network_integers import integer_graph
from compression.export.parity_check import compare, limit
from compression.models.networks.graph import INPUT
from compression.quantization.fake_quantize import simulation_of
from compression.quantization.pair_levels import pair_levels
from tests.support.network_files import answers, fused, integer_file, pixels, simulated
from tests.support.network_graphs import NETWORKS, GraphBuilder, mobilenet_v2, resnet, vgg, vit
from tests.support.network_models import drawn_network

NOISE = 2.0
"""`Exporter.rounding_noise`."""


@pytest.mark.parametrize("scheme", ["static-int8", "dynamic-int8", "weight-only-int8", "weight-only-int4"])
@pytest.mark.parametrize("name", NETWORKS)
@torch.no_grad()
def test_a_file_answers_as_the_simulation(name: str, scheme: str) -> None:
    model = drawn_network(NETWORKS[name]())
    images = pixels(model, 32)
    twin = simulated(model, scheme, images)
    proto = integer_file(twin)
    onnx.checker.check_model(proto, full_check=True)
    plain, expected, found = (logits.numpy() for logits in (model(images).logits, twin(images).logits, answers(proto, images)))
    compare(expected, found, limit(expected, plain, noise=NOISE if "weight" not in scheme else 0.0))
    assert np.abs(expected - plain).max() > 1e-4 * np.abs(plain).max(), "nothing was rounded"
    if "weight" not in scheme:
        # Nearly all rows differ by less than rounding changes them: single values fall to the neighbouring integer.
        assert np.median(np.abs(found - expected)) < 0.2 * np.median(np.abs(expected - plain))


@pytest.mark.parametrize("name", NETWORKS)
def test_no_convolution_and_no_linear_layer_stays_in_floating_point(name: str, tmp_path: Path) -> None:
    graph = NETWORKS[name]()
    model = drawn_network(graph)
    found = fused(integer_file(simulated(model, "static-int8", pixels(model))), tmp_path)
    counts = {op: sum(node.op == op for node in graph.nodes) for op in ("conv", "linear")}
    assert found["QLinearConv"] == counts["conv"]
    assert found["QGemm"] == counts["linear"]
    assert not found["FusedConv"] + found["Gemm"] + found["FusedGemm"]
    # ONNX Runtime makes convolutions of a DenseNet's norms that stay.
    assert not found["Conv"] or name == "densenet"


def test_a_residual_network_is_integers_throughout(tmp_path: Path) -> None:
    model = drawn_network(resnet())
    found = fused(integer_file(simulated(model, "static-int8", pixels(model))), tmp_path)
    assert found["QLinearAdd"] == sum(node.op == "add" for node in model.config.network.nodes)
    assert found["QuantizeLinear"] == 1
    assert found["DequantizeLinear"] == 0
    assert not {"Add", "Relu", "BatchNormalization", "GlobalAveragePool"} & set(found)


@pytest.mark.parametrize("name", NETWORKS)
def test_no_value_is_rounded_twice(name: str) -> None:
    model = drawn_network(NETWORKS[name]())
    proto = integer_file(simulated(model, "static-int8", pixels(model)))
    made = {output: node for node in proto.graph.node for output in node.output}
    for node in proto.graph.node:
        if node.op_type == "QuantizeLinear":
            source = made.get(node.input[0])
            assert source is None or source.op_type != "DequantizeLinear"
    assert "Clip" not in {node.op_type for node in proto.graph.node}
    pairs = [node.input[0] for node in proto.graph.node if node.op_type == "QuantizeLinear"]
    assert len(pairs) == len(set(pairs))


@pytest.mark.parametrize("portable", [True, False])
def test_integers_are_those_of_the_folded_weights(portable: bool) -> None:
    net = GraphBuilder()
    model = drawn_network(net.classified(net.conv_norm(INPUT, 6)))
    with torch.no_grad():
        model.get_parameter("batch_norm_1.weight")[1] *= -1  # the folded channel changes its sign
    twin = simulated(model, "static-int8", pixels(model), portable=portable)
    held = {item.name: numpy_helper.to_array(item) for item in integer_file(twin).graph.initializer}
    rows = twin.conv_0.weight.detach().flatten(1)
    most = pair_levels(twin.conv_0.weight) if portable else 127
    wanted = torch.round(rows / (rows.abs().amax(dim=1, keepdim=True) / most)).numpy().reshape(6, 3, 3, 3)
    wanted[1] *= -1
    assert np.array_equal(held["conv_0.weight_int8"], wanted)
    assert held["conv_0.bias_int32"].dtype == np.int32


@pytest.mark.parametrize("symmetric", [False, True])
@torch.no_grad()
def test_depthwise_weights_of_the_full_range_do_not_saturate(symmetric: bool) -> None:
    """On x86 without VNNI sums of two products do; the second network has the same products in a convolution that mixes."""
    found = {}
    for groups in (24, 1):
        net = GraphBuilder()
        inner = net.conv(net.op("relu", net.conv(INPUT, 24, kernel=1)), 24, kernel=3, groups=groups)
        model = drawn_network(net.classified(inner))
        layer = model.get_submodule(inner)
        layer.weight.fill_(0.1)
        images = pixels(model, 32).abs()
        twin = simulated(model, "static-int8", images, symmetric=symmetric)
        proto = integer_file(twin)
        held = {item.name: numpy_helper.to_array(item) for item in proto.graph.initializer}
        found[groups] = int(held[f"{inner}.weight_int8"].max())
        expected = twin(images).logits
        # A value may fall to the neighbouring integer; a sum that saturates is off by half of itself.
        assert torch.allclose(answers(proto, images), expected, atol=0.02 * float(expected.abs().max()))
    assert found == {24: 127, 1: 63}


def test_a_channel_without_weights_keeps_its_bias() -> None:
    net = GraphBuilder()
    model = drawn_network(net.classified(net.conv_norm(INPUT, 4)))
    with torch.no_grad():
        model.get_parameter("batch_norm_1.weight")[2] = 0
        model.get_parameter("batch_norm_1.bias")[2] = 2.0
        images = pixels(model)
        twin = simulated(model, "static-int8", images)
        expected = twin(images).logits
    assert torch.allclose(answers(integer_file(twin), images), expected, atol=0.02)


def test_a_clip_is_the_range_only_if_it_ends_where_the_range_does() -> None:
    model = drawn_network(mobilenet_v2())
    twin = simulated(model, "static-int8", pixels(model))
    clipped = next(node.name for node in model.config.network.nodes if node.op == "clip")
    twin.values[clipped].input_range = (0.0, 9.0)
    assert sum(node.op_type == "Clip" for node in integer_file(twin).graph.node) == 1


def test_linear_layers_round_their_rows_themselves_in_dynamic_int8(tmp_path: Path) -> None:
    model = drawn_network(vgg())
    found = fused(integer_file(simulated(model, "dynamic-int8", pixels(model))), tmp_path)
    assert (found["QLinearConv"], found["MatMulInteger"], found["QGemm"]) == (2, 2, 0)


def test_weights_alone_are_multiplied_in_floating_point(tmp_path: Path) -> None:
    model = drawn_network(vit())
    proto = integer_file(simulated(model, "weight-only-int4", pixels(model)))
    held = {item.name: item for item in proto.graph.initializer}
    assert held["conv_0.weight_int8"].data_type == TensorProto.INT8
    found = fused(proto, tmp_path)
    assert found["MatMulNBits"] == sum(node.op == "linear" for node in model.config.network.nodes)
    assert found["Conv"] == 1


def test_a_network_that_simulates_nothing_has_no_integers() -> None:
    model = drawn_network(resnet())
    twin = simulated(model, "static-int8", pixels(model))
    simulation = simulation_of(twin)
    assert simulation is not None
    with pytest.raises(RuntimeError, match="does not simulate"):
        integer_graph(model, {name: value.numpy() for name, value in model.state_dict().items()}, simulation)


@pytest.mark.parametrize("name", ["resnet", "mobilenet_v2", "squeeze_excite", "convnext"])
@torch.no_grad()
def test_openvino_answers_as_the_simulation(name: str, tmp_path: Path) -> None:
    openvino = imported()
    model = drawn_network(NETWORKS[name]())
    images = pixels(model)
    twin = simulated(model, "static-int8", images)
    onnx.save(integer_file(twin), tmp_path / "model.onnx")
    exact = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": 1}
    compiled = openvino.compile_model(openvino.Core().read_model(tmp_path / "model.onnx"), "CPU", exact)
    found = compiled({"pixel_values": images.numpy()})["logits"]
    expected, plain = twin(images).logits.numpy(), model(images).logits.numpy()
    compare(expected, found, limit(expected, plain, noise=NOISE))
