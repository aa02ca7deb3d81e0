"""Token losses of a language model against the text, a teacher, or a teacher's stored targets."""

from collections.abc import Collection
from dataclasses import dataclass
from typing import Literal, Protocol

import torch
from torch import Tensor
from torch.nn import functional

from compression.modalities import losses
from compression.modalities.text.causal_lm import chunked_head
from compression.modalities.text.causal_lm.hidden_states import Head

Term = Literal["soft", "hard"]
ALL: tuple[Term, ...] = ("soft", "hard")
HARD: tuple[Term, ...] = ("hard",)


class NextTokenTargets(Protocol):
    """A teacher's next-token targets at each scored position."""

    @property
    def columns(self) -> tuple[Tensor, ...]:
        """The target tensors, (asked, ...) each."""
        ...

    def divergence(self, logits: Tensor, *columns: Tensor) -> Tensor:
        """Return a student's divergence from the targets.

        logits: (some, vocabulary); columns: of the same positions -> scalar in nats, mean over positions.
        """
        ...


@dataclass(frozen=True)
class FullTargets:
    """A teacher's full distributions. states: (asked, width), which `head` turns into logits over the student's vocabulary."""

    states: Tensor
    head: Head
    temperature: float

    @property
    def columns(self) -> tuple[Tensor, ...]:
        """Return the states."""
        return (self.states,)

    def divergence(self, logits: Tensor, *columns: Tensor) -> Tensor:
        """Return KL(teacher ‖ student) × τ² over the vocabulary."""
        with torch.no_grad():
            wanted = chunked_head.widen(self.head(columns[0]))
        return losses.soft_target_loss(logits, wanted, self.temperature)


@dataclass(frozen=True)
class TopKTargets:
    """A teacher's stored top-k distributions. known: (asked, kept + 1), ids: (asked, kept), of `losses.top_k_targets`."""

    known: Tensor
    ids: Tensor
    temperature: float

    @property
    def columns(self) -> tuple[Tensor, ...]:
        """Return log-probabilities and ids."""
        return self.known, self.ids

    def divergence(self, logits: Tensor, *columns: Tensor) -> Tensor:
        """Return KL(teacher ‖ student) × τ² over the stored tokens, and all others as one class."""
        known, ids = columns
        return losses.top_k_target_loss(logits, known, ids, self.temperature)


def next_token_loss(states: Tensor, head: Head, following: Tensor, *, size: int) -> Tensor:
    """Return the cross-entropy of the text's next tokens -> scalar in nats, mean over tokens."""
    return next_token_terms(states, head, following, None, HARD, size=size)["hard"]


def next_token_terms(
    states: Tensor, head: Head, following: Tensor, wanted: NextTokenTargets | None, asked: Collection[Term] = ALL, *, size: int
) -> dict[Term, Tensor]:
    """Return a student's losses against a teacher (soft) and the text (hard).

    -> each a scalar in nats, mean over tokens. states: (asked, width), only of scored positions, so that padding does not
    count; head: the student's; following: (asked,), the next tokens' ids; wanted: of the same positions, None if there is no
    soft term; size: tokens that go through the heads at once (`chunked_head.chunk_size`). Both terms share one pass through the
    student's head. If no position is scored, all terms are 0. Raises ValueError for a soft term without a teacher.
    """
    if "soft" in asked and wanted is None:
        raise ValueError("there is no teacher to be held against")
    order: list[Term] = [term for term in ALL if term in asked]
    if not len(states):
        return dict.fromkeys(order, states.sum() * 0.0)
    said = wanted.columns if wanted is not None and "soft" in order else ()

    def part(states: Tensor, following: Tensor, *said: Tensor) -> Tensor:
        logits = chunked_head.widen(head(states))
        found = []
        if "soft" in order and wanted is not None:
            found.append(wanted.divergence(logits, *said) * len(logits))
        if "hard" in order:
            found.append(functional.cross_entropy(logits, following, reduction="sum"))
        return torch.stack(found)

    means = chunked_head.sum_over_chunks(part, size, states, following, *said) / len(states)
    return dict(zip(order, means.unbind(), strict=True))
