"""static-int8 and weight-only in training: the artifact's arithmetic forward, straight-through gradients, stock state dicts."""

import copy

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from torch import nn
from torch.nn import functional
from transformers import BertForSequenceClassification

from compression.quantization import calibration, fake_quantize
from compression.quantization.dynamic_int8 import fake_quantize_rows
from compression.quantization.fake_quantize import Simulation, input_ranges, insert_fake_quantization
from compression.quantization.static_int8 import StaticLinear, affine
from compression.quantization.weight_only import dequantized_weights, grouped_integers
from compression.schema.recipe.quantize import Quantize
from tests.support.tiny_bert import encoded, sentences

SCHEMES = ("static-int8", "weight-only-int8", "weight-only-int4")


def layer(scheme: str, width: int = 48, **settings: object) -> tuple[nn.Linear, nn.Module, torch.Tensor]:
    torch.manual_seed(0)
    plain, fake = nn.Linear(width, 40), nn.Linear(width, 40)
    fake.load_state_dict(plain.state_dict())
    asked = Simulation.of(Quantize(scheme=scheme, **settings)).model_copy(update={"ranges": {"0": (-1.5, 2.5)}})
    assert insert_fake_quantization(nn.Sequential(fake), simulation=asked) == ["0"]
    return plain, fake, torch.randn(3, 5, width)


@pytest.mark.parametrize(("portable", "levels"), [(True, 63), (False, 127)])
def test_a_static_layer_answers_as_rounded_matrices_do(portable: bool, levels: int) -> None:
    plain, fake, x = layer("static-int8", portable=portable)
    scale, zero = affine(-1.5, 2.5)
    rounded = (np.clip(np.round(x.numpy() / np.float32(scale)) + zero, 0, 255) - zero) * scale
    weight, bias = plain.weight.detach().numpy(), plain.bias.detach().numpy()
    units = np.abs(weight).max(1) / levels
    wanted = rounded @ (np.round(weight / units[:, None]) * units[:, None]).T + np.round(bias / (scale * units)) * scale * units
    assert fake(x).detach().numpy() == pytest.approx(wanted, abs=1e-5)
    assert not torch.allclose(fake(x), plain(x), atol=1e-4), "nothing was rounded"


def test_no_gradient_comes_from_what_was_clipped() -> None:
    plain, fake, x = layer("static-int8")
    mine, other, push = x.clone().requires_grad_(), x.clone().requires_grad_(), torch.randn(3, 5, 40)
    fake(mine).backward(push)
    functional.linear(other.clamp(-1.5, 2.5), fake_quantize_rows(plain.weight, 63), plain.bias).backward(push)
    outside = (x < -1.51) | (x > 2.51)
    assert outside.any()
    assert not mine.grad[outside].any()
    assert functional.cosine_similarity(mine.grad.flatten(), other.grad.flatten(), dim=0) > 0.999
    for name in ("weight", "bias"):
        got, wanted = fake.get_parameter(name).grad, plain.get_parameter(name).grad
        if wanted is not None:
            assert functional.cosine_similarity(got.flatten(), wanted.flatten(), dim=0) > 0.999


def test_a_static_layer_hears_its_row_alone_and_a_channel_without_weights_keeps_its_bias() -> None:
    _, fake, x = layer("static-int8")
    assert fake(x).equal(fake(torch.cat([x, 1000 * torch.randn(1, 5, 48)]))[:3])
    with torch.no_grad():
        fake.get_parameter("weight")[3] = 0
        fake.get_parameter("bias")[3] = 2.5
    assert torch.allclose(fake(x)[..., 3], torch.tensor(2.5), rtol=1e-6)


def test_a_static_layer_that_was_not_calibrated_says_so() -> None:
    fake = nn.Linear(4, 4)
    insert_fake_quantization(nn.Sequential(fake), simulation=Simulation(scheme="static-int8"))
    with pytest.raises(RuntimeError, match="calibrated"):
        fake(torch.ones(1, 4))


