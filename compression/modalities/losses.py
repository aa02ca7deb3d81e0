"""Distillation losses: pure functions of tensors. The recipe sets which of them count, and their weights."""

import torch
from torch import Tensor
from torch.nn import functional

LEAST_LOG = -6e4  #: a log-probability that float16 can hold; e to that is 0, and 0 times this is 0, whereas 0 times −inf is NaN


def soft_target_loss(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """Return the KL divergence KL(teacher ‖ student) of softened distributions, times τ² (Hinton et al. 2015).

    student, teacher: (rows, labels) of logits -> scalar in nats, mean over rows. The forward direction makes the student cover
    all that the teacher finds likely; τ² keeps the gradient's size independent of it.
    """
    wanted = functional.log_softmax(teacher / temperature, dim=-1)
    given = functional.log_softmax(student / temperature, dim=-1)
    return functional.kl_div(given, wanted, reduction="batchmean", log_target=True) * temperature**2


def top_k_targets(logits: Tensor, temperature: float, kept: int) -> tuple[Tensor, Tensor]:
    """Return the `kept` most likely labels of a softened distribution, and all others as one more class.

    logits: (rows, labels); kept: less than the number of labels -> log-probabilities (rows, kept + 1), float16, the last one
    that of all others; their labels (rows, kept). The others' share at one temperature does not follow from that at another;
    for a vocabulary at τ = 3 it is large.
    """
    soft = (logits / temperature).log_softmax(dim=-1)
    found, labels = soft.topk(kept, dim=-1)
    others = soft.scatter(-1, labels, float("-inf")).logsumexp(dim=-1, keepdim=True)
    return torch.cat([found, others], dim=-1).clamp_min(LEAST_LOG).half(), labels


def top_k_target_loss(student: Tensor, known: Tensor, labels: Tensor, temperature: float) -> Tensor:
    """Return the forward KL divergence over the top-k labels and, as one class, all others, times τ².

    student: (rows, labels) of logits; known: (rows, kept + 1), labels: (rows, kept), of `top_k_targets` at this temperature ->
    scalar in nats, mean over rows; at most `soft_target_loss`, because it merges classes. The kept probabilities are not
    rescaled to sum to 1: that would teach the student to be more confident than its teacher.
    """
    wanted = known.to(student.dtype).log_softmax(dim=-1)  # probabilities in 16 bits do not add up to 1
    soft = (student / temperature).log_softmax(dim=-1)
    others = soft.scatter(-1, labels, float("-inf")).logsumexp(dim=-1, keepdim=True)
    given = torch.cat([soft.gather(-1, labels), others], dim=-1)
    return functional.kl_div(given, wanted, reduction="batchmean", log_target=True) * temperature**2


def fuse_teachers(logits: Tensor, weights: Tensor, temperature: float) -> Tensor:
    """Return logits whose softmax at τ is the weighted mean of the teachers' (Hinton et al. 2015, section 5), (..., labels)."""
    shares = (weights / weights.sum()).log().view(-1, *[1] * (logits.ndim - 1))
    mean: Tensor = ((logits / temperature).log_softmax(dim=-1) + shares).logsumexp(dim=0)
    return mean * temperature


def summed_relation_loss(student: Tensor, teacher: Tensor, mask: Tensor, seen: Tensor, heads: int) -> Tensor:
    """Return the summed KL divergence of each real token's relations, over all kinds and heads.

    seen: (rows, tokens, tokens) or (rows, 1, tokens), not 0 where the later axis' token is related to the earlier axis'.
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
    # A large finite number instead of −inf: with −inf, padding rows give NaN gradients.
    masked: Tensor = scores.masked_fill(seen[None, :, None] == 0, -1e9)
    return masked
