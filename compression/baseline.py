"""What the figures say of the baseline itself: whether it converged, whether the data allow more, and what to change.

Everything is compared with the baseline, and it teaches the student: a share of what it scores means nothing where it was
not trained to its end. Torch-free, pure.
"""

import math
from collections.abc import Iterator

from pydantic import ValidationError

from compression.recipe import Prepare, Recipe
from compression.recipe.base import MOST_EPOCHS
from compression.report import Preparation, Remedy, Row, Score

FEWEST_EPOCHS = 3
"""Epochs that are proposed at least."""


def preparations(baseline: Row) -> dict[str, Preparation]:
    """Return how a baseline was tuned, by dataset; the only one has no name. Empty in reports of before this was kept."""
    rows = baseline.parts or {"": baseline}
    return {name: row.preparation for name, row in rows.items() if row.preparation is not None}


def has_not_converged(baseline: Row) -> bool:
    """Say whether a baseline, or that of any of several datasets, was still gaining when its preparation ended."""
    return any(found.converged is False for found in preparations(baseline).values())


def exceeds_baseline(row: Row, baseline: Row) -> bool:
    """Say whether a row keeps more than all of the score on the split that choices read, by more than its error.

    By the lower end of the 95 % interval; where there is none, by one standard error of the ratio (delta method).
    """
    share, interval = row.ratios.judged_retention, row.ratios.judged_interval
    if share is None:
        return False
    if interval is not None:
        return interval[0] > 1
    before, after = baseline.judged_score, row.judged_score
    if not isinstance(before, Score) or not isinstance(after, Score):
        return False
    return share - 1 > share * math.hypot(before.standard_error / before.value, after.standard_error / after.value)


def exceeds_note(row: Row) -> str:
    """Tell that a row scores better than the baseline, and what follows."""
    share, interval, split = row.ratios.judged_retention or 0.0, row.ratios.judged_interval, row.ratios.judged_on
    between = f" (95 % interval {interval[0]:.1%} to {interval[1]:.1%})" if interval is not None else ""
    return (
        f"{share:.1%}{between} of the baseline's score is kept on {split}: the original is below what these data allow. "
        "Prepare it longer, or at another rate."
    )


def offered(row: Row, baseline: Row, recipe: Recipe) -> Iterator[Remedy]:
    """Offer a longer preparation, or another rate, if the baseline has not converged, is at chance, or is exceeded.

    row: of the last stage.
    """
    why = _reason(row, baseline)
    if why is None:
        return
    settings, trained = recipe.prepare, max((found.epochs for found in preparations(baseline).values()), default=0)
    if settings.epochs is not None:
        double = min(max(2 * settings.epochs, FEWEST_EPOCHS), MOST_EPOCHS)
        proposals: list[tuple[str, int | None]] = [("epochs", None), ("epochs", double)]
    elif settings.rate is not None:
        proposals = [("rate", None)]
    else:
        proposals = [("epochs", min(max(2 * trained, FEWEST_EPOCHS), MOST_EPOCHS))]
    for key, proposed in proposals:
        now = getattr(settings, key)
        if proposed != now and _may_be(key, proposed):
            how = _how(key, proposed)
            yield Remedy(key=f"recipe.prepare.{key}", now=now, proposed=proposed, why=f"{why}: {how}.")
            return


def _how(key: str, proposed: int | None) -> str:
    if proposed is not None:
        return f"train for {proposed} epochs"
    return "train until validation stops gaining" if key == "epochs" else "let short probes choose the rate"


def _may_be(key: str, proposed: int | None) -> bool:
    """Say whether `prepare` takes a value at a key."""
    try:
        Prepare.model_validate({key: proposed})
    except ValidationError:
        return False
    return True


def _reason(row: Row, baseline: Row) -> str | None:
    """Say why the baseline should be prepared otherwise; None if nothing speaks for it."""
    score = baseline.judged_score
    if isinstance(score, Score) and score.above_chance <= score.worth_error:
        return (
            f"The baseline itself scores {score.value:.4f}, no more than a standard error better than {score.chance:.4f}, "
            "which knowing no text would: there is nothing yet to keep"
        )
    late = [name for name, found in preparations(baseline).items() if found.converged is False]
    if late:
        of = f" of {', '.join(late)}" if any(late) else ""
        return f"The baseline{of} has not converged, so what is kept of its score is unproven"
    if row is not baseline and exceeds_baseline(row, baseline):
        share = row.ratios.judged_retention or 0.0
        return f"{share:.1%} of the baseline's score is kept on {row.ratios.judged_on}: these data allow more than it learned"
    return None