@pytest.mark.parametrize(("width", "group"), [(64, 32), (48, 32), (20, 32), (48, 16), (80, 64)])
def test_four_bits_have_a_scale_a_group_of_the_recipe_and_the_last_is_what_is_left(width: int, group: int) -> None:
    plain, fake, x = layer("weight-only-int4", width, group_size=group)
    weight = plain.weight.detach().numpy()
    wanted = np.zeros_like(weight)
    for start in range(0, width, group):
        part = weight[:, start : start + group]
        scale = np.abs(part).max(1, keepdims=True) / 7
        wanted[:, start : start + group] = np.round(part / scale) * scale
    whole, scales = grouped_integers(plain.weight, group)
    assert whole.shape == (40, group * -(-width // group))
    assert scales.shape == (40, -(-width // group))
    assert int(whole.abs().max()) == 7
    assert dequantized_weights(plain.weight, group).numpy() == pytest.approx(wanted, abs=1e-6)
    assert fake(x).detach().numpy() == pytest.approx(x.numpy() @ wanted.T + plain.bias.detach().numpy(), abs=1e-5)


@pytest.mark.parametrize("scheme", ["weight-only-int8", "weight-only-int4"])
def test_the_gradient_of_a_rounded_weight_passes_straight_through(scheme: str) -> None:
    plain, fake, x = layer(scheme)
    mine, push = x.clone().requires_grad_(), torch.randn(3, 5, 40)
    fake(mine).backward(push)
    assert torch.allclose(mine.grad, push @ dequantized_weights(plain.weight, fake.group_size), atol=1e-5)
    assert torch.allclose(fake.weight.grad, push.reshape(-1, 40).t() @ x.reshape(-1, 48), atol=1e-4)


@pytest.mark.parametrize("scheme", SCHEMES)
def test_a_scheme_is_put_in_read_back_and_taken_out(model: BertForSequenceClassification, scheme: str) -> None:
    before = {name: value.clone() for name, value in model.state_dict().items()}
    ids, rows, settings = torch.arange(5, 15)[None], encoded(sentences(40, 1)), Quantize(scheme=scheme, calibration_rows=16)
    plain, random = model(ids).logits, torch.get_rng_state()
    calibration.calibrate(model, rows, settings)
    assert torch.get_rng_state().equal(random), "calibration must not change what training draws"
    insert_fake_quantization(model, simulation=Simulation.of(settings))
    rounded = model(ids).logits
    assert not rounded.equal(plain)
    found = fake_quantize.simulation_of(model)
    assert (found.scheme, len(found.ranges)) == (scheme, 14 if scheme == "static-int8" else 0)
    assert found.portable == (scheme == "static-int8")
    assert all(value.equal(before[name]) for name, value in model.state_dict().items())
    assert set(model.state_dict()) == set(before)
    twin = copy.deepcopy(model)
    fake_quantize.remove_fake_quantization(twin)
    assert twin(ids).logits.equal(plain)
    fake_quantize.set_input_ranges(twin, dict.fromkeys(input_ranges(twin), (0.0, 0.0)))
    insert_fake_quantization(twin, simulation=Simulation.model_validate_json(found.model_dump_json()))
    assert twin(ids).logits.equal(rounded)


def test_calibration_hears_real_tokens_only(model: BertForSequenceClassification) -> None:
    rows = encoded([("word1 good word2 word3 word4", "positive"), ("bad", "negative")])
    quiet, loud = copy.deepcopy(model), copy.deepcopy(model)
    with torch.no_grad():
        loud.bert.embeddings.word_embeddings.weight[0] = 1000 * torch.randn(32)  # the padding token's
    for one in (quiet, loud):
        calibration.calibrate(one, rows, Quantize(scheme="static-int8", observer="min-max"))
    for name, found in input_ranges(quiet).items():
        assert input_ranges(loud)[name] == pytest.approx(found, rel=1e-4)


def test_the_observer_decides_the_range(model: BertForSequenceClassification) -> None:
    rows, found = encoded(sentences(40, 1)), {}
    for observer, percentile in (("min-max", 99.99), ("percentile", 90.0), ("mse", 99.99)):
        calibration.calibrate(model, rows, Quantize(scheme="static-int8", observer=observer, percentile=percentile))
        found[observer] = input_ranges(model)
    for name, (low, high) in found["min-max"].items():
        narrow = found["percentile"][name]
        assert low < narrow[0] < narrow[1] < high
        assert low <= found["mse"][name][0] < found["mse"][name][1] <= high
    layers = [module for module in model.modules() if isinstance(module, StaticLinear)]
    assert not layers, "calibration alone simulates nothing"


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"group_size": 64}, "group_size"),
        ({"observer": "min-max"}, "observer"),
        ({"scheme": "static-int8", "percentile": 99.0}, "percentile"),
        ({"scheme": "weight-only-int8", "smoothing": 0.5}, "smoothing"),
        ({"scheme": "weight-only-int8", "portable": False}, "portable"),
        ({"scheme": "weight-only-int4", "group_size": 48}, "group_size"),
    ],
)
def test_a_setting_that_would_have_no_effect_is_refused(settings: dict[str, object], named: str) -> None:
    with pytest.raises(ValueError, match=named):
        Quantize.model_validate(settings)
    assert Quantize.model_validate(Quantize().model_dump(mode="json")) == Quantize()


def test_a_smoothing_is_an_alpha_or_a_search_and_else_refused_by_its_own_name() -> None:
    for wrong in (0, 1, "serach", [0.5]):
        with pytest.raises(ValidationError, check=lambda error: [one["loc"] for one in error.errors()] == [("smoothing",)]):
            Quantize.model_validate({"smoothing": wrong})
    for given in (None, 0.5, "search"):
        assert Quantize.model_validate({"smoothing": given}).smoothing == given
    assert Quantize.model_validate({"scheme": "weight-only-int4", "smoothing": "search"}).smoothing == "search"
