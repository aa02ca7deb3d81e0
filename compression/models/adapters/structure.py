"""The terms that all families share: the parts of a layer, the head, and the units that a cut keeps."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Literal

from torch import Tensor, nn

from compression.models.architectures.pruning_groups import key_of

SPECIAL_IDS = ("pad_token_id", "bos_token_id", "eos_token_id", "sep_token_id", "cls_token_id", "mask_token_id")
"""Keys by which stock configs name a token."""
Tap = tuple[nn.Module, Literal["in", "out"]]
"""A place to observe: the first input of a module, or its output."""


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
    """The parts of one decoder layer whose inputs and outputs show how much its units matter.

    whole: stream in, stream out; norms: those that read the stream; attended: reads the outputs of the heads, group by group;
    down: reads the feed-forward units, those of the shared experts if there are experts; experts: called with (tokens, hidden)
    and with the numbers and the weights of the experts that each token goes to, (tokens, chosen); query_rank, kv_rank: the
    norms over compressed queries and over compressed keys and values.
    """

    whole: nn.Module
    norms: tuple[nn.Module, nn.Module]
    attended: nn.Module
    down: nn.Module
    experts: nn.Module | None = None
    query_rank: nn.Module | None = None
    kv_rank: nn.Module | None = None

    @property
    def sums(self) -> tuple[Tap, Tap]:
        """Return the taps for the stream after attention is added, and after the feed-forward part is added."""
        return (self.norms[1], "in"), (self.whole, "out")


Layer = EncoderLayer | DecoderLayer


@dataclass(frozen=True)
class Attention:
    """Where one layer computes its queries, keys and values, before rotary positions are applied.

    makers: the modules whose outputs hold them, (rows, tokens, ...) each; read: turns these outputs, in their order, into
    queries, keys and values, (rows, tokens, `Shape.attended`) each, head after head. Heads that share a key get a copy each.
    """

    makers: tuple[nn.Module, ...]
    read: Callable[..., tuple[Tensor, Tensor, Tensor]]


@dataclass(frozen=True)
class Head:
    """The head of a model: the layers after the encoder or decoder.

    `dense`: the pooler or similar layer, None if there is none; `out`: the output layer, None in a bare model. `out` reads the
    outputs of `dense`, or the stream if there is no `dense`.
    """

    dense: nn.Linear | None
    out: nn.Linear | None


Feed = tuple[nn.Module, tuple[nn.Module, ...]]
"""A norm or a layer, and the linear layers that read its output. All of them read the same output, and nothing else reads
it."""


@dataclass(frozen=True)
class PruningPlan:
    """What stays of a model: the given units of the given groups, and all units of the others.

    kept: ascending indices (n,) by the group's name (`pruning_groups.key_of`). For a group within another (`WITHIN`) they are
    (units, n): a row for each unit of the outer group that stays. A group that all layers share is named by its axis alone.
    layers: the numbers of the layers that stay, from 0, in their new order; None if all stay. Groups are named by the old
    numbers of the layers.
    """

    kept: Mapping[str, Tensor] = field(default_factory=dict)
    layers: tuple[int, ...] | None = None

    def of(self, axis: str, layer: int | None = None) -> Tensor | None:
        """Return the units of a group that stay; None if all stay."""
        found = self.kept.get(key_of(axis, layer))
        return self.kept.get(axis) if found is None else found
