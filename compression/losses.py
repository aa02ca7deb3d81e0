"""What a student is held against: pure functions of tensors. Which of them count, and how much, the recipe says."""

from collections.abc import Iterable

import torch
from torch import Tensor
from torch.nn import functional

LEAST_LOG = -6e4
"""What float16 holds; e to that is 0, but times its logarithm a number."""


def soft_targets(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """Forward KL divergence KL(teacher ‖ student) of softened distributions, times τ² (Hinton et al. 2015).

    student, teacher: (rows, labels) of logits -> scalar in nats, mean over rows. Forward, so that the student must cover
    all that the teacher finds likely; τ² keeps the gradient's size independent of the temperature.
    """
    wanted = functional.log_softmax(teacher / temperature, dim=-1)
    given = functional.log_softmax(student / temperature, dim=-1)
    return functional.kl_div(given, wanted, reduction="batchmean", log_target=True) * temperature**2


def likeliest(logits: Tensor, temperature: float, kept: int) -> tuple[Tensor, Tensor]:
    """Keep of a softened distribution its likeliest labels, and all others as one more class.

    logits: (rows, labels); kept: fewer than there are labels -> log-probabilities (rows, kept + 1), float16, the last that of
    all others; their labels (rows, kept). Softened first: the others' share at one temperature does not follow from another's.
    Of a vocabulary at τ = 3 much is in the others.
    """
    soft = (logits / temperature).log_softmax(dim=-1)
    found, labels = soft.topk(kept, dim=-1)
    others = soft.scatter(-1, labels, float("-inf")).logsumexp(dim=-1, keepdim=True)
    return torch.cat([found, others], dim=-1).clamp_min(LEAST_LOG).half(), labels


def likeliest_targets(student: Tensor, known: Tensor, labels: Tensor, temperature: float) -> Tensor:
    """Forward KL divergence over the labels that `likeliest` kept and, as one class, all others, times τ².

    student: (rows, labels) of logits; known: (rows, kept + 1), labels: (rows, kept), at this temperature -> scalar in nats,
    mean over rows. It is never more than `soft_targets`, because classes were joined; which of the others the student prefers
    is left to it. The kept labels' share is not stretched to 1, which would teach the student to be surer than its teacher.
    """
    wanted = known.to(student.dtype).log_softmax(dim=-1)  # 16 bits do not add up to 1
    soft = (student / temperature).log_softmax(dim=-1)
    others = soft.scatter(-1, labels, float("-inf")).logsumexp(dim=-1, keepdim=True)
    given = torch.cat([soft.gather(-1, labels), others], dim=-1)
    return functional.kl_div(given, wanted, reduction="batchmean", log_target=True) * temperature**2


def hidden_states(student: Tensor, teacher: Tensor, projections: Tensor) -> Tensor:
    """Mean squared error of hidden states, layer by layer, through learned projections (TinyBERT, Jiao et al. 2020).

    student: (layers, tokens, narrow), teacher: (layers, tokens, wide), projections: (layers, narrow, wide) -> scalar: the
    squared error over the teacher's mean square, so that 1 is as bad as answering 0 whatever the model's scale.
    """
    error: Tensor = (torch.bmm(student, projections) - teacher).square().mean() / teacher.square().mean()
    return error


def attention_scores(student: Tensor, teacher: Tensor, mask: Tensor, heads: int) -> Tensor:
    """Mean squared error of attention scores before the softmax (TinyBERT, Jiao et al. 2020, eq. 7).

    student: (layers, 2, rows, tokens, narrow), teacher: (layers, 2, rows, tokens, wide), both of queries and keys; mask: (rows,
    tokens), 1 at real tokens; heads: of either model -> scalar, mean over layers, heads and pairs of real tokens. Scores are
    query · key / √(head size), each model's own; what is added to them (padding's mask, MPNet's bias by distance) is no part
    of them.
    """
    real = (mask[:, :, None] * mask[:, None, :])[:, None].to(student.dtype)
    total = student.new_zeros(())
    for given, wanted in zip(student, teacher, strict=True):  # layer by layer: scores grow with the square of the tokens
        apart = _scores(given, heads) - _scores(wanted, heads)
        total = total + (apart.square() * real).sum()
    mean: Tensor = total / (real.sum() * heads * len(student))
    return mean


def _scores(pair: Tensor, heads: int) -> Tensor:
    _, rows, tokens, width = pair.shape
    size = width // heads
    query, key = pair.view(2, rows, tokens, heads, size).transpose(2, 3)
    scores: Tensor = query @ key.transpose(-1, -2) / size**0.5
    return scores


def fused(logits: Tensor, weights: Tensor, temperature: float) -> Tensor:
    """Make one teacher of several: logits whose softmax at τ is the weighted mean of theirs (Hinton et al. 2015, section 5).

    logits: (teachers, ..., labels); weights: (teachers,), positive, of any sum -> (..., labels).
    """
    shares = (weights / weights.sum()).log().view(-1, *[1] * (logits.ndim - 1))
    mean: Tensor = ((logits / temperature).log_softmax(dim=-1) + shares).logsumexp(dim=0)
    return mean * temperature


def relations(student: Tensor, teacher: Tensor, mask: Tensor, heads: int) -> Tensor:
    """KL divergence of self-attention relations (MiniLMv2, Wang et al. 2021).

    student: (kinds, rows, tokens, narrow), teacher: (kinds, rows, tokens, wide), both of queries, keys and values; mask:
    (rows, tokens), 1 at real tokens; heads: relation heads, which must divide both widths -> scalar in nats, mean over
    kinds, real tokens and heads. Query-query, key-key and value-value products re-split over the same number of relation
    heads compare models whose own heads differ in number, which attention maps cannot.
    """
    return relations_apart(student, teacher, mask, mask[:, None, :], heads) / (mask.sum() * heads * student.shape[0])


def relations_apart(student: Tensor, teacher: Tensor, mask: Tensor, seen: Tensor, heads: int) -> Tensor:
    """Add up what `relations` is the mean of: KL divergence of each real token's relations, kind by kind and head by head.

    seen: (rows, tokens, tokens) or (rows, 1, tokens), not 0 where the later axis' token is related to the earlier's.
    """
    given = _relation_scores(student, seen, heads).log_softmax(dim=-1)
    wanted = _relation_scores(teacher, seen, heads).log_softmax(dim=-1)
    apart = (wanted.exp() * (wanted - given)).sum(dim=-1)
    total: Tensor = (apart * mask[None, :, None, :].to(apart.dtype)).sum()
    return total


def _relation_scores(x: Tensor, seen: Tensor, heads: int) -> Tensor:
    kinds, rows, tokens, width = x.shape
    split = x.view(kinds, rows, tokens, heads, width // heads).transpose(2, 3)
    scores = split @ split.transpose(-1, -2) / (width // heads) ** 0.5
    # A large finite number and not −inf: padding rows would otherwise give NaN gradients.
    masked: Tensor = scores.masked_fill(seen[None, :, None] == 0, -1e9)
    return masked


def relation_heads(narrow: int, wide: int, most: int) -> int:
    """Find the largest number of relation heads, at most `most`, that divides both widths."""
    return max(heads for heads in range(1, most + 1) if narrow % heads == 0 and wide % heads == 0)


def fitted_projections(pairs: Iterable[tuple[Tensor, Tensor]], ridge: float = 1e-3) -> Tensor:
    """Solve the ridge regression that best maps student to teacher states: where learning of the projections starts.

    pairs: of some tokens at a time, one pair or more: the student's (layers, tokens, narrow), the teacher's (layers, tokens,
    wide) -> (layers, narrow, wide). What is kept of a pair is its products, whose size does not depend on the tokens.
    """
    products = ((student.transpose(1, 2) @ student, student.transpose(1, 2) @ teacher) for student, teacher in pairs)
    gram, across = next(products)
    for more, further in products:
        gram, across = gram + more, across + further
    strength = ridge * gram.diagonal(dim1=1, dim2=2).mean(dim=1)
    gram = gram + strength[:, None, None] * torch.eye(gram.shape[-1], device=gram.device)
    return torch.cholesky_solve(across, torch.linalg.cholesky(gram))
