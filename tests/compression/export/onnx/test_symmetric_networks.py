"""Files with int8 values around 0: the simulation's numbers, in the form that TensorRT asks for. None was tried in TensorRT."""

from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, numpy_helper
from torch import nn

from compression.evaluation.runtimes.openvino import imported
from compression.export.parity_check import compare, limit
from compression.models.networks.folding import folding_of
from compression.quantization.fake_quantize import simulation_of
from tests.support.network_files import answers, fused, integer_file, is_depthwise, largest_pair, pixels, simulated
from tests.support.network_graphs import NETWORKS, resnet
from tests.support.network_models import drawn_network

NOISE = 2.0
"""`Exporter.rounding_noise`."""


@pytest.mark.parametrize("name", NETWORKS)
@torch.no_grad()
def test_a_file_answers_as_the_simulation(name: str) -> None:
    model = drawn_network(NETWORKS[name]())
    images = pixels(model, 32)
    twin = simulated(model, "static-int8", images, symmetric=True)
    proto = integer_file(twin)
    onnx.checker.check_model(proto, full_check=True)
    plain, expected, found = (logits.numpy() for logits in (model(images).logits, twin(images).logits, answers(proto, images)))
    compare(expected, found, limit(expected, plain, noise=NOISE))
    assert np.median(np.abs(found - expected)) < 0.2 * np.median(np.abs(expected - plain))


@pytest.mark.parametrize(("portable", "most"), [(True, 63), (False, 127)])
@pytest.mark.parametrize("name", NETWORKS)
def test_all_integers_are_int8_with_zero_point_0(name: str, portable: bool, most: int) -> None:
    model = drawn_network(NETWORKS[name]())
    graph = integer_file(simulated(model, "static-int8", pixels(model), portable=portable, symmetric=True)).graph
    held = {item.name: item for item in graph.initializer}
    pairs = [node for node in graph.node if node.op_type in ("QuantizeLinear", "DequantizeLinear")]
    assert pairs
    for node in pairs:
        zeros = held[node.input[2]]
        assert zeros.data_type == TensorProto.INT8
        assert not numpy_helper.to_array(zeros).any()
        if node.op_type == "QuantizeLinear":
            assert not held[node.input[1]].dims, "one scale for a value"
    found = {node.input[0]: numpy_helper.to_array(held[node.input[0]]) for node in pairs if node.input[0] in held}
    largest = {name.removesuffix(".weight_int8"): int(np.abs(whole.astype(int)).max()) for name, whole in found.items()}
    layers = {node.name: model.get_submodule(node.name) for node in model.config.network.nodes if node.op in ("conv", "linear")}
    assert {*largest} == {*layers}
    for name, layer in layers.items():
        if not portable or isinstance(layer, nn.Linear) or is_depthwise(layer):
            assert largest[name] == (127 if is_depthwise(layer) else most)
        else:
            assert 63 <= largest[name] <= 127
            assert max(map(largest_pair, found[f"{name}.weight_int8"].astype(int))) <= 128
    biases = [node.input[2] for node in graph.node if node.op_type in ("Conv", "Gemm") and len(node.input) > 2]
    assert {held[name].data_type for name in biases} == {TensorProto.FLOAT}


def test_activations_stay_before_their_pair() -> None:
    model = drawn_network(resnet())
    graph = integer_file(simulated(model, "static-int8", pixels(model), symmetric=True)).graph
    relus = [node for node in graph.node if node.op_type == "Relu"]
    assert len(relus) == sum(node.op == "relu" for node in model.config.network.nodes)
    readers = {name: node.op_type for node in graph.node for name in node.input}
    assert {readers[node.output[0]] for node in relus} == {"QuantizeLinear"}


def test_a_simulation_is_read_back() -> None:
    model = drawn_network(resnet())
    for symmetric in (True, False):
        found = simulation_of(simulated(model, "static-int8", pixels(model), symmetric=symmetric))
        assert found is not None
        assert found.symmetric == symmetric


def test_onnx_runtime_has_integers_where_no_activation_stands_before_a_pair(tmp_path: Path) -> None:
    model = drawn_network(graph := resnet())
    found = fused(integer_file(simulated(model, "static-int8", pixels(model), symmetric=True)), tmp_path)
    folding, convolutions = folding_of(graph), sum(node.op == "conv" for node in graph.nodes)
    assert folding is not None
    assert 0 < found["QLinearConv"] <= convolutions - folding.activations
    assert found["QLinearConv"] + found["Conv"] + found["FusedConv"] == convolutions


@torch.no_grad()
def test_openvino_answers_as_the_simulation(tmp_path: Path) -> None:
    openvino = imported()
    model = drawn_network(resnet())
    images = pixels(model)
    twin = simulated(model, "static-int8", images, symmetric=True)
    onnx.save(integer_file(twin), tmp_path / "model.onnx")
    exact = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": 1}
    compiled = openvino.compile_model(openvino.Core().read_model(tmp_path / "model.onnx"), "CPU", exact)
    found = compiled({"pixel_values": images.numpy()})["logits"]
    expected, plain = twin(images).logits.numpy(), model(images).logits.numpy()
    compare(expected, found, limit(expected, plain, noise=NOISE))


def test_biases_are_whole_multiples_of_both_scales() -> None:
    model = drawn_network(resnet())
    graph = integer_file(simulated(model, "static-int8", pixels(model), symmetric=True)).graph
    held = {item.name: numpy_helper.to_array(item) for item in graph.initializer}
    made = {node.output[0]: node for node in graph.node}
    layers = [node for node in graph.node if node.op_type in ("Conv", "Gemm") and len(node.input) > 2]
    assert layers
    for node in layers:
        read, weight = (held[made[name].input[1]] for name in node.input[:2])
        counts = held[node.input[2]].astype(np.float64) / (np.float64(read) * weight)
        assert np.abs(counts - np.round(counts)).max() < 0.01
        assert np.abs(counts).max() > 10
