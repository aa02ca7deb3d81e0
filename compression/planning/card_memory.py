"""The memory of a job that trains on a card: the card's, and that of the host beside it. Torch-free."""

from typing import TYPE_CHECKING

from compression.planning.cut_memory import cut_bytes
from compression.planning.memory import (
    HARNESS_BYTES,
    HELD_BYTES,
    KEPT_FREED,
    PROCESS_BYTES,
    first_cut,
    idle_bytes,
    saved_bytes,
    shipped_bytes,
    step_bytes,
    teachers_bytes,
    trainings,
)
from compression.planning.network_rules import pixel_bytes

if TYPE_CHECKING:
    from compression.planning.estimator import PlannedJob

CONTEXT_BYTES = 600_000_000
"""What CUDA and its libraries take of a card before the first tensor. As others report it: Lathe has measured none."""
LIBRARIES_BYTES = 1_500_000_000
"""What they take of the host beside what a process without a card has; not measured either. The process that scores an artifact
on the card has them too. What that takes of the card is not counted: a score that does not fit is taken on the CPU."""


def card_memory(job: "PlannedJob") -> tuple[int, int]:
    """Return the peak bytes of the card, of several the first, and of the host's processes beside them.

    On the card are the model in training, its teacher, a step's activations, and what least squares solve. On the host are
    data, the teacher while nothing asks it, other teachers, what teachers answered, the best weights, and at times a save or a
    model that becomes an artifact.
    """
    known = list(trainings(job, "cuda"))
    card = max(_reading_bytes(job), cut_bytes(job, "cuda"), *(one.total - one.copies for one in known))
    # Of the teachers that the job names the best stays with the model; all do if rows vary. A language model's are in `known`.
    named = [HELD_BYTES * each.parameters.total for each in job.named if not job.is_language]
    card += sum(named) if job.recipe.train.varies else max(named, default=0)
    pixels = pixel_bytes(job.model.network, job.data.rows)[0] if job.model.network is not None else 0
    devices = job.recipe.train.devices  # each with a process
    # A save is copied to the host before it is written; the weights of the last good and of the best epoch are there always.
    held = (one.devices * one.states + (devices - 1) * one.further for one in known)
    saves = (saved_bytes(job.recipe.train.optimizer, one.parameters) for one in known)
    shipped = shipped_bytes(job) + LIBRARIES_BYTES
    idle = idle_bytes(job, "cpu")  # also while an artifact is made, which takes most
    beside = pixels + teachers_bytes(job) + idle + max([shipped, *map(sum, zip(held, saves, strict=True))])
    host = devices * LIBRARIES_BYTES + round(KEPT_FREED * (devices * PROCESS_BYTES + beside))
    return CONTEXT_BYTES + round(KEPT_FREED * card), host


def harness_bytes(parameters: int) -> int:
    """Return the bytes of the card while lm-eval's process asks a model there: the engine's are on the host meanwhile, but what
    CUDA takes is there twice.
    """
    return 2 * CONTEXT_BYTES + round(KEPT_FREED * (HELD_BYTES * parameters + HARNESS_BYTES))


def _reading_bytes(job: "PlannedJob") -> int:
    """Return the bytes of a pass without gradients: of the whole model, or of a teacher beside the model that is to learn from
    it. It answers in float32, and a part of it is rounded to 8 bits later, if at all.
    """
    recipe, learns = job.recipe, job.result.parameters.total
    if recipe.recovers_by_teacher:
        learns = max(learns, first_cut(job).parameters.total)
    asked = (learns + job.guide.parameters.total) if recipe.has_teacher else 0
    return HELD_BYTES * max(job.model.parameters.total, asked) + _pass_bytes(job)


def _pass_bytes(job: "PlannedJob") -> int:
    """Return the bytes of a pass without gradients: of one layer at a time."""
    model, train = job.model, job.recipe.train
    recompute = train.checkpointing == "on" and model.recomputes
    kept = step_bytes(model.shape, train.batch, job.longest, model.network, recompute=recompute)
    return kept // max(model.shape.layers, 1)
