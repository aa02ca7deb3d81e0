"""Scores the engine's own model on the tokens that follow its states."""

import torch
from torch import Tensor

from compression.modalities.text.causal_lm import chunked_head
from compression.modalities.text.causal_lm.hidden_states import Head


def token_losses(states: Tensor, head: Head, following: Tensor, *, size: int) -> tuple[Tensor, Tensor]:
    """Score next tokens, `size` at a time -> −ln p in nats and whether it was the most likely, (asked,) each."""
    losses, hits = [], []
    for some, wanted in zip(torch.split(states, size), torch.split(following, size), strict=True):
        logits = chunked_head.widen(head(some))
        losses.append(logits.logsumexp(dim=-1) - logits.gather(-1, wanted[:, None]).squeeze(-1))
        hits.append(logits.argmax(dim=-1) == wanted)
    return torch.cat(losses), torch.cat(hits)
