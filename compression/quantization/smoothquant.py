"""SmoothQuant (Xiao et al. 2023): move outliers from activations, which are rounded together, into weights, which are not.

Channel j of a layer's input is divided by s_j and the weights that read it are multiplied by s_j:

    s_j = max|X_j|^α / max|W_j|^(1 − α)

The division is folded into the layer that makes the channel, and only where that is exact: it must feed this one layer, and
nothing between them may mix channels or bend values. In a post-norm encoder a norm feeds the residual stream as well as the
layer, so what is left are

- value → attention output: attention takes means over tokens, channel by channel;
- the last norm → pooler or head;
- feed-forward up → down, where the activation is ReLU (Relu(x / s) = Relu(x) / s);
- ELECTRA's embedding norm → its projection.

In a pre-norm decoder the norms feed nothing but what reads them, so (with max|W_j| over all readers) there are more:

- each norm of the stream → queries, keys and values, or gate and up; not before experts, which are read by a router too;
- up → down, whatever bends the gate, which is the other factor;
- the norms over DeepSeek's ranks → what reads these;
- the last norm → the head, unless it is the table of tokens.

In place of one α for all, the factors can be searched for (`search`), each pair its own.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from compression.modalities.base import Examples
from compression.models.adapters.registry import decoder_of, encoder_of, is_decoder
from compression.models.linear_layers import matrix
from compression.quantization import calibration
from compression.quantization.dynamic_int8 import fake_quantize_rows
from compression.quantization.fake_quantize import (
    DYNAMIC,
    Simulation,
    insert_fake_quantization,
    remove_fake_quantization,
    simulation_of,
)
from compression.quantization.static_int8 import affine, codes
from compression.quantization.weight_only import dequantized_weights
from compression.schema.recipe.base import Scheme

LEAST, MOST = 1e-4, 1e4
"""Bounds of s: weights beyond them would leave the range in which float32 is exact enough to stay the same model."""
LARGEST_EXPONENT = 13
"""The same bounds for powers of two."""
ALPHAS = tuple(step / 10 for step in range(10))
"""What is tried of a pair; 0 leaves it as it is."""
TOKENS, OUTPUTS = 512, 512
"""Of a layer, how many tokens and about how many outputs its error is reckoned on: more change no choice."""
SMALLEST = 1e-30


@dataclass(frozen=True)
class Pair:
    """Names of layers: the first makes the others' input, which is one and the same, and feeds nothing else."""

    source: str
    readers: tuple[str, ...]


def pairs(model: PreTrainedModel) -> list[Pair]:
    """List where smoothing can be folded in exactly, in model order."""
    names = {module: name for name, module in model.named_modules()}
    found = decoder_of(model).feeds(model) if is_decoder(model) else _of_encoder(model)
    return [Pair(names[source], tuple(names[reader] for reader in readers)) for source, readers in found]


def _of_encoder(model: PreTrainedModel) -> list[tuple[nn.Module, tuple[nn.Module, ...]]]:
    family = encoder_of(model)
    found: list[tuple[nn.Module, tuple[nn.Module, ...]]] = []
    projection = getattr(model.base_model, "embeddings_project", None)
    if projection is not None:
        found.append((family.embeddings(model).LayerNorm, (projection,)))  # type: ignore[arg-type]
    bends = getattr(model.config, "hidden_act", None) or getattr(model.config, "activation", None)
    for layer in family.layers(model):
        found.append((layer.value, (layer.attended,)))
        if bends == "relu":
            found.append((layer.up, (layer.down,)))
    head = family.head(model)
    reader = head.dense if head.dense is not None else head.out
    if reader is not None:
        found.append((family.stream_norms(model)[-1], (reader,)))
    return found


def factors(activations: Tensor, weights: Tensor, alpha: float) -> Tensor:
    """Return s of each channel; 1 where a channel says nothing or is not read. All (channels,): peaks of |X_j| and |W_j|."""
    wanted = activations.pow(alpha) / weights.pow(1 - alpha)
    return torch.where((activations > 0) & (weights > 0), wanted, torch.ones_like(wanted)).clamp(LEAST, MOST)


Factors = dict[str, Tensor]
"""Name of a source → what its channels were divided by, (channels,) on the CPU."""


@torch.no_grad()
def smooth(
    model: PreTrainedModel,
    rows: Examples,
    how: float | Literal["search"],
    parts: int = 1,
    simulation: Simulation = DYNAMIC,
) -> Factors:
    """Fold smoothing into a model in place, wherever it can be; return by what. What it answers stays the same to rounding.

    rows: what activations are measured on. how: α, or "search" (see `search`). simulation: how a search is to round; nothing
    may be simulated in the model yet.
    """
    where = pairs(model)
    if not where:
        return {}
    found = search(model, where, rows, parts, simulation) if how == "search" else _by_peaks(model, where, rows, how, parts)
    fold(model, where, found)
    return found


