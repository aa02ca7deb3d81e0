"""The rule for whether an original's score had stopped improving when its training ended. Torch-free."""

from collections.abc import Sequence

FEWEST_EPOCHS = 4
LAST_EPOCHS = 3
"""If a recipe gives the number of epochs, the last so many must have gained less than one standard error."""
STILL_GAINING = 2
"""If the best epoch is among the last so many, the next one might have been better still."""


def convergence(
    before: float,
    curve: Sequence[float],
    best_epoch: int,
    *,
    out_of_patience: bool,
    is_open: bool,
    error: float,
    floor: float | None = None,
    chance: float | None = None,
) -> tuple[bool, str]:
    """Return whether a training converged, and the reason.

    before, curve: worth on validation (`Validation.worth`) before the training and after each epoch; best_epoch: of the kept
    weights, 0 is the model before; out_of_patience: no epoch was better for so long; is_open: the number of epochs was not
    given; error: one standard error of the worth; floor: the score of a linear model on the features before; chance: the score
    without any input.
    """
    epochs, best = len(curve), (before, *curve)[best_epoch]
    if out_of_patience and best_epoch <= epochs - STILL_GAINING:
        stopped = f"Validation stopped gaining: epoch {best_epoch} of {epochs} is the best, and patience was used up."
    elif out_of_patience:
        return (
            False,
            f"One epoch without a gain (epoch {best_epoch} of {epochs} is the best) is too few to see whether gains had ended.",
        )
    elif is_open:
        return False, f"Training ended after {epochs} epochs while validation was still gaining (best: epoch {best_epoch})."
    elif epochs < FEWEST_EPOCHS:
        return False, f"{epochs} epochs are too few to see whether validation had stopped gaining."
    else:
        gained = max(curve[-LAST_EPOCHS:]) - max(before, *curve[:-LAST_EPOCHS])
        gain = f"the last {LAST_EPOCHS} of {epochs} epochs gained {max(gained, 0):.4f}"
        if gained >= error:
            return False, f"Validation was still gaining: {gain}, at least one standard error ({error:.4f})."
        stopped, floor = f"Validation had stopped gaining: {gain}, less than one standard error ({error:.4f}).", None
    return _why_not(best, error, floor, chance) or (True, stopped)


def _why_not(best: float, error: float, floor: float | None, chance: float | None) -> tuple[bool, str] | None:
    """Return why a training that stopped improving at `best` has not converged; None if it has."""
    if chance is not None and best <= chance + error:
        return False, (
            f"Validation stopped gaining at {best:.4f}, no more than a standard error above {chance:.4f}, the score "
            "without any input: as far as these rows tell, nothing was learned."
        )
    if floor is not None and best < floor - error:
        return False, (
            f"Validation stopped gaining at {best:.4f}, more than a standard error below the {floor:.4f} of a linear model "
            "on the features of the model as it came: another rate is worth a try."
        )
    return None
