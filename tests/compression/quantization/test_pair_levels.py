"""The largest integers of convolutions in the portable form: no sum of two products leaves 16 bits."""

import numpy as np
import pytest
import torch

from compression.models.networks.graph import INPUT
from compression.quantization.pair_levels import pair_levels
from compression.quantization.weight_only import dequantized_weights
from tests.support.network_files import answers, integer_file, largest_pair, pixels, simulated
from tests.support.network_graphs import GraphBuilder
from tests.support.network_models import drawn_network

SHAPES = [(8, 16, 1, 1), (6, 3, 3, 3), (8, 7, 3, 3), (5, 1, 5, 5), (8, 12, 3, 2)]


def integers(weight: torch.Tensor) -> np.ndarray:
    rows, levels = weight.flatten(1), pair_levels(weight)
    scale = rows.abs().amax(dim=1, keepdim=True) / levels
    return torch.round(dequantized_weights(rows, None, levels) / scale).view_as(weight).numpy().astype(int)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("seed", range(5))
def test_two_neighbours_of_one_sign_fit_and_more_would_not(shape: tuple[int, ...], seed: int) -> None:
    weight = torch.randn(shape, generator=torch.Generator().manual_seed(seed))
    levels = pair_levels(weight)
    whole = integers(weight)
    assert levels.shape == (shape[0], 1)
    assert (np.abs(whole).reshape(shape[0], -1).max(axis=1) == levels[:, 0].numpy()).all()
    for channel, most in zip(whole, levels[:, 0].tolist(), strict=True):
        assert 255 * largest_pair(channel) <= 2**15 - 1
        assert 63 <= most <= 127
        wider = np.round(channel * (most + 2) / most)
        assert most >= 125 or largest_pair(wider) >= 127, "finer integers would have fitted"


def test_what_has_no_neighbour_of_its_size_and_sign_keeps_the_whole_range() -> None:
    alike = torch.ones(1, 8, 1, 1)
    apart = alike * torch.tensor([1.0, -1.0] * 4)[None, :, None, None]
    crossed = torch.tensor([0.0, 1, 1, 0, 0, 1, 1, 0])[None, :, None, None]
    weights = torch.cat([alike, apart, crossed, torch.zeros_like(alike)])
    assert pair_levels(weights).flatten().tolist() == [63, 127, 127, 127]


def test_scale_and_sign_of_a_channel_change_nothing() -> None:
    weight = torch.randn(6, 5, 3, 3, generator=torch.Generator().manual_seed(0))
    factor = torch.tensor([1.0, -1.0, 4.0, -0.25, 2.0, 8.0])[:, None, None, None]
    assert torch.equal(pair_levels(weight), pair_levels(weight * factor))


@pytest.mark.parametrize("kernel", [1, 3])
@pytest.mark.parametrize(
    ("channels", "groups"), [*((count, 1) for count in (2, 3, 4, 5, 7, 8, 9, 17, 20, 32)), (8, 2), (32, 2)]
)
@torch.no_grad()
def test_onnx_runtime_pairs_the_neighbours_that_are_meant(channels: int, kernel: int, groups: int) -> None:
    """Large weights stand beside each other, but never in one pair: a runtime with other pairs would saturate without VNNI."""
    net = GraphBuilder()
    inner = net.conv(net.op("relu", net.conv(INPUT, channels, kernel=1)), 8, kernel=kernel, groups=groups)
    model = drawn_network(net.classified(inner))
    model.get_parameter("conv_0.weight").fill_(0.2)  # all values are large at once
    weight = model.get_parameter(f"{inner}.weight")
    crossed = (torch.arange(weight.shape[1]) + 1) // 2 % 2
    weight.copy_((0.001 + 0.1 * crossed)[None, :, None, None].expand_as(weight))
    images = pixels(model, 16).abs() + 1
    twin = simulated(model, "static-int8", images)
    if channels % 2 == 0:
        assert twin.get_submodule(inner).row_levels().min() > 120
    expected = twin(images).logits
    assert torch.allclose(answers(integer_file(twin), images), expected, atol=0.02 * float(expected.abs().max()))
