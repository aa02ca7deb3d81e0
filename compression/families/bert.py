"""BERT: which weights hang together, and how the stock config says the new widths.

Post-norm encoder: one residual stream (`hidden`) runs through all layers and is normalized by LayerNorm after each addition;
`hidden = heads × head size`. Channels of the stream are chosen once for the model, heads and feed-forward units for each
layer. The pooler reads the stream, but its outputs are a space of its own, so they are chosen apart.
"""

import copy
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from transformers import BertConfig, BertForSequenceClassification

from compression.report import Parameters, Shape


@dataclass(frozen=True)
class Layer:
    """The parts of one encoder layer that pruning and distillation speak of."""

    query: nn.Linear
    key: nn.Linear
    value: nn.Linear
    attended: nn.Linear
    attended_norm: nn.LayerNorm
    up: nn.Linear
    down: nn.Linear
    norm: nn.LayerNorm


@dataclass(frozen=True)
class Kept:
    """Indices that stay, ascending: stream channels and pooler outputs of the model, heads and units of each layer."""

    hidden: Tensor
    pooled: Tensor
    heads: tuple[Tensor, ...]
    ffn: tuple[Tensor, ...]


def shape_of(config: BertConfig) -> Shape:
    """Read the widths from a stock config."""
    return Shape(
        layers=config.num_hidden_layers,
        hidden=config.hidden_size,
        heads=config.num_attention_heads,
        ffn=config.intermediate_size,
        vocabulary=config.vocab_size,
    )


def layers(model: BertForSequenceClassification) -> list[Layer]:
    """Return the encoder's layers, shallow first."""
    return [
        Layer(
            query=layer.attention.self.query,
            key=layer.attention.self.key,
            value=layer.attention.self.value,
            attended=layer.attention.output.dense,
            attended_norm=layer.attention.output.LayerNorm,
            up=layer.intermediate.dense,
            down=layer.output.dense,
            norm=layer.output.LayerNorm,
        )
        for layer in model.bert.encoder.layer
    ]


def stream_norms(model: BertForSequenceClassification) -> list[nn.LayerNorm]:
    """Return every LayerNorm whose output is the residual stream, the embeddings' first."""
    return [model.bert.embeddings.LayerNorm, *(norm for layer in layers(model) for norm in (layer.attended_norm, layer.norm))]


def layer_parameters(model: BertForSequenceClassification) -> list[list[nn.Parameter]]:
    """Return the parameters of each encoder layer, shallow first."""
    return [list(layer.parameters()) for layer in model.bert.encoder.layer]


def quantization_group(name: str) -> int:
    """Say how deep a module of this name lies: 0 the embeddings, 1 and on the layers, a large number what follows them."""
    parts = name.split(".")
    if "layer" in parts:
        return 1 + int(parts[parts.index("layer") + 1])
    return 0 if "embeddings" in parts else 10_000


def parameters_of(model: BertForSequenceClassification) -> Parameters:
    """Count elements of unique parameters, those of the token, position and type tables apart."""
    tables = {id(p): p.numel() for m in model.modules() if isinstance(m, nn.Embedding) for p in m.parameters()}
    unique = {id(p): p.numel() for p in model.parameters()}
    embedding, total = sum(tables.values()), sum(unique.values())
    return Parameters(total=total, embedding=embedding, other=total - embedding)


def head_rows(heads: Tensor, size: int) -> Tensor:
    """Turn head numbers to the rows of query, key and value that belong to them. (n,) -> (n × size,)."""
    return (heads[:, None] * size + torch.arange(size)).flatten()


@torch.no_grad()
def narrowed(model: BertForSequenceClassification, kept: Kept) -> BertForSequenceClassification:
    """Build the stock model of the narrower stock config and fill it with the kept slices of `model`.

    Removing feed-forward units or heads alone equals the dense model with those units masked, exactly; removing stream
    channels does not, because LayerNorm then takes its mean and variance over fewer of them.
    """
    old: BertConfig = model.config
    size = old.hidden_size // old.num_attention_heads
    config = copy.deepcopy(old)
    config.hidden_size = len(kept.hidden)
    config.num_attention_heads = len(kept.heads[0])
    config.intermediate_size = len(kept.ffn[0])
    small = BertForSequenceClassification(config).to(next(model.parameters()).dtype)
    source = dict(model.named_parameters())
    for name, target in small.named_parameters():
        target.copy_(_slice(name, source[name], kept, size))
    small.train(model.training)
    return small


def _slice(name: str, weight: Tensor, kept: Kept, head_size: int) -> Tensor:
    *path, leaf = name.split(".")
    rows, columns = _axes(path, kept, head_size)
    if "embeddings" in path and "LayerNorm" not in path:
        return weight[:, kept.hidden]
    out = weight if rows is None else weight[rows]
    return out[:, columns] if leaf == "weight" and columns is not None else out


def _axes(path: list[str], kept: Kept, head_size: int) -> tuple[Tensor | None, Tensor | None]:
    """Say which outputs and which inputs of the module at `path` stay; None is all of them."""
    if path[-1] == "LayerNorm":
        return kept.hidden, None
    if path[0] == "classifier":
        return None, kept.pooled
    if "pooler" in path:
        return kept.pooled, kept.hidden
    if "layer" not in path:
        return None, None
    number = int(path[path.index("layer") + 1])
    rows, units = head_rows(kept.heads[number], head_size), kept.ffn[number]
    if "self" in path:
        return rows, kept.hidden
    if "attention" in path:
        return kept.hidden, rows
    return (units, kept.hidden) if "intermediate" in path else (kept.hidden, units)


def everything(model: BertForSequenceClassification) -> Kept:
    """Return the choice that keeps the model as it is."""
    shape = shape_of(model.config)
    return Kept(
        hidden=torch.arange(shape.hidden),
        pooled=torch.arange(shape.hidden),
        heads=tuple(torch.arange(shape.heads) for _ in range(shape.layers)),
        ffn=tuple(torch.arange(shape.ffn) for _ in range(shape.layers)),
    )


def linear_modules(model: BertForSequenceClassification) -> Iterator[nn.Linear]:
    """Yield every linear layer, fake-quantized or not."""
    for module in model.modules():
        if isinstance(module, nn.Linear):
            yield module
