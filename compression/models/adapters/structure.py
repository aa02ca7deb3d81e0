"""The words that all families share: the parts of a layer, what follows the model, and which units a cut leaves."""

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
    """The parts of one encoder layer that pruning and distillation speak of."""

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
        """Where the stream lies once attention, and once the feed-forward part, is added to it."""
        return (self.attended_norm, "in"), (self.norm, "in")


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

    @property
    def sums(self) -> tuple[Tap, Tap]:
        """Where the stream lies once attention, and once the feed-forward part, is added to it."""
        return (self.norms[1], "in"), (self.whole, "out")


Layer = EncoderLayer | DecoderLayer


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


Feed = tuple[nn.Module, tuple[nn.Module, ...]]
"""A norm or a layer, and the linear layers that read its output, which is one and the same and feeds nothing else."""


@dataclass(frozen=True)
class PruningPlan:
    """What stays of a model: some units of some groups, and all of the others.

    kept: by the group's name (`pruning_groups.key_of`), ascending indices (n,); where a group lies within another (`WITHIN`),
    those of each unit that stays of that one, (units, n). What all layers share is named by its axis alone. layers: numbers of
    the layers that stay, from 0, in their new order; None if all do. Groups are named by the layers' old numbers.
    """

    kept: Mapping[str, Tensor] = field(default_factory=dict)
    layers: tuple[int, ...] | None = None

    def of(self, axis: str, layer: int | None = None) -> Tensor | None:
        """Return which units stay of a group; None if all do."""
        found = self.kept.get(key_of(axis, layer))
        return self.kept.get(axis) if found is None else found
