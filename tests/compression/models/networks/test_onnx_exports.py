"""Networks that torch exported, by either exporter, are read as what they were before: whole layers, with names."""

import warnings
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from compression.models.networks.channels import channel_groups
from compression.models.networks.cutting import cut_graph
from compression.models.networks.graph import Graph
from compression.models.networks.onnx_reader import read_onnx
from tests.support.onnx_files import answers, runtime_answers

ROWS = torch.export.Dim.DYNAMIC


class Excite(nn.Module):
    """Squeeze-and-excitation in a residual block with a channel shuffle: what mobile networks are made of."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1, bias=False), nn.BatchNorm2d(8), nn.Hardswish())
        self.deep = nn.Conv2d(8, 8, 3, 1, 1, groups=8)
        self.squeeze = nn.Conv2d(8, 4, 1)
        self.excite = nn.Conv2d(4, 8, 1)
        self.head = nn.Linear(8, 5)

    def forward(self, images: Tensor) -> Tensor:
        first = self.stem(images)
        deep = functional.silu(self.deep(first))
        gate = functional.hardsigmoid(self.excite(functional.relu(self.squeeze(functional.adaptive_avg_pool2d(deep, 1)))))
        summed = first + deep * gate
        rows, channels, height, width = summed.shape
        shuffled = summed.view(rows, 2, channels // 2, height, width).transpose(1, 2).reshape(rows, channels, height, width)
        pooled = functional.max_pool2d(shuffled, 3, 2, 1)
        joined: Tensor = self.head(torch.cat((functional.mish(pooled[:, 4:]), pooled[:, :4]), 1).mean((2, 3)))
        return joined


class Attend(nn.Module):
    """A vision transformer of one block, with its own attention or torch's."""

    def __init__(self, width: int = 12, *, own: bool = True) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, width, 4, 4)
        self.token = nn.Parameter(torch.randn(1, 1, width))
        self.places = nn.Parameter(torch.randn(1, 17, width))
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.proj = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.attention = None if own else nn.MultiheadAttention(width, 3, batch_first=True)
        self.fc1, self.fc2 = nn.Linear(width, 20), nn.Linear(20, width)
        self.head = nn.Linear(width, 7)

    def attend(self, tokens: Tensor) -> Tensor:
        if self.attention is not None:
            found: Tensor = self.attention(tokens, tokens, tokens, need_weights=False)[0]
            return found
        rows, count, width = tokens.shape
        query, key, value = self.qkv(tokens).reshape(rows, count, 3, 3, width // 3).permute(2, 0, 3, 1, 4).unbind(0)
        mixed = functional.scaled_dot_product_attention(query, key, value)
        projected: Tensor = self.proj(mixed.transpose(1, 2).reshape(rows, count, width))
        return projected

    def forward(self, images: Tensor) -> Tensor:
        tokens = self.patches(images).flatten(2).transpose(1, 2)
        tokens = torch.cat((self.token.expand(tokens.shape[0], -1, -1), tokens), 1) + self.places
        tokens = tokens + self.attend(self.norm1(tokens))
        tokens = tokens + self.fc2(functional.gelu(self.fc1(self.norm2(tokens))))
        logits: Tensor = self.head(tokens[:, 0])
        return logits


class Windows(nn.Module):
    """Shifted windows, as Swin moves them, and a layer norm over channels, as ConvNeXt writes it out."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 6, 2, 2)
        self.weight, self.bias = nn.Parameter(torch.randn(6)), nn.Parameter(torch.randn(6))
        self.mixed = nn.Linear(16, 16)
        self.head = nn.Linear(6, 4)

    def forward(self, images: Tensor) -> Tensor:
        maps = self.stem(images)
        mean = maps.mean(1, keepdim=True)
        maps = (maps - mean) / torch.sqrt((maps - mean).pow(2).mean(1, keepdim=True) + 1e-6)
        maps = self.weight[:, None, None] * maps + self.bias[:, None, None]
        rolled = torch.roll(maps.permute(0, 2, 3, 1), (-1, -1), (1, 2))
        rows, height, width, channels = rolled.shape
        windows = rolled.view(rows, height // 4, 4, width // 4, 4, channels).permute(0, 1, 3, 2, 4, 5).reshape(-1, 16, channels)
        windows = functional.gelu(self.mixed(windows.transpose(1, 2)), approximate="tanh").transpose(1, 2)
        whole = windows.reshape(rows, height // 4, width // 4, 4, 4, channels).permute(0, 1, 3, 2, 4, 5)
        logits: Tensor = self.head(whole.reshape(rows, height, width, channels).mean((1, 2)))
        return logits


class Respond(nn.Module):
    """A global response normalization, as timm's ConvNeXt V2 writes it out, with the channels last or not."""

    def __init__(self, *, last: bool) -> None:
        super().__init__()
        self.last, shape = last, (8,) if last else (8, 1, 1)
        self.stem, self.after = nn.Conv2d(3, 8, 4, 4), nn.Conv2d(8, 6, 1)
        self.weight, self.bias = nn.Parameter(torch.randn(shape)), nn.Parameter(torch.randn(shape))
        self.head = nn.Linear(6, 4)

    def forward(self, images: Tensor) -> Tensor:
        maps = self.stem(images)
        maps = maps.permute(0, 2, 3, 1) if self.last else maps
        norms = maps.norm(p=2, dim=(1, 2) if self.last else (2, 3), keepdim=True)
        share = norms / (norms.mean(dim=-1 if self.last else 1, keepdim=True) + 1e-6)
        maps = maps + torch.addcmul(self.bias, self.weight, maps * share)
        maps = maps.permute(0, 3, 1, 2) if self.last else maps
        logits: Tensor = self.head(self.after(maps).mean((2, 3)))
        return logits


def made(model: nn.Module) -> nn.Module:
    """Return a network whose weights are no defaults, so that each counts."""
    draw = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for tensor in (*model.parameters(), *model.buffers()):
            if tensor.is_floating_point():
                tensor.copy_(torch.rand(tensor.shape, generator=draw) * 0.8 + 0.1)
    return model.eval()


def older(model: nn.Module, path: Path, opset: int) -> Path:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            model,
            (torch.randn(2, 3, 16, 16),),
            path,
            dynamo=False,
            input_names=["image"],
            dynamic_axes={"image": {0: "rows"}},
            opset_version=opset,
        )
    return path


