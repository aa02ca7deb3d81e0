"""A network's integers in training: the artifact's arithmetic forward, straight-through gradients, stock state dicts."""

import copy

import pytest
import torch
from torch import nn
from torch.nn import functional

from compression.models.adapters.network.parts import PassedValue
from compression.models.networks.graph import INPUT
from compression.models.networks.rounded_values import rounded_values
from compression.models.running_statistics import set_training_mode
from compression.quantization.dynamic_int8 import FakeQuantLinear
from compression.quantization.fake_quantize import (
    Simulation,
    input_ranges,
    insert_fake_quantization,
    is_simulated,
    left_in_float,
    quantizable,
    ranged_inputs,
    remove_fake_quantization,
    rounding_places,
    simulation_of,
)
from compression.quantization.pair_levels import pair_levels
from compression.quantization.precision import gradient_precision
from compression.quantization.rounded_network import RoundedValue, SimulatedConv
from compression.quantization.static_int8 import StaticLinear, affine, static_weights
from compression.quantization.weight_only import WeightOnlyLinear, dequantized_weights
from compression.schema.schemes import SCHEMES
from tests.support.network_files import pixels, simulated
from tests.support.network_graphs import GraphBuilder, resnet, vgg, vit
from tests.support.network_models import drawn_network

GRID = (-1.5, 2.5)


def rounded_value() -> RoundedValue:
    value = PassedValue(without_linear=True)
    value.__class__ = RoundedValue
    value.input_range = GRID
    return value


def test_a_value_is_rounded_on_its_grid_and_clipped_values_have_no_gradient() -> None:
    x = torch.linspace(-3, 4, 1001, requires_grad=True)
    scale, zero = affine(*GRID)
    found = rounded_value()(x)
    assert torch.equal(found, (torch.clamp(torch.round(x / scale) + zero, 0, 255) - zero) * scale)
    assert torch.equal(rounded_value()(found), found), "what is rounded stays"
    found.sum().backward()
    inside = (x / scale + zero > -0.5) & (x / scale + zero < 255.5)
    assert 0 < inside.sum() < len(x)
    assert torch.equal(x.grad, inside.float())


def test_a_value_that_was_not_calibrated_says_so() -> None:
    model = drawn_network(resnet())
    insert_fake_quantization(model, simulation=Simulation(scheme="static-int8"))
    with pytest.raises(RuntimeError, match="calibrated"):
        model(pixels(model))


