"""The terms that all families share: the parts of a layer, the head, and the units that a cut keeps."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Literal

from torch import Tensor, nn

from compression.models.architectures.pruning_groups import key_of

SPECIAL_IDS = ("pad_token_id", "bos_token_id", "eos_token_id", "sep_token_id", "cls_token_id", "mask_token_id")
"""Keys by which stock configs name a token."""
View = Callable[[Tensor], Tensor]
"""Arranges what is observed as (rows, positions, units)."""
Tap = tuple[nn.Module, Literal["in", "out"]] | tuple[nn.Module, Literal["in", "out"], View]
"""A place to observe: the first input of a module, or its output, as it is or arranged."""


def view_of(tap: Tap) -> View:
    """Return what arranges the values at a tap; those of a pooled vector have one position."""
    return tap[2] if len(tap) == 3 else lambda seen: seen[:, None] if seen.ndim == 2 else seen


@dataclass(frozen=True)
class EncoderLayer:
    """The parts of one encoder layer that pruning and distillation use."""

    whole: nn.Module
    query: nn.Linear
    key: nn.Linear
    value: nn.Linear
    attended: nn.Linear
    attended_norm: nn.LayerNorm
    up: nn.Linear
    down: nn.Linear
    norm: nn.LayerNorm

    @property
    def sums(self) -> tuple[Tap, Tap]:
        """Return the taps for the stream after attention is added, and after the feed-forward part is added."""
        return (self.attended_norm, "in"), (self.norm, "in")


@dataclass(frozen=True)
class DecoderLayer:
    """The parts of one decoder layer whose inputs and outputs show how much its units matter."""

    whole: nn.Module  #: stream in, stream out
    norms: tuple[nn.Module, nn.Module]  #: those that read the stream
    attended: nn.Module  #: reads the outputs of the heads, group by group
    down: nn.Module  #: reads the feed-forward units, those of the shared experts if there are experts
    experts: nn.Module | None = (
        None  #: called with (tokens, hidden), and each token's experts and their weights, (tokens, chosen)
    )
    query_rank: nn.Module | None = None  #: the norm over compressed queries
    kv_rank: nn.Module | None = None  #: the norm over compressed keys and values

    @property
    def sums(self) -> tuple[Tap, Tap]:
        """Return the taps for the stream after attention is added, and after the feed-forward part is added."""
        return (self.norms[1], "in"), (self.whole, "out")


Layer = EncoderLayer | DecoderLayer


@dataclass(frozen=True)
class Attention:
    """Where one layer computes its queries, keys and values, before rotary positions are applied."""

    makers: tuple[nn.Module, ...]  #: their outputs hold them, (rows, tokens, ...) each
    #: turns these outputs into queries, keys and values, (rows, tokens, `Shape.attended`), a copy of a shared key for each head
    read: Callable[..., tuple[Tensor, Tensor, Tensor]]


@dataclass(frozen=True)
class Head:
    """The layers after the encoder or decoder. `out` reads the outputs of `dense`, or the stream if there is no `dense`."""

    dense: nn.Linear | None  #: the pooler or a similar layer
    out: nn.Linear | None  #: the output layer, None in a bare model


Feed = tuple[nn.Module, tuple[nn.Module, ...]]
"""A norm or a layer, and the linear layers that read its output; nothing else reads it."""


@dataclass(frozen=True)
class PruningPlan:
    """What stays of a model: the given units of the given groups, and all units of the others.

    kept: ascending indices (n,) by the group's name (`pruning_groups.key_of`, with the old layer number, or the axis alone for
    a group that all layers share). For a group within another (`WITHIN`): (units, n), a row for each outer unit that stays.
    """

    kept: Mapping[str, Tensor] = field(default_factory=dict)
    layers: tuple[int, ...] | None = None  #: old numbers, from 0, of the layers that stay, in their new order; None: all
    eight_bits: tuple[int, ...] = ()  #: new numbers of those that have 8 bits where the scheme has 4

    def of(self, axis: str, layer: int | None = None) -> Tensor | None:
        """Return the units of a group that stay; None if all stay."""
        found = self.kept.get(key_of(axis, layer))
        return self.kept.get(axis) if found is None else found