def read(path: Path) -> Graph:
    """Read a file, and see that the network computes what ONNX Runtime computes of it."""
    graph, tensors = read_onnx(path)
    for rows in (1, 3):
        images = np.random.default_rng(rows).standard_normal((rows, 3, 16, 16)).astype(np.float32)
        np.testing.assert_allclose(answers(graph, tensors, images), runtime_answers(path, images), rtol=1e-4, atol=1e-5)
    return graph


def operators(graph: Graph) -> Counter[str]:
    return Counter(node.op for node in graph.nodes)


@pytest.mark.parametrize("opset", [11, 17])
def test_a_mobile_network_is_whole_again(opset: int, tmp_path: Path) -> None:
    graph = read(older(made(Excite()), tmp_path / "model.onnx", opset))
    found = operators(graph)
    assert {"silu", "hard_swish", "hard_sigmoid", "mish"} < found.keys()
    assert not {"sigmoid", "tanh", "clip"} & found.keys(), "activations are one node each"
    assert {"stem_0", "deep", "squeeze", "excite", "head"} <= {node.name for node in graph.nodes}, "named after their modules"
    assert len([group for group in channel_groups(graph) if group.units > 1]) >= 2


@pytest.mark.parametrize("own", [True, False])
@pytest.mark.parametrize("opset", [14, 17])
def test_a_transformer_is_whole_again(own: bool, opset: int, tmp_path: Path) -> None:
    graph = read(older(made(Attend(own=own)), tmp_path / "model.onnx", opset))
    found = operators(graph)
    assert (found["layer_norm"], found["gelu"], found["softmax"], found["matmul"]) == (2, 1, 1, 2)
    layers = [node for node in graph.nodes if node.op == "linear"]
    assert all("bias" in node.tensors for node in layers), "what is added behind a product is its bias"
    heads = [group for group in channel_groups(graph) if group.axis == "heads"]
    assert [group.units for group in heads] == [3]


def test_windows_and_a_written_out_norm_are_followed(tmp_path: Path) -> None:
    graph = read(older(made(Windows()), tmp_path / "model.onnx", 17))
    found = operators(graph)
    assert (found["layer_norm"], found["gelu"], found["linear"]) == (1, 1, 2)
    assert not {"sub", "sqrt", "div"} & found.keys()


@pytest.mark.parametrize("last", [True, False])
def test_channels_that_are_compared_with_their_mean_can_be_cut_and_others_are_zero_then(last: bool, tmp_path: Path) -> None:
    path = older(made(Respond(last=last)), tmp_path / "model.onnx", 17)
    graph, (_, tensors) = read(path), read_onnx(path)
    found = operators(graph)
    assert (found["reduce_sum"], found["reduce_mean"]) == (2, 1)  # over positions and channels; the pool
    first, _ = channel_groups(graph)
    assert first.units == 8
    kept = [0, 2, 3, 5, 7]
    cut = cut_graph(graph, {first.key: kept})
    zeros = {name: value.copy() for name, value in tensors.items()}
    for member in first.members:
        if member.dim == 0 or graph.named(member.tensor.partition(".")[0]).op == "constant":
            np.moveaxis(zeros[member.tensor], member.dim, 0)[[1, 4, 6]] = 0.0
    images = np.random.default_rng(0).standard_normal((2, 3, 16, 16)).astype(np.float32)
    small = {name: cut.cut(name, tensors[name]) for name in cut.graph.tensors()}
    np.testing.assert_allclose(answers(cut.graph, small, images), answers(graph, zeros, images), rtol=1e-5, atol=1e-5)


def test_a_mean_over_positions_stays_one(tmp_path: Path) -> None:
    class Sequence(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem, self.head = nn.Conv2d(3, 8, 4, 4), nn.Linear(8, 4)

        def forward(self, images: Tensor) -> Tensor:
            logits: Tensor = self.head(self.stem(images).flatten(2).mean(-1))
            return logits

    found = operators(read(older(made(Sequence()), tmp_path / "model.onnx", 17)))
    assert (found["reduce_sum"], found["reduce_mean"]) == (0, 1)


def test_todays_exporter_is_read_before_and_after_its_own_optimization(tmp_path: Path) -> None:
    program = torch.onnx.export(
        made(Attend()), (torch.randn(2, 3, 16, 16),), dynamo=True, optimize=False, dynamic_shapes=({0: ROWS},), verbose=False
    )
    assert program is not None
    program.save(tmp_path / "plain.onnx", external_data=False)
    program.optimize()
    program.save(tmp_path / "optimized.onnx", external_data=False)
    plain, optimized = (operators(read(tmp_path / f"{name}.onnx")) for name in ("plain", "optimized"))
    kinds = ("conv", "linear", "layer_norm", "gelu", "matmul", "softmax")
    assert [plain[kind] for kind in kinds] == [optimized[kind] for kind in kinds] == [1, 5, 2, 1, 2, 1]
