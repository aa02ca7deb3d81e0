"""Losses of a language model against the text and a teacher: of tokens, and of relations within documents."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from compression.modalities import losses
from compression.modalities.text.causal_lm import chunked_head
from compression.modalities.text.causal_lm.batches import PackedBatch, attention_mask
from compression.modalities.text.causal_lm.hidden_states import Head

TERMS = ("soft", "hard")


@dataclass(frozen=True)
class FullTargets:
    """Full distributions of teachers. states: (asked, width) each, which its head turns into logits over the student's
    vocabulary; weights: (teachers,), of the mean of their softened distributions; None if there is one.
    """

    states: tuple[Tensor, ...]
    heads: tuple[Head, ...]
    temperature: float
    weights: Tensor | None = None

    @property
    def columns(self) -> tuple[Tensor, ...]:
        """Return the states."""
        return self.states

    def divergence(self, logits: Tensor, *columns: Tensor) -> Tensor:
        """Return KL(teacher ‖ student) × τ² over the vocabulary, in nats, mean over positions."""
        with torch.no_grad():
            wanted = fused_logits(self.heads, columns, self.weights, self.temperature)
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


def fused_logits(heads: Sequence[Head], states: Sequence[Tensor], weights: Tensor | None, temperature: float) -> Tensor:
    """Return logits whose softmax at τ is the weighted mean of all teachers' distributions, (tokens, vocabulary).

    states: (tokens, width) of each teacher; weights: (teachers,). A single teacher's logits are as they are.
    """
    first, *others = zip(heads, states, strict=True)
    if not others:
        return chunked_head.widen(first[0](first[1]))
    if weights is None:
        raise ValueError(f"{1 + len(others)} teachers need weights")
    # One after the other, so that memory does not grow with their number.
    mean: Tensor | None = None
    for (head, own), share in zip((first, *others), (weights / weights.sum()).log(), strict=True):
        one = (chunked_head.widen(head(own)) / temperature).log_softmax(dim=-1) + share
        mean = one if mean is None else torch.logaddexp(mean, one)
    assert mean is not None, "there is a first"  # noqa: S101
    return mean * temperature


NextTokenTargets = FullTargets | TopKTargets


def next_token_loss(states: Tensor, head: Head, following: Tensor, *, size: int) -> Tensor:
    """Return the cross-entropy of the text's next tokens -> scalar in nats, mean over tokens."""
    return next_token_terms(states, head, following, None, ("hard",), size=size)["hard"]


def next_token_terms(
    states: Tensor,
    head: Head,
    following: Tensor,
    targets: NextTokenTargets | None,
    asked: Collection[str] = TERMS,
    *,
    size: int,
) -> dict[str, Tensor]:
    """Return a student's losses against a teacher (soft) and the text (hard), as far as `asked` names them.

    -> each a scalar in nats, mean over tokens; 0 if no position is scored. states: (asked, width), of scored positions; head:
    the student's; following: (asked,), the next tokens' ids; targets: of the same positions; size: tokens that go through the
    heads at once, once for both terms. Raises ValueError for a soft term without a teacher.
    """
    if "soft" in asked and targets is None:
        raise ValueError("there is no teacher for the soft term")
    order = [term for term in TERMS if term in asked]
    if not order or not len(states):
        return dict.fromkeys(order, states.sum() * 0.0)
    columns = targets.columns if targets is not None and "soft" in order else ()

    def part(states: Tensor, following: Tensor, *columns: Tensor) -> Tensor:
        logits = chunked_head.widen(head(states))
        sums = []
        if "soft" in order and targets is not None:
            sums.append(targets.divergence(logits, *columns) * len(logits))
        if "hard" in order:
            sums.append(functional.cross_entropy(logits, following, reduction="sum"))
        return torch.stack(sums)

    means = chunked_head.sum_over_chunks(part, size, states, following, *columns) / len(states)
    return dict(zip(order, means.unbind(), strict=True))


def document_relation_loss(student: Tensor, teacher: Tensor, batch: PackedBatch, heads: int) -> Tensor:
    """Return the KL divergence of causal self-attention relations within documents (MiniLMv2, Wang et al. 2021).

    student: (kinds, rows, tokens, narrow), teacher: (kinds, rows, tokens, wide); heads: relation heads, which must divide both
    widths -> scalar in nats, mean over kinds, real tokens and heads. Computed for one kind and row at a time, because relations
    grow with the square of the tokens.
    """

    def part(student: Tensor, teacher: Tensor, mask: Tensor, positions: Tensor) -> Tensor:
        return losses.summed_relation_loss(student[None], teacher[None], mask, attention_mask(positions), heads)

    kinds = len(student)
    columns = student.flatten(0, 1), teacher.flatten(0, 1), batch.mask.repeat(kinds, 1), batch.positions.repeat(kinds, 1)
    return chunked_head.sum_over_chunks(part, 1, *columns) / (batch.mask.sum() * heads * kinds)
