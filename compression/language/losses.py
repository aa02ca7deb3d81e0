"""What a language model is held against, token by token: the text itself, a teacher, or what is kept of one."""

from collections.abc import Collection
from dataclasses import dataclass
from typing import Literal, Protocol

import torch
from torch import Tensor
from torch.nn import functional

from compression import losses
from compression.language import chunks
from compression.language.models import Head
from compression.language.sequences import Sequences, seen

Term = Literal["soft", "hard"]
ALL: tuple[Term, ...] = ("soft", "hard")
HARD: tuple[Term, ...] = ("hard",)


class Wanted(Protocol):
    """A teacher's next token at each place that is asked for."""

    @property
    def columns(self) -> tuple[Tensor, ...]:
        """What is known of each place, (asked, ...) each."""
        ...

    def divergence(self, logits: Tensor, *columns: Tensor) -> Tensor:
        """Hold a student against it. logits: (some, vocabulary); columns: of the same places -> scalar in nats, their mean."""
        ...


@dataclass(frozen=True)
class Whole:
    """A teacher with all that it says. states: (asked, width), which `head` turns to logits over the student's vocabulary."""

    states: Tensor
    head: Head
    temperature: float

    @property
    def columns(self) -> tuple[Tensor, ...]:
        """The states."""
        return (self.states,)

    def divergence(self, logits: Tensor, *columns: Tensor) -> Tensor:
        """KL(teacher ‖ student) × τ² over the vocabulary."""
        with torch.no_grad():
            wanted = chunks.wide(self.head(columns[0]))
        return losses.soft_targets(logits, wanted, self.temperature)


@dataclass(frozen=True)
class Kept:
    """What was kept of a teacher. known: (asked, kept + 1), ids: (asked, kept), both as `losses.likeliest` makes them."""

    known: Tensor
    ids: Tensor
    temperature: float

    @property
    def columns(self) -> tuple[Tensor, ...]:
        """Log-probabilities and ids."""
        return self.known, self.ids

    def divergence(self, logits: Tensor, *columns: Tensor) -> Tensor:
        """KL(teacher ‖ student) × τ² over the tokens that were kept, and all others as one."""
        known, ids = columns
        return losses.likeliest_targets(logits, known, ids, self.temperature)


def next_token(states: Tensor, head: Head, following: Tensor, *, size: int) -> Tensor:
    """Cross-entropy of the text's own next tokens: `terms` with nobody to teach -> scalar in nats, mean over tokens."""
    return terms(states, head, following, None, HARD, size=size)["hard"]


def terms(
    states: Tensor, head: Head, following: Tensor, wanted: Wanted | None, asked: Collection[Term] = ALL, *, size: int
) -> dict[Term, Tensor]:
    """Hold a student against a teacher (soft) and the text (hard) -> each a scalar in nats, mean over tokens.

    states: (asked, width), of the places that are asked for alone, so that padding does not count; head: the student's;
    following: (asked,), the ids that come next; wanted: of the same places, None where there is no soft term; size: tokens that
    go through the heads together (`chunks.size_of`). Both terms share one pass through the student's head. Where nothing is
    asked for, all terms are 0. Raises ValueError for a soft term without a teacher.
    """
    if "soft" in asked and wanted is None:
        raise ValueError("there is no teacher to be held against")
    order: list[Term] = [term for term in ALL if term in asked]
    if not len(states):
        return dict.fromkeys(order, states.sum() * 0.0)
    said = wanted.columns if wanted is not None and "soft" in order else ()

    def part(states: Tensor, following: Tensor, *said: Tensor) -> Tensor:
        logits = chunks.wide(head(states))
        found = []
        if "soft" in order and wanted is not None:
            found.append(wanted.divergence(logits, *said) * len(logits))
        if "hard" in order:
            found.append(functional.cross_entropy(logits, following, reduction="sum"))
        return torch.stack(found)

    means = chunks.summed(part, size, states, following, *said) / len(states)
    return dict(zip(order, means.unbind(), strict=True))


def relations(student: Tensor, teacher: Tensor, batch: Sequences, heads: int) -> Tensor:
    """KL divergence of self-attention relations (MiniLMv2, Wang et al. 2021) within documents, to no later token.

    student: (kinds, rows, tokens, narrow), teacher: (kinds, rows, tokens, wide); heads: relation heads, which must divide both
    widths -> scalar in nats, mean over kinds, real tokens and heads. They grow with the square of the tokens, so they are of
    one kind and row at a time and computed again in the backward pass.
    """

    def part(student: Tensor, teacher: Tensor, mask: Tensor, positions: Tensor) -> Tensor:
        return losses.relations_apart(student[None], teacher[None], mask, seen(positions), heads)

    kinds = len(student)
    columns = student.flatten(0, 1), teacher.flatten(0, 1), batch.mask.repeat(kinds, 1), batch.positions.repeat(kinds, 1)
    return chunks.summed(part, 1, *columns) / (batch.mask.sum() * heads * kinds)
