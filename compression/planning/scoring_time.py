"""How long artifacts may be scored: no longer than training takes. Torch-free."""

FEWEST_SECONDS = 600.0
"""Seconds that any artifact may be scored for, however short the training."""


def most_seconds(training: float) -> float:
    """Return the seconds after which the rest of an artifact's rows is left out, and a sample of them has been scored.

    training: seconds that the job trains.
    """
    return max(training, FEWEST_SECONDS)
