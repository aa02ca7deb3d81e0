"""SmoothQuant (Xiao et al. 2023): moves outliers from activations, whose channels are rounded together, into weights.

Channel j of a layer's input is divided, and the weights that read it are multiplied, by s_j = max|X_j|^α / max|W_j|^(1 − α).
The division is folded into the layer that produces the channel, and only if that is exact: the producer must feed only this
layer, and nothing between them may mix channels or apply a nonlinearity. In a post-norm encoder a norm feeds both the residual
stream and the layer, so these pairs remain:
- value → attention output: attention takes means over tokens, channel by channel;
- the last norm → pooler or head; ELECTRA's embedding norm → its projection;
- feed-forward up → down, if the activation is ReLU (Relu(x / s) = Relu(x) / s).
In a pre-norm decoder the norms feed only the layers that read them, so (with max|W_j| over all readers) there are more pairs:
- each norm of the residual stream → queries, keys and values, or gate and up; not before experts, whose router reads it too;
- up → down, whatever the activation of the gate, which is the other factor;
- the norms over DeepSeek's low-rank projections → the layers that read them;
- the last norm → the head, unless the head is tied to the token embeddings.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor
from transformers import PreTrainedModel

from compression.modalities.base import Examples
from compression.models.adapters.registry import adapter_of
from compression.models.linear_layers import matrix
from compression.quantization import calibration, fake_quantize
from compression.quantization.dynamic_int8 import fake_quantize_rows
from compression.quantization.fake_quantize import DYNAMIC, Simulation
from compression.quantization.static_int8 import affine, codes
from compression.quantization.weight_only import dequantized_weights
from compression.schema.schemes import SCHEMES, Scheme

LEAST, MOST = 1e-4, 1e4
"""Bounds of s: beyond them, weights would leave the range in which float32 is exact enough to keep the model the same."""
LARGEST_EXPONENT = 13  #: the same bounds for powers of two
ALPHAS = tuple(step / 10 for step in range(10))  #: values of α that the search tries for a pair; 0 changes nothing
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
    feeds = adapter_of(model).feeds(model)
    return [Pair(names[source], tuple(names[reader] for reader in readers)) for source, readers in feeds]


def factors(activations: Tensor, weights: Tensor, alpha: float) -> Tensor:
    """Return s from maxima of |X_j| and |W_j|, all (channels,); 1 if a channel is always 0 or not read."""
    wanted = activations.pow(alpha) / weights.pow(1 - alpha)
    return torch.where((activations > 0) & (weights > 0), wanted, torch.ones_like(wanted)).clamp(LEAST, MOST)


Factors = dict[str, Tensor]  #: name of a source → the divisors of its channels, (channels,) on the CPU


@torch.no_grad()
def smooth(
    model: PreTrainedModel, rows: Examples, how: float | Literal["search"], parts: int = 1, simulation: Simulation = DYNAMIC
) -> Factors:
    """Fold smoothing into all possible pairs of a model in place, up to rounding without effect; return the factors.

    rows: calibration rows. how: α, or "search". simulation: the rounding that a search uses; the model must not have it yet.
    """
    where = pairs(model)
    if not where:
        return {}
    divisors = search(model, where, rows, parts, simulation) if how == "search" else _by_peaks(model, where, rows, how, parts)
    fold(model, where, divisors)
    return divisors


def _by_peaks(model: PreTrainedModel, where: list[Pair], rows: Examples, alpha: float, parts: int) -> Factors:
    first = {pair.readers[0]: model.get_submodule(pair.readers[0]) for pair in where}
    peaks = calibration.channel_peaks(model, first, rows, parts)
    divisors: Factors = {}
    for pair in where:
        largest = torch.stack([matrix(model.get_submodule(name)).abs().amax(dim=0) for name in pair.readers]).amax(dim=0)
        divisors[pair.source] = factors(peaks[pair.readers[0]], largest.cpu().float(), alpha)
    return divisors


def search(
    model: PreTrainedModel, where: list[Pair], rows: Examples, parts: int = 1, simulation: Simulation = DYNAMIC
) -> Factors:
    """Choose s_j = rms(X_j)^α for each pair, with the α that minimizes its readers' rounding error.

    AWQ's search (Lin et al. 2024), with rounded activations if the scheme rounds them. s is rounded to the nearest power of
    two, so that folding is exact in any floating point.
    """
    first = {pair.readers[0]: model.get_submodule(pair.readers[0]) for pair in where}
    inputs = calibration.sample_tokens(model, first, rows, TOKENS, parts)
    divisors: Factors = {}
    for pair in where:
        x = inputs.pop(pair.readers[0]).float()
        weights = [matrix(model.get_submodule(name)).float().to(x.device) for name in pair.readers]
        weights = [weight[:: max(1, len(weight) // OUTPUTS)] for weight in weights]
        sizes = x.square().mean(dim=0).sqrt()
        candidates = [_powers_of_two(sizes, alpha) for alpha in ALPHAS]
        errors = [rounding_error(x / s, [weight * s for weight in weights], simulation) for s in candidates]
        divisors[pair.source] = candidates[min(range(len(candidates)), key=errors.__getitem__)].cpu()
    return divisors


def rounding_error(x: Tensor, weights: list[Tensor], simulation: Simulation) -> float:
    """Return Σ of relative squared rounding errors of layers with a common input. x: (tokens, in); weights: (out, in)."""
    rounded, total = _rounded_input(x, simulation.scheme), 0.0
    for weight in weights:
        answer = x @ weight.t()
        off = rounded @ dequantized_weights(weight, simulation.group_size, simulation.levels).t() - answer
        total += (off.square().sum() / answer.square().sum().clamp_min(SMALLEST)).item()
    return total


def _rounded_input(x: Tensor, scheme: Scheme) -> Tensor:
    if SCHEMES[scheme].calibrated:
        scale, zero = affine(x.min().item(), x.max().item())
        return (codes(x, scale, zero) - zero) * scale
    return fake_quantize_rows(x) if SCHEMES[scheme].rounds_activations else x


def _powers_of_two(sizes: Tensor, alpha: float) -> Tensor:
    """Return sizes^α over its geometric mean, as powers of two; 1 if a channel is 0. (channels,) -> same."""
    logs = torch.where(sizes > 0, alpha * sizes.clamp_min(SMALLEST).log2(), torch.nan)
    exponents = (logs - logs.nanmean()).nan_to_num(0.0).round()
    return torch.exp2(exponents).clamp(2.0**-LARGEST_EXPONENT, 2.0**LARGEST_EXPONENT)


@torch.no_grad()
def fold(model: PreTrainedModel, where: list[Pair], divisors: Factors) -> None:
    """Divide channels in the sources and multiply the readers' weights, in place."""
    for pair in where:
        if pair.source not in divisors:
            continue
        source = model.get_submodule(pair.source)
        s = divisors[pair.source].to(next(source.parameters()).device)
        for name, parameter in source.named_parameters():  # (channels, …) each: weight and bias
            part = matrix(source) if name == "weight" else parameter
            part.div_(s if part.ndim == 1 else s[:, None])
        for name in pair.readers:
            matrix(model.get_submodule(name)).mul_(s)


@contextmanager
def undone(model: PreTrainedModel, divisors: Factors) -> Iterator[None]:
    """Undo smoothing, and fake quantization, within this context: pruning needs units' original magnitudes."""
    if not divisors:
        yield
        return
    where, simulation = pairs(model), fake_quantize.simulation_of(model)
    inverse = {source: 1 / s for source, s in divisors.items()}
    fake_quantize.remove_fake_quantization(model)  # input ranges do not follow the change
    fold(model, where, inverse)
    try:
        yield
    finally:
        fold(model, where, divisors)
        if simulation is not None:
            fake_quantize.insert_fake_quantization(model, simulation=simulation)
