"""Ask the engine's own model for the tokens of documents, window by window."""

import torch
from torch import Tensor
from transformers import PreTrainedModel

from compression.language import chunks, models
from compression.language.documents import Documents
from compression.language.models import Head
from compression.language.windows import in_batches
from compression.scoring.language import Told

BATCH = 8
"""Windows asked together; answers do not depend on it, but for the order in which floating point adds."""


@torch.no_grad()  # in inference mode torchao's tensors of experts, of a model that was shipped, cannot be indexed
def told(
    model: PreTrainedModel, documents: Documents, *, length: int, stride: int, batch: int = BATCH, size: int | None = None
) -> Told:
    """Ask for each scored token once, with what its window has before it.

    length, stride: of the windows (`windows.windows`); size: tokens that go through the head together, by default what fits
    `chunks.BYTES`. The model is in evaluation mode meanwhile. Raises ValueError as `windows` does, and where no token is asked
    for.
    """
    if not len(documents):
        raise ValueError("these texts have no token to ask for")
    training, device, head = model.training, next(model.parameters()).device, models.head(model)
    size = size or chunks.size_of(model.config.vocab_size)
    loss, right = torch.zeros((2, len(documents)), dtype=torch.float64)
    model.eval()
    for sequences in in_batches(documents, length, stride, batch):
        here = sequences.to(device)
        losses, hits = scores(models.asked(model, here), head, here.wanted, size=size)
        owners = sequences.rows.repeat_interleave(sequences.asked.sum(dim=1))
        loss.index_add_(0, owners, losses.double().cpu())
        right.index_add_(0, owners, hits.double().cpu())
    model.train(training)
    return Told(documents.scored.numpy(), documents.bytes.numpy(), loss.numpy(), right.long().numpy())


def scores(states: Tensor, head: Head, following: Tensor, *, size: int) -> tuple[Tensor, Tensor]:
    """Score next tokens, `size` of them at a time. states: (asked, width); following: (asked,).

    -> −ln p of each in nats, (asked,); whether it was the likeliest, (asked,).
    """
    losses, hits = [], []
    for some, wanted in zip(torch.split(states, size), torch.split(following, size), strict=True):
        logits = chunks.wide(head(some))
        losses.append(logits.logsumexp(dim=-1) - logits.gather(-1, wanted[:, None]).squeeze(-1))
        hits.append(logits.argmax(dim=-1) == wanted)
    return torch.cat(losses), torch.cat(hits)
