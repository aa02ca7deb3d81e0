"""SmoothQuant (Xiao et al. 2023): moves outliers from activations into weights.

The channels of an activation are rounded together; weights are not.
Channel j of a layer's input is divided by s_j and the weights that read it are multiplied by s_j:

    s_j = max|X_j|^α / max|W_j|^(1 − α)

The division is folded into the layer that produces the channel, and only if that is exact: the producer must feed only this
layer, and nothing between them may mix channels or apply a nonlinearity. In a post-norm encoder a norm feeds both the residual
stream and the layer, so these pairs remain:

- value → attention output: attention takes means over tokens, channel by channel;
- the last norm → pooler or head;
- feed-forward up → down, if the activation is ReLU (Relu(x / s) = Relu(x) / s);
- ELECTRA's embedding norm → its projection.

In a pre-norm decoder the norms feed only the layers that read them, so (with max|W_j| over all readers) there are more pairs:

- each norm of the residual stream → queries, keys and values, or gate and up; not before experts, because a router reads the
  same input;
- up → down, whatever the activation of the gate, which is the other factor;
- the norms over DeepSeek's low-rank projections → the layers that read them;
- the last norm → the head, unless the head is tied to the token embeddings.

Instead of one α for all pairs, `search` can choose the factors of each pair.
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
from compression.schema.schemes import SCHEMES, Scheme

LEAST, MOST = 1e-4, 1e4
"""Bounds of s: beyond them, weights would leave the range in which float32 is exact enough to keep the model the same."""
LARGEST_EXPONENT = 13
"""The same bounds for powers of two."""
ALPHAS = tuple(step / 10 for step in range(10))
"""Values of α that the search tries for a pair; 0 changes nothing."""
TOKENS, OUTPUTS = 512, 512
"""Tokens, and approximate outputs, on which a layer's error is computed: more do not change any choice."""
SMALLEST = 1e-30


@dataclass(frozen=True)
class Pair:
    """Layer names: `source` produces the input that all `readers` share, and feeds nothing else."""

    source: str
    readers: tuple[str, ...]


def pairs(model: PreTrainedModel) -> list[Pair]:
    """List the pairs into which smoothing can be folded exactly, in model order."""
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
    """Return s of each channel; 1 if a channel is always 0 or not read.

    activations, weights: maxima of |X_j| and |W_j|; all (channels,).
    """
    wanted = activations.pow(alpha) / weights.pow(1 - alpha)
    return torch.where((activations > 0) & (weights > 0), wanted, torch.ones_like(wanted)).clamp(LEAST, MOST)


Factors = dict[str, Tensor]
"""Name of a source → the divisors of its channels, (channels,) on the CPU."""


@torch.no_grad()
def smooth(
    model: PreTrainedModel, rows: Examples, how: float | Literal["search"], parts: int = 1, simulation: Simulation = DYNAMIC
) -> Factors:
    """Fold smoothing into all possible pairs of a model in place; return the factors.

    The model's outputs stay the same up to rounding. rows: calibration rows. how: α, or "search" (see `search`). simulation:
    the rounding that a search uses; the model itself must not be simulated yet.
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
    """Choose s_j = rms(X_j)^α for each pair, with the α that minimizes its readers' rounding error.

    The search and its form are from AWQ (Lin et al. 2024), which applies them to weights alone; here activations are rounded
    too if the scheme rounds them. s is rounded to the nearest power of two, so that folding is exact in any floating point.
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
    """Return the rounding error of layers that share an input: Σ of their relative squared errors.

    x: (tokens, in); weights: (out, in) each.
    """
    rounded, total = _rounded_input(x, simulation.scheme), 0.0
    for weight in weights:
        answer = x @ weight.t()
        off = rounded @ _rounded_weight(weight, simulation).t() - answer
        total += (off.square().sum() / answer.square().sum().clamp_min(SMALLEST)).item()
    return total


def _rounded_input(x: Tensor, scheme: Scheme) -> Tensor:
    if SCHEMES[scheme].calibrated:
        scale, zero = affine(x.min().item(), x.max().item())
        return (codes(x, scale, zero) - zero) * scale
    return fake_quantize_rows(x) if SCHEMES[scheme].rounds_activations else x


def _rounded_weight(weight: Tensor, simulation: Simulation) -> Tensor:
    return dequantized_weights(weight, simulation.group_size, simulation.levels)


def _powers_of_two(sizes: Tensor, alpha: float) -> Tensor:
    """Return sizes^α over its geometric mean, as powers of two; 1 if a channel is 0. (channels,) -> same."""
    logs = torch.where(sizes > 0, alpha * sizes.clamp_min(SMALLEST).log2(), torch.nan)
    exponents = (logs - logs.nanmean()).nan_to_num(0.0).round()
    return torch.exp2(exponents).clamp(2.0**-LARGEST_EXPONENT, 2.0**LARGEST_EXPONENT)


def _some_rows(weight: Tensor) -> Tensor:
    return weight[:: max(1, len(weight) // OUTPUTS)]


@torch.no_grad()
def fold(model: PreTrainedModel, where: list[Pair], found: Factors) -> None:
    """Divide channels in the sources and multiply the readers' weights, in place."""
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
    """Undo smoothing within this context, so that channels have their original magnitudes.

    Pruning needs this, because it chooses units by magnitude. Input ranges do not follow the change, so fake quantization is
    removed while smoothing is undone.
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
