"""How a search among widths did, beside the solver. Torch-free."""

from typing import Annotated

from pydantic import Field

from compression.schema.config import Config


class SearchOutcome(Config):
    """What a search found, and what that took."""

    search: Annotated[str, Field(description="solver, tpe, nsga2 or rl.")]
    error: Annotated[float | None, Field(description="Predicted error of its best cut; null: none was within the limits.")]
    evaluations: Annotated[int, Field(description="Predictions of a cut's error and costs.")]
    allowed: Annotated[int, Field(description="Of these, how many were within all limits.")]
    seconds: float
    proven: bool | None = None
    """Whether no cut within the limits has a lower predicted error: only the solver knows, if its time sufficed. null: not
    known."""

    @property
    def told(self) -> str:
        """Return the outcome as one clause."""
        found = "nothing within the limits" if self.error is None else f"a predicted error of {self.error:.4g}"
        if self.proven is False:
            found += " (its time was over before it had proved that none is lower)"
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


TIE = "tie"
EQUAL = 1e-9
"""Predicted errors nearer to each other than this are equal."""


def winner(chosen: SearchOutcome, solver: SearchOutcome) -> str:
    """Return whose predicted error is lower, or that they tie."""
    if chosen.error is None or solver.error is None:
        return TIE if chosen.error is solver.error else solver.search if chosen.error is None else chosen.search
    if abs(chosen.error - solver.error) <= EQUAL:
        return TIE
    return min(chosen, solver, key=lambda one: one.error or 0.0).search