@pytest.mark.parametrize("portable", [True, False])
def test_a_convolution_answers_with_rounded_weights_and_trains_the_weights_themselves(portable: bool) -> None:
    net = GraphBuilder()
    model = drawn_network(net.classified(net.conv_norm(INPUT, 6)))
    twin = simulated(model, "static-int8", pixels(model), portable=portable)
    conv = twin.conv_0
    assert isinstance(conv, SimulatedConv)
    x, push = pixels(model), torch.randn(16, 6, 8, 8)
    levels = pair_levels(model.conv_0.weight) if portable else 127
    weight = dequantized_weights(model.conv_0.weight.flatten(1), None, levels).view(6, 3, 3, 3).requires_grad_()
    functional.conv2d(x, weight, padding=1).backward(push)
    found = conv.train()(x)
    assert torch.allclose(found, functional.conv2d(x, weight, padding=1))
    assert not torch.allclose(found, model.conv_0(x), atol=1e-4)
    assert not torch.equal(conv.eval()(x), found), "the folded bias is an integer too"
    with gradient_precision("float32"):
        conv(x).backward(push)
    assert torch.allclose(conv.weight.grad, weight.grad, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("groups", [1, 2])
def test_only_gradients_of_ungrouped_convolutions_may_be_half(groups: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("compression.quantization.precision.has_bfloat16", lambda _device: True)
    conv = nn.Conv2d(4, 6, 3, stride=2, padding=1, groups=groups)
    conv.__class__ = SimulatedConv
    x = torch.randn(3, 4, 8, 8).contiguous(memory_format=torch.channels_last).requires_grad_()
    answers, gradients = {}, {}
    for precision in ("auto", "float32"):
        with gradient_precision(precision):
            answers[precision] = conv(x)
        answers[precision].square().sum().backward()
        gradients[precision] = [found.grad.clone() for found in (x, conv.weight, conv.bias)]
        x.grad = conv.weight.grad = conv.bias.grad = None
    assert torch.allclose(answers["auto"], answers["float32"], rtol=1e-5, atol=1e-5)
    for half, exact in zip(gradients["auto"], gradients["float32"], strict=True):
        assert (half - exact).norm() <= 0.01 * exact.norm()
    assert torch.equal(gradients["auto"][1], gradients["float32"][1]) == (groups == 2)


@torch.no_grad()
def test_rounding_before_a_norm_is_rounding_the_folded_convolution() -> None:
    net = GraphBuilder()
    model = drawn_network(net.classified(net.conv_norm(INPUT, 6, act="")))
    conv, norm = model.conv_0, model.batch_norm_1
    norm.weight[1] *= -1
    images = pixels(model)
    factor = norm.weight / (norm.running_var + norm.eps).sqrt()
    folded, bias = conv.weight * factor[:, None, None, None], norm.bias - factor * norm.running_mean
    twin = simulated(model, "static-int8", images)
    scale, _ = affine(*input_ranges(twin)["values.input"])
    whole, scales, integers = static_weights(folded.flatten(1), bias, scale, pair_levels(conv.weight))
    weight = (whole.float() * scales[:, None]).view_as(folded)
    x = twin.values[INPUT](images)
    wanted = functional.conv2d(x, weight, integers * scale * scales, padding=1)
    assert torch.allclose(twin.batch_norm_1(twin.conv_0(x)), wanted, atol=1e-6)
    apart = copy.deepcopy(twin)
    assert apart.conv_0.source[0] is apart.values[INPUT]
    assert apart.conv_0.norm[0] is apart.batch_norm_1


@torch.no_grad()
def test_a_linear_layer_has_the_range_of_the_value_that_it_reads() -> None:
    model = drawn_network(vgg())
    twin = simulated(model, "static-int8", pixels(model))
    for node in model.config.network.nodes:
        if node.op == "linear":
            layer = twin.get_submodule(node.name)
            assert isinstance(layer, StaticLinear)
            assert layer.ends() in input_ranges(twin).values()
            assert not hasattr(layer, "input_range")


def test_a_network_trains_with_the_statistics_of_its_batches() -> None:
    model = drawn_network(resnet())
    twin = simulated(model, "static-int8", pixels(model)).train()
    before = {name: value.clone() for name, value in twin.state_dict().items()}
    twin(pixels(model)).logits.square().sum().backward()
    assert all(parameter.grad is not None for parameter in twin.parameters())
    moved = [name for name, value in twin.state_dict().items() if not torch.equal(value, before[name])]
    assert moved
    assert all(name.endswith(("running_mean", "running_var")) for name in moved)


@pytest.mark.parametrize("scheme", ["static-int8", "dynamic-int8"])
def test_training_without_dropout_changes_the_biases_of_convolutions_too(scheme: str) -> None:
    model = drawn_network(vgg())
    twin = simulated(model, scheme, pixels(model))
    set_training_mode(twin, dropout=False)
    answers = twin(pixels(model)).logits
    assert torch.equal(answers, twin.eval()(pixels(model)).logits), "it trains as it answers"
    answers.square().sum().backward()
    gradients = {name: parameter.grad for name, parameter in twin.named_parameters()}
    assert [name for name in gradients if name.startswith("conv_") and name.endswith(".bias")]
    assert [name for name, found in gradients.items() if found is None or not found.any()] == []


@pytest.mark.parametrize("scheme", SCHEMES)
def test_a_simulation_is_read_back_and_undone(scheme: str) -> None:
    model = drawn_network(vit())
    twin = simulated(model, scheme, pixels(model))
    found = simulation_of(twin)
    assert found is not None
    assert found.scheme == scheme
    assert set(found.ranges) == set(ranged_inputs(model, scheme))
    again = copy.deepcopy(model)
    insert_fake_quantization(again, simulation=found)
    images = pixels(model, 2, seed=7)
    assert torch.equal(again(images).logits, twin(images).logits)
    assert set(twin.state_dict()) == set(model.state_dict())
    remove_fake_quantization(twin)
    assert not is_simulated(twin)
    assert {type(module) for _, module in quantizable(twin)} == {nn.Linear, nn.Conv2d}
    assert torch.equal(twin(images).logits, model(images).logits)


def test_what_a_scheme_makes_of_a_network() -> None:
    model = drawn_network(vit())
    kinds = {"static-int8": StaticLinear, "dynamic-int8": FakeQuantLinear, "weight-only-int4": WeightOnlyLinear}
    for scheme, kind in kinds.items():
        twin = simulated(model, scheme, pixels(model))
        layers = dict(quantizable(twin))
        assert {type(layer) for layer in layers.values()} == {kind, SimulatedConv}
    values = {name: set(ranged_inputs(model, name)) for name in SCHEMES}
    assert values["static-int8"] == {f"values.{name}" for name in rounded_values(model.config.network)}
    assert values["dynamic-int8"] == {"values.input", f"values.{convolution_of(model)}"}
    assert not values["weight-only-int8"] | values["weight-only-int4"]


def convolution_of(model: nn.Module) -> str:
    return next(node.name for node in model.config.network.nodes if node.op == "conv")


def test_another_scheme_takes_the_values_of_the_first_back() -> None:
    model = drawn_network(vgg())
    twin = simulated(model, "static-int8", pixels(model))
    insert_fake_quantization(twin, simulation=Simulation(scheme="weight-only-int8"))
    assert not [name for name, module in twin.named_modules() if isinstance(module, RoundedValue)]


def test_a_part_of_a_network_is_simulated_alone() -> None:
    model = drawn_network(resnet())
    first = model.config.network.nodes[0].name
    names = insert_fake_quantization(model, lambda name: name in (first, "values.input"), Simulation(scheme="static-int8"))
    assert names == ["values.input", first]


def test_convolutions_of_other_models_stay() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten(), nn.Linear(16, 2))
    assert [name for name, _ in quantizable(model)] == ["2"]
    assert left_in_float(model) == 4 * 3 * 9


def test_places_of_rounding_are_values_and_layers_that_round_their_own_inputs() -> None:
    model = drawn_network(vgg())
    static = rounding_places(simulated(model, "static-int8", pixels(model)))
    assert set(static) == set(ranged_inputs(model, "static-int8"))
    dynamic = rounding_places(simulated(model, "dynamic-int8", pixels(model)))
    linear = {name for name, module in model.named_modules() if isinstance(module, nn.Linear)}
    assert set(dynamic) == set(ranged_inputs(model, "dynamic-int8")) | linear
    assert all(
        isinstance(place, SimulatedConv | WeightOnlyLinear)
        for place in rounding_places(simulated(model, "weight-only-int8", pixels(model))).values()
    )
