"""Removal of units with an update of the weights that stay: the order, and the error at each width. Pure functions.

The optimal brain surgeon (Hassibi & Stork 1993) by structures, as in ZipLM (Kurtic, Frantar & Alistarh 2023): of a layer with
the matrix W that reads x, the units go whose columns cost least in E‖W x − W' x‖², where W' is the best matrix without them. In
closed form that is a step of elimination in the inverse of the inputs' second moments.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor

from compression.schema.error_tables import WIDTHS

DAMPING = 0.01
"""What is added to the diagonal of the second moments, of their mean diagonal: inputs that never vary have no inverse."""
PIECES = 8
"""Removals between two widths at which the error is known; units of one removal are ranked together."""


@dataclass(frozen=True)
class Inputs:
    """What a layer reads, over all positions of the calibration rows."""

    second: Tensor  #: (columns, columns), the mean of x xᵀ, float64
    mean: Tensor  #: (columns,), of x

    def moments(self, *, biased: bool) -> Tensor:
        """Return the second moments of what a weight has to explain: of x − E x, where a bias takes the rest."""
        return self.second - torch.outer(self.mean, self.mean) if biased else self.second

    def energy(self, weight: Tensor) -> float:
        """Return the mean square of a layer's output without its bias, summed over the outputs. weight: (outputs, columns)."""
        return float(((weight @ self.second) * weight).sum())


def damped(moments: Tensor) -> Tensor:
    """Return second moments with DAMPING on their diagonal. (columns, columns) -> the same"""
    mean = float(moments.diagonal().mean())
    return moments + (DAMPING * mean or 1.0) * torch.eye(len(moments), dtype=moments.dtype, device=moments.device)


def updated(weight: Tensor, moments: Tensor, kept: Tensor) -> Tensor:
    """Return the best matrix that reads only some columns; the others are 0.

    weight: (outputs, columns); moments: (columns, columns); kept: (columns,), whether a column stays -> (outputs, columns).
    """
    whole, found = damped(moments), torch.zeros_like(weight)
    lost = weight[:, ~kept] @ whole[~kept][:, kept]
    found[:, kept] = weight[:, kept] + torch.linalg.solve(whole[kept][:, kept], lost.t()).t()
    return found


@dataclass
class Reader:
    """A layer, or several that read the same, while units go. Rows of its matrix are in shares of its output's energy."""

    weight: Tensor  #: (outputs, columns), float64
    moments: Tensor  #: (columns, columns), of its inputs
    columns: Tensor  #: (units, columns of a unit)

    def __post_init__(self) -> None:
        self.before = self.weight
        self.inverse = torch.linalg.inv(damped(self.moments))

    def costs(self) -> Tensor:
        """Return what the error rises by without each unit. -> (units,)"""
        own = self.inverse[self.columns[:, :, None], self.columns[:, None, :]]
        made = self.weight[:, self.columns].permute(1, 2, 0)  # (units, columns of a unit, outputs)
        costs: Tensor = (torch.linalg.solve(own, made) * made).sum(dim=(1, 2))
        return costs

    def remove(self, units: Tensor) -> None:
        """Take units out and update the columns that stay. units: (n,)"""
        gone = self.columns[units].flatten()
        factor = torch.linalg.solve(self.inverse[gone][:, gone], self.inverse[gone])
        self.weight = self.weight - self.weight[:, gone] @ factor
        self.inverse = self.inverse - self.inverse[:, gone] @ factor
        self.weight[:, gone] = 0.0
        self.inverse[gone] = 0.0
        self.inverse[:, gone] = 0.0
        self.inverse[gone, gone] = 1.0  # so that what costs nothing any more can be solved for

    def error(self) -> float:
        """Return the error so far, as a share of the output's energy."""
        change = self.before - self.weight
        return float(((change @ self.moments) * change).sum())


def widths_of(units: int) -> list[int]:
    """Return the widths at which the error is known: from all units to none."""
    return sorted({round(units * left / WIDTHS) for left in range(WIDTHS + 1)}, reverse=True)


def remove_units(readers: Sequence[Reader], units: int) -> tuple[Tensor, dict[int, float]]:
    """Remove all units, the cheapest first, and return their order and the error at each width.

    The order: (units,), the first removed comes first. Errors are summed over the readers and never fall as units go.
    """
    gone: list[int] = []
    left = torch.ones(units, dtype=torch.bool, device=readers[0].weight.device)
    widths = widths_of(units)
    errors = {units: 0.0}
    for before, after in pairwise(widths):
        pieces = min(PIECES, before - after)
        sizes = [(before - after) // pieces + (number < (before - after) % pieces) for number in range(pieces)]
        for size in sizes:
            costs = torch.stack([reader.costs() for reader in readers]).sum(dim=0)
            costs[~left] = float("inf")
            chosen = torch.argsort(costs, stable=True)[:size]
            for reader in readers:
                reader.remove(chosen)
            left[chosen] = False
            gone += chosen.tolist()
        errors[after] = max(errors[before], sum(reader.error() for reader in readers))
    return torch.tensor(gone), errors
