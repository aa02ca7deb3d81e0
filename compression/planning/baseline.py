"""Whether the baseline converged, and its remedies: a share of its score means nothing otherwise. Torch-free, pure."""

import math
from collections.abc import Iterator

from compression.schema.recipe.base import MOST_EPOCHS
from compression.schema.recipe.recipe import Prepare, Recipe, Targets
from compression.schema.report.measurements import Remedy, Row, Score
from compression.schema.report.preparation import Preparation

LEAST_EPOCHS = 10
"""Epochs that are proposed if the number of trained epochs is unknown."""


def preparations(baseline: Row) -> dict[str, Preparation]:
    """Return how a baseline was fine-tuned, by dataset ("" for the only one); empty for reports from before this was kept."""
    rows = baseline.parts or {"": baseline}
    return {name: row.preparation for name, row in rows.items() if row.preparation is not None}


def is_at_chance(baseline: Row) -> bool:
    """Return whether a baseline's score is no more than a standard error better than that of knowing no input."""
    score = baseline.judged_score
    return isinstance(score, Score) and score.above_chance <= score.worth_error


def exceeds_baseline(row: Row, baseline: Row) -> bool:
    """Return whether a row's retention, on the split that choices use, exceeds 1 by more than its error.

    The lower end of its 95 % interval must exceed 1; else, it must by one standard error of the ratio (delta method).
    """
    share, interval = row.ratios.judged_retention, row.ratios.judged_interval
    if share is None or share <= 1:
        return False
    if interval is not None:
        return interval[0] > 1
    before, after = baseline.judged_score, row.judged_score
    if not isinstance(before, Score) or not isinstance(after, Score):
        return False
    return share - 1 > share * math.hypot(before.standard_error / before.value, after.standard_error / after.value)


def baseline_remedies(row: Row, baseline: Row, recipe: Recipe, targets: Targets) -> Iterator[Remedy]:
    """Offer a longer preparation or another rate if the baseline has not converged, is at chance, or is exceeded by a row."""
    why, settings = _reason(row, baseline, targets), recipe.prepare
    if why is None:
        return
    if settings.epochs is not None:
        why = f"{why}: train until validation stops gaining."
        yield Remedy(key="recipe.prepare.epochs", now=settings.epochs, proposed=None, why=why)
    elif settings.rate is not None:
        why = f"{why}: let short probes choose the rate."
        yield Remedy(key="recipe.prepare.rate", now=settings.rate, proposed=None, why=why)
    else:
        yield _twice_as_long(baseline, settings, why)


def _twice_as_long(baseline: Row, settings: Prepare, why: str) -> Remedy:
    """Propose twice the trained epochs, at the chosen rate: probes do not choose it if epochs are given."""
    found = preparations(baseline).values()
    epochs = min(max([2 * one.epochs for one in found], default=0) or LEAST_EPOCHS, MOST_EPOCHS)
    rates = {one.rate for one in found}
    if len(rates) != 1 or None in rates:
        return Remedy(key="recipe.prepare.epochs", now=None, proposed=epochs, why=f"{why}: train for {epochs} epochs.")
    rate = rates.pop()
    now = settings.model_dump(mode="json")
    why = f"{why}: train for {epochs} epochs at {rate:g}, the rate that was chosen."
    return Remedy(key="recipe.prepare", now=now, proposed={**now, "epochs": epochs, "rate": rate}, why=why)


def _reason(row: Row, baseline: Row, targets: Targets) -> str | None:
    """Return why the baseline should be prepared differently; None if there is no reason."""
    score = baseline.judged_score
    if isinstance(score, Score) and is_at_chance(baseline):
        return (
            f"The baseline itself scores {score.value:.4f}, no more than a standard error better than {score.chance:.4f}, "
            "which knowing no input would: there is nothing yet to keep"
        )
    late = [name for name, found in preparations(baseline).items() if found.converged is False]
    if late:
        of = f" of {', '.join(late)}" if any(late) else ""
        found = row.ratios.model_copy(update={"baseline_not_converged": True})
        so = "what is kept of its score is unproven" if found.is_unproven(targets.retention) else "it may have more to learn"
        return f"The baseline{of} has not converged, so {so}"
    if row is not baseline and exceeds_baseline(row, baseline):
        share = row.ratios.judged_retention or 0.0
        return f"{share:.1%} of the baseline's score is kept on {row.ratios.judged_on}: these data allow more than it learned"
    return None
