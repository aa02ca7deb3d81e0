"""The bars of latency that the job page and report.html draw alike."""

from compression.schema.report.measurements import Latency


def scale(found: Latency, first: Latency) -> float:
    """Return the factor from a stage's milliseconds to the length of its bar.

    A stage is timed in turns with the baseline, in its own minutes, so its bar is as long against that of the baseline's own
    row, `first`, as it was against the baseline then.
    """
    return 1.0 if found is first else first.median_ms / found.baseline_median_ms
