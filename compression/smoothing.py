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
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from compression import calibration, families
from compression.batches import Encoded
from compression.numerics import matrix

LEAST, MOST = 1e-4, 1e4
"""Bounds of s: weights beyond them would leave the range in which float32 is exact enough to stay the same model."""


@dataclass(frozen=True)
class Pair:
    """Names of layers: the first makes the others' input, which is one and the same, and feeds nothing else."""

    source: str
    readers: tuple[str, ...]


def pairs(model: PreTrainedModel) -> list[Pair]:
    """List where smoothing can be folded in exactly, in model order."""
    names = {module: name for name, module in model.named_modules()}
    found = families.decoder_of(model).feeds(model) if families.decodes(model) else _of_encoder(model)
    return [Pair(names[source], tuple(names[reader] for reader in readers)) for source, readers in found]


def _of_encoder(model: PreTrainedModel) -> list[tuple[nn.Module, tuple[nn.Module, ...]]]:
    family = families.encoder_of(model)
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


@torch.no_grad()
def smooth(model: PreTrainedModel, rows: Encoded, alpha: float, parts: int = 1) -> list[Pair]:
    """Fold smoothing into a model in place, wherever it can be; return where. What it answers stays the same to rounding.

    rows: what the activations' peaks are measured on. Nothing may be simulated in the model yet.
    """
    where = pairs(model)
    first = {pair.readers[0]: model.get_submodule(pair.readers[0]) for pair in where}
    peaks = calibration.channel_peaks(model, first, rows, parts)
    for pair in where:
        source, weights = model.get_submodule(pair.source), [matrix(model.get_submodule(name)) for name in pair.readers]
        largest = torch.stack([weight.abs().amax(dim=0) for weight in weights]).amax(dim=0)
        s = factors(peaks[pair.readers[0]].to(largest.device), largest, alpha)
        for name, parameter in source.named_parameters():  # (channels, …) each: weight and bias
            part = matrix(source) if name == "weight" else parameter
            part.div_(s if part.ndim == 1 else s[:, None])
        for weight in weights:
            weight.mul_(s)
    return where
