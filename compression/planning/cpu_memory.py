"""The memory of a job that trains on a CPU: that of its largest part. Torch-free."""

from typing import TYPE_CHECKING

from compression.planning.cut_memory import cut_bytes
from compression.planning.memory import PROCESS_BYTES, idle_bytes, saved_bytes, shipped_bytes, trainings

if TYPE_CHECKING:
    from compression.planning.estimator import PlannedJob


def largest_part(job: "PlannedJob") -> int:
    """Return the bytes of the part of a job that needs most on a CPU: a training, a cut, or an artifact.

    Of several processes that train, each has its own data and its own teachers' answers, and the first has saves whole, beside
    what the shards hold.
    """
    train, known = job.recipe.train, trainings(job, "cpu")
    more = train.devices - 1
    trained = (
        more * (PROCESS_BYTES + one.further)
        + one.devices * (one.total + one.states)
        + (more > 0) * saved_bytes(train.optimizer, one.parameters)
        for one in known
    )
    # The teacher stays while an artifact of another model is written and measured.
    return max(shipped_bytes(job) + idle_bytes(job, "cpu"), cut_bytes(job, "cpu"), *trained)
