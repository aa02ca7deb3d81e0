"""The words that all families are spoken of in: the parts of a layer, what stays of a model, and what every family can do."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Protocol, TypeVar

import torch
from torch import Tensor, nn
from transformers import PretrainedConfig, PreTrainedModel

from compression.models.architectures.decoder_configs import Biases
from compression.schema.report.measurements import Parameters, Shape

SPECIAL_IDS = ("pad_token_id", "bos_token_id", "eos_token_id", "sep_token_id", "cls_token_id", "mask_token_id")
"""Keys by which stock configs name a token."""
Entry = TypeVar("Entry")


@dataclass(frozen=True)
class EncoderLayer:
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
class DecoderLayer:
    """The parts of one decoder layer whose inputs and outputs say how much its units matter.

    whole: stream in, stream out; norms: those that read the stream; attended: reads what the heads say, group by group; down:
    reads the feed-forward units, of the shared experts where there are experts; experts: called with (tokens, hidden), the
    numbers and the weights of the experts that each token goes to, (tokens, chosen); ranks: the norms over squeezed queries
    and over squeezed keys and values.
    """

    whole: nn.Module
    norms: tuple[nn.Module, nn.Module]
    attended: nn.Module
    down: nn.Module
    experts: nn.Module | None = None
    query_rank: nn.Module | None = None
    kv_rank: nn.Module | None = None


@dataclass(frozen=True)
class Attention:
    """Where the queries, keys and values of one layer are made, before positions turn them.

    makers: the modules whose outputs hold them, (rows, tokens, ...) each; read: from these outputs, in their order, to queries,
    keys and values, (rows, tokens, `Shape.attended`) each, head after head. Heads that share a key have each its copy.
    """

    makers: tuple[nn.Module, ...]
    read: Callable[..., tuple[Tensor, Tensor, Tensor]]


@dataclass(frozen=True)
class Head:
    """What follows the model. `dense`: pooler or the like, None where there is none; `out`: the answer, None in a bare one.

    `out` reads the outputs of `dense`, or the stream where there is no `dense`.
    """

    dense: nn.Linear | None
    out: nn.Linear | None


@dataclass(frozen=True)
class KeptExperts:
    """What stays of a layer's experts, ascending.

    experts: (n,), numbers of the routed ones; units: (n, width), those of each that stays; shared: (m,), units of the shared
    experts, which are one feed-forward part in the stock models.
    """

    experts: Tensor
    units: Tensor
    shared: Tensor


@dataclass(frozen=True)
class PruningPlan:
    """Indices that stay, ascending: stream channels and outputs of the head's dense layer, heads and units of each layer.

    `layers` are the numbers of those that stay, from 0, None where all do; `heads` and `ffn` are of these.

    Where an encoder's heads become narrower, `channels` says for each layer which channels of each head that stays do so, from
    0: of queries and keys, which are compared channel by channel, and of values. (heads, size) each; empty where all stay.

    Of a decoder `pooled` says nothing, and `heads` are groups: a KV head with the query heads that read it. Where its layers
    have more, there is an entry for each of them too: `routed`, None in a layer without experts, as `ffn` is empty in one with
    them; `query_ranks` and `kv_ranks`, channels of the squeezed queries (empty where they are not) and of keys and values.
    """

    hidden: Tensor
    pooled: Tensor
    heads: tuple[Tensor, ...]
    ffn: tuple[Tensor, ...]
    layers: tuple[int, ...] | None = None
    routed: tuple[KeptExperts | None, ...] = ()
    query_ranks: tuple[Tensor, ...] = ()
    kv_ranks: tuple[Tensor, ...] = ()
    channels: tuple[tuple[Tensor, Tensor], ...] = ()

    def of_layers(self, keep: Sequence[int]) -> "PruningPlan":
        """Leave of a choice from all layers what it says of some. keep: their numbers, from 0, in their order."""

        def those(entries: tuple[Entry, ...]) -> tuple[Entry, ...]:
            return tuple(entries[number] for number in keep) if entries else ()

        return replace(
            self,
            heads=those(self.heads),
            ffn=those(self.ffn),
            layers=tuple(keep),
            routed=those(self.routed),
            query_ranks=those(self.query_ranks),
            kv_ranks=those(self.kv_ranks),
            channels=those(self.channels),
        )

    def attention_rows(self, size: int) -> list[tuple[Tensor, Tensor]]:
        """Say for each layer which rows of queries and keys stay, and which of values. size: of a head, as it was."""
        if not self.channels:
            return [(rows, rows) for rows in (head_rows(heads, size) for heads in self.heads)]
        return [
            (head_rows(heads, size, queries), head_rows(heads, size, values))
            for heads, (queries, values) in zip(self.heads, self.channels, strict=True)
        ]

    def query_scale(self, size: int) -> float:
        """Say what queries are multiplied by: stock models divide by the root of the head size, and shall attend as before."""
        return math.sqrt(self.channels[0][0].shape[1] / size) if self.channels else 1.0


Feed = tuple[nn.Module, tuple[nn.Module, ...]]
"""A norm or a layer, and the linear layers that read its output, which is one and the same and feeds nothing else."""
Axes = tuple[Tensor | None, Tensor | None]
"""Which outputs and which inputs of a module stay; None is all of them. A table has rows for outputs."""


class ArchitectureAdapter(Protocol):
    """What every model family can do, encoders and decoders. `families.of` finds the one of a model or a config.

    What a stage needs beside it is a matter of how the layers are made: `families.encoder_of`, `families.decoder_of`.
    """

    attention: str
    """The attention implementation that the engine opens its models with: the fastest that the stock code has."""

    def shape_of(self, config: PretrainedConfig) -> Shape:
        """Read the widths from a stock config."""
        ...

    def max_positions(self, config: PretrainedConfig) -> int:
        """Say how many tokens a text may have."""
        ...

    def types(self, config: PretrainedConfig) -> int:
        """Count the token types that the model tells apart; fewer than two means that it takes no token_type_ids."""
        ...

    def biases(self, config: PretrainedConfig) -> Biases:
        """Say where linear layers have biases because the config asks for them."""
        ...

    def head(self, model: PreTrainedModel) -> Head:
        """Return what follows the encoder or decoder."""
        ...

    def attentions(self, model: PreTrainedModel) -> list[Attention]:
        """Return where each layer's queries, keys and values are made, shallow first."""
        ...

    def stream_norms(self, model: PreTrainedModel) -> list[nn.Module]:
        """Return every norm of the residual stream, shallow first: an encoder's make it, a decoder's read it."""
        ...

    def head_scores(self, scores: list[Tensor]) -> list[Tensor]:
        """Make the scores of each layer's heads such that a choice by them can be built. (heads,) each -> the same."""
        ...

    def layer_parameters(self, model: PreTrainedModel) -> list[list[nn.Parameter]]:
        """Return the parameters of each layer, shallow first."""
        ...

    def quantization_group(self, name: str) -> int:
        """Say how deep a module of this name lies: 0 the embeddings, 1 and on the layers, a large number what follows them."""
        ...

    def parameters_of(self, model: PreTrainedModel) -> Parameters:
        """Count elements of unique parameters, those of the token, position and type tables apart."""
        ...

    def everything(self, model: PreTrainedModel) -> PruningPlan:
        """Return the choice that keeps the model as it is."""
        ...

    def narrowed(self, model: PreTrainedModel, kept: PruningPlan) -> PreTrainedModel:
        """Build the stock model of the narrower stock config and fill it with the kept slices of `model`."""
        ...

    def drawn(self, model: PreTrainedModel, shape: Shape) -> PreTrainedModel:
        """Build a stock model like `model` with other widths and layers, its weights drawn anew. The vocabulary stays."""
        ...

    def without_layers(self, model: PreTrainedModel, keep: list[int]) -> PreTrainedModel:
        """Build the stock model that has only the layers named."""
        ...

    def with_vocabulary(self, model: PreTrainedModel, kept_token_ids: list[int]) -> PreTrainedModel:
        """Build the stock model that knows only the tokens named."""
        ...

    def fixed_tokens(self, config: PretrainedConfig) -> tuple[int, ...]:
        """Return the first token ids, which must keep their numbers when the vocabulary shrinks."""
        ...


def head_rows(heads: Tensor, size: int, channels: Tensor | None = None) -> Tensor:
    """Turn head numbers to the rows of query, key and value that belong to them, all or some of each head's.

    heads: (n,), channels: (n, m) from 0 in each head -> (n × size,) or (n × m,).
    """
    return (heads[:, None] * size + (torch.arange(size) if channels is None else channels)).flatten()
