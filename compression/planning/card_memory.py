"""The memory of a job that is trained on a card: of the card, and of the host beside it. Torch-free."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from compression.planning.estimator import PlannedJob

HOST_PARTS = frozenset({"process", "pixels"})
"""Cost items whose memory is the host's: libraries, and data that is read in pieces."""
WEIGHT_BYTES = 2 * 4
"""Bytes per parameter on the host: the float32 weights as they are read, and as they are exported."""
FRAGMENTED = 1.1
"""What CUDA's caching allocator keeps in pieces that are too small, as a factor; assumed, and measured on no card."""


def card_memory(job: "PlannedJob") -> tuple[int, int]:
    """Return the bytes of the card and of the host for a job on a GPU worker, from the costs of its parts."""
    host = sum(item.memory for item in job.items if item.stage in HOST_PARTS)
    card = sum(item.memory for item in job.items if item.stage not in HOST_PARTS)
    weights = WEIGHT_BYTES * max(job.model.parameters.total, job.result.parameters.total)
    return round(card * FRAGMENTED), host + weights