def _by_peaks(model: PreTrainedModel, where: list[Pair], rows: Examples, alpha: float, parts: int) -> Factors:
    first = {pair.readers[0]: model.get_submodule(pair.readers[0]) for pair in where}
    peaks = calibration.channel_peaks(model, first, rows, parts)
    found: Factors = {}
    for pair in where:
        largest = torch.stack([matrix(model.get_submodule(name)).abs().amax(dim=0) for name in pair.readers]).amax(dim=0)
        found[pair.source] = factors(peaks[pair.readers[0]], largest.cpu().float(), alpha)
    return found


def search(
    model: PreTrainedModel, where: list[Pair], rows: Examples, parts: int = 1, simulation: Simulation = DYNAMIC
) -> Factors:
    """Choose for each pair what serves it best: s_j = rms(X_j)^α of that α by which its readers, rounded, err least.

    The search and its form are AWQ's (Lin et al. 2024), there for weights alone; here activations are rounded as well where
    the scheme rounds them. s is taken to the nearest power of two: folding it in is exact in any floating point then.
    """
    first = {pair.readers[0]: model.get_submodule(pair.readers[0]) for pair in where}
    heard = calibration.sample_tokens(model, first, rows, TOKENS, parts)
    found: Factors = {}
    for pair in where:
        x = heard.pop(pair.readers[0]).float()
        weights = [_some_rows(matrix(model.get_submodule(name)).float().to(x.device)) for name in pair.readers]
        sizes = x.square().mean(dim=0).sqrt()
        asked = [_powers_of_two(sizes, alpha) for alpha in ALPHAS]
        errors = [rounding_error(x / s, [weight * s for weight in weights], simulation) for s in asked]
        found[pair.source] = asked[min(range(len(asked)), key=errors.__getitem__)].cpu()
    return found


def rounding_error(x: Tensor, weights: list[Tensor], simulation: Simulation) -> float:
    """Return how far layers of one input are from their answers once rounded: Σ over layers of the squared error's share.

    x: (tokens, in); weights: (out, in) each.
    """
    rounded, total = _rounded_input(x, simulation.scheme), 0.0
    for weight in weights:
        answer = x @ weight.t()
        off = rounded @ _rounded_weight(weight, simulation).t() - answer
        total += (off.square().sum() / answer.square().sum().clamp_min(SMALLEST)).item()
    return total


def _rounded_input(x: Tensor, scheme: Scheme) -> Tensor:
    if scheme == "dynamic-int8":
        return fake_quantize_rows(x)
    if scheme == "static-int8":
        scale, zero = affine(x.min().item(), x.max().item())
        return (codes(x, scale, zero) - zero) * scale
    return x


def _rounded_weight(weight: Tensor, simulation: Simulation) -> Tensor:
    return dequantized_weights(
        weight, simulation.group_size if simulation.scheme == "weight-only-int4" else None, simulation.levels
    )


def _powers_of_two(sizes: Tensor, alpha: float) -> Tensor:
    """sizes^α by its geometric mean, to the nearest power of two; 1 where a channel says nothing. (channels,) -> same."""
    logs = torch.where(sizes > 0, alpha * sizes.clamp_min(SMALLEST).log2(), torch.nan)
    exponents = (logs - logs.nanmean()).nan_to_num(0.0).round()
    return torch.exp2(exponents).clamp(2.0**-LARGEST_EXPONENT, 2.0**LARGEST_EXPONENT)


def _some_rows(weight: Tensor) -> Tensor:
    return weight[:: max(1, len(weight) // OUTPUTS)]


@torch.no_grad()
def fold(model: PreTrainedModel, where: list[Pair], found: Factors) -> None:
    """Divide channels where they are made, and multiply what reads them; in place."""
    for pair in where:
        if pair.source not in found:
            continue
        source = model.get_submodule(pair.source)
        s = found[pair.source].to(next(source.parameters()).device)
        for name, parameter in source.named_parameters():  # (channels, …) each: weight and bias
            part = matrix(source) if name == "weight" else parameter
            part.div_(s if part.ndim == 1 else s[:, None])
        for name in pair.readers:
            matrix(model.get_submodule(name)).mul_(s)


@contextmanager
def undone(model: PreTrainedModel, found: Factors) -> Iterator[None]:
    """Have a model as it would be without smoothing for a while: its channels are then of the sizes that they had.

    What is left out of a cut is chosen by size. Ranges that layers were given follow no smoothing: while there is some to be
    undone, nothing is simulated.
    """
    if not found:
        yield
        return
    where, simulation = pairs(model), simulation_of(model)
    inverse = {source: 1 / s for source, s in found.items()}
    remove_fake_quantization(model)
    fold(model, where, inverse)
    try:
        yield
    finally:
        fold(model, where, found)
        if simulation is not None:
            insert_fake_quantization(model, simulation=simulation)
