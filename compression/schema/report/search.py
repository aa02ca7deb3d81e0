"""How a search among widths did, beside the solver, and the error tables that it read. Torch-free."""

from typing import Annotated

from pydantic import Field

from compression.schema.config import Config


class SearchOutcome(Config):
    """What a search found, and what that took."""

    search: Annotated[str, Field(description="solver, tpe, nsga2 or rl.")]
    error: Annotated[float | None, Field(description="Predicted error of its best cut; null: it found none.")]
    evaluations: Annotated[int, Field(description="Predictions of a cut's error and costs.")]
    allowed: Annotated[int, Field(description="Of these, how many were within all limits, as sums count the costs.")]
    seconds: float
    proven: bool | None = None
    """Whether no cut within the limits has a lower predicted error: only the solver knows, if its time sufficed. null: not
    known."""
    late: Annotated[bool, Field(description="Its best was known only after the budget's seconds: it counts as none.")] = False

    @property
    def told(self) -> str:
        """Return the outcome as one clause."""
        nothing = f"nothing within the limits{' but cuts that really cost more' if self.allowed else ''}"
        found = nothing if self.error is None else f"a predicted error of {self.error:.4g}"
        if self.proven is False:
            found += " (its time was over before it had proved that none is lower)"
        found += ", after its time," if self.late else ""
        return f"{self.search} {found} in {self.evaluations} evaluations and {self.seconds:.1f} s"


class SearchComparison(Config):
    """A search and the solver, on the same problem with the same budget."""

    chosen: Annotated[SearchOutcome, Field(description="The recipe's prune.search, whose widths are taken.")]
    solver: SearchOutcome
    won: Annotated[str, Field(description="Which predicted error is lower; tie: they are equal within 1e-9.")]

    @property
    def told(self) -> str:
        """Return the comparison as a sentence."""
        won = "a tie" if self.won == TIE else f"{self.won} won"
        return f"Search among widths: {self.chosen.told}; {self.solver.told}: {won}."


class TablesUsed(Config):
    """The error tables that a cut was chosen by."""

    groups: int
    rows: Annotated[int, Field(description="Calibration rows that they are of.")]
    seconds: Annotated[float, Field(description="What computing them took, then.")]
    reused: Annotated[bool, Field(description="Whether an earlier attempt or job had computed them.")]
    spared: Annotated[float | None, Field(description="Of the seconds, if reused: cuts read calibration rows anyway.")] = None


TIE = "tie"
EQUAL = 1e-9
"""Predicted errors nearer to each other than this are equal."""


def winner(chosen: SearchOutcome, solver: SearchOutcome) -> str:
    """Return whose predicted error is lower, of those that were known in time, or that they tie."""
    known = [one for one in (chosen, solver) if one.error is not None and not one.late]
    errors = [one.error or 0.0 for one in known]
    if not known or (len(known) > 1 and abs(errors[0] - errors[1]) <= EQUAL):
        return TIE
    return known[errors.index(min(errors))].search
