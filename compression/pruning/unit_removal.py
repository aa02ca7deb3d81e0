"""Removal of units with an update of the weights that stay: the order, and the error at each width. Pure functions.

The optimal brain surgeon (Hassibi & Stork 1993) by structures, as in ZipLM (Kurtic, Frantar & Alistarh 2023): of a layer with
the matrix W that reads x, the units go whose columns cost least in E‖W x − W' x‖², where W' is the best matrix without them. In
closed form that is a step of elimination in the inverse of the inputs' second moments.
"""

from collections.abc import Generator, Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor

from compression.schema.error_tables import widths_of

DAMPING = 0.01
"""What is added to the diagonal of the second moments, of their mean diagonal: inputs that never vary have no inverse."""
RAISED, MOST_RAISED = 10.0, 8
"""By what that grows while there is no triangular factor, and how often."""
PIECES = 8
"""Removals between two widths at which the error is known; units of one removal are ranked together."""
OUTPUTS_AT_ONCE = 4096
"""Rows of a matrix that are in double precision at a time: an output layer has a hundred thousand."""
SMALLEST_PIVOT = 1e-10
"""Added to the diagonal of a Gram matrix, of its mean diagonal, so that it has a triangular factor."""


@dataclass(frozen=True)
class Inputs:
    """What a layer reads, over all positions of the calibration rows."""

    second: Tensor  #: (columns, columns), the mean of x xᵀ
    mean: Tensor  #: (columns,), of x

    def moments(self, *, biased: bool) -> Tensor:
        """Return the second moments of what a weight has to explain, float64: of x − E x, where a bias takes the rest."""
        second, mean = self.second.double(), self.mean.double()
        return second - torch.outer(mean, mean) if biased else second


def gram_of(weight: Tensor) -> Tensor:
    """Return WᵀW, float64. weight: (outputs, columns) -> (columns, columns)"""
    found = torch.zeros(weight.shape[1], weight.shape[1], dtype=torch.float64, device=weight.device)
    for start in range(0, len(weight), OUTPUTS_AT_ONCE):
        some = weight[start : start + OUTPUTS_AT_ONCE].double()
        found.addmm_(some.t(), some)
    return found


def damping(moments: Tensor) -> float:
    """Return what is added to the diagonal of second moments."""
    usual = DAMPING * float(moments.diagonal().mean())
    return 1.0 if usual <= 0 else usual  # below 0 only by rounding: nothing varies


def damped(moments: Tensor, added: float | None = None) -> Tensor:
    """Return second moments with something on their diagonal; None is DAMPING. (columns, columns) -> the same"""
    found = moments.clone()
    found.diagonal().add_(damping(moments) if added is None else added)
    return found


def factored(moments: Tensor, added: float) -> tuple[Tensor, float]:
    """Return the triangular factor of second moments with so much on their diagonal, and how much that was. It is more if there
    is no factor otherwise: sums are in float32, and of inputs that hardly vary about a large mean their rounding is more than
    what varies. (columns, columns) -> the same
    """
    for _ in range(MOST_RAISED):
        found, failed = torch.linalg.cholesky_ex(damped(moments, added))
        if not int(failed):
            return found, added
        added *= RAISED
    return torch.linalg.cholesky(damped(moments, added)), added  # says what is wrong with them


def triangles(blocks: Tensor) -> Tensor:
    """Return the triangular factors of blocks on the diagonal of an inverse. Where rounding left none, more is on its diagonal.

    Blocks are symmetric, and LU is not for them: MKL's, of a batch on two threads, ended jobs of SmolLM2 by "Parameter 6 was
    incorrect on entry to DLASWP" (torch 2.13.0, blocks of 192). Raises torch.linalg.LinAlgError if not all is finite.
    (..., n, n) -> the same
    """
    found: Tensor
    found, failed = torch.linalg.cholesky_ex(blocks)
    more = SMALLEST_PIVOT * blocks.diagonal(dim1=-2, dim2=-1).mean(dim=-1)
    for _ in range(MOST_RAISED):
        if not bool(failed.any()):
            return found
        blocks = blocks.clone()
        blocks.diagonal(dim1=-2, dim2=-1).add_(torch.where(failed > 0, more, 0.0)[..., None])
        found, failed = torch.linalg.cholesky_ex(blocks)
        more = more * RAISED
    found = torch.linalg.cholesky(blocks)
    return found


def substitutes(moments: Tensor, kept: Tensor) -> Tensor:
    """Return of each column that goes how the columns that stay say it best, whatever the weights.

    moments: (columns, columns), float64; kept: (columns,), whether a column stays -> (those that go, those that stay).
    """
    stay, go = kept.nonzero().flatten(), (~kept).nonzero().flatten()
    rows = moments[stay]
    return torch.cholesky_solve(rows[:, go], factored(rows[:, stay], damping(moments))[0]).t()


def updated(weight: Tensor, replacing: Tensor, kept: Tensor) -> Tensor:
    """Return the best matrix that reads only some columns; the others are 0.

    weight: (outputs, columns); replacing: what `substitutes` returned; kept: (columns,) -> (outputs, columns).
    """
    found = torch.zeros_like(weight)
    found[:, kept] = weight[:, kept] + weight[:, ~kept] @ replacing.to(weight.dtype)
    return found


class Reader:
    """A layer, or several that read the same, while units go.

    What the removal of columns costs depends on a matrix W only by WᵀW, so any W with the same product will do: one of more
    outputs than columns is a triangle here.
    """

    def __init__(self, moments: Tensor, columns: Tensor, weights: Sequence[Tensor], energies: Sequence[float]) -> None:
        """moments: (columns, columns), float64, of the inputs; columns: (units, columns of a unit); weights: (outputs, columns)
        each; energies: by which the squares of each one's outputs are divided.
        """
        self.size, self.lost, self.gone = columns.shape[1], 0.0, 0.0
        own = torch.ones(len(moments), dtype=torch.bool, device=moments.device)
        own[columns.flatten()] = False
        order = torch.cat([columns.flatten(), own.nonzero().flatten()])
        # A unit's columns side by side, so that blocks are views.
        factor, self.damping = factored(moments[order][:, order], damping(moments))
        self.inverse = torch.cholesky_inverse(factor)
        self.rows = _rows(weights, energies, len(moments))[order]
        self.before = self.rows.clone()

    def to(self, dtype: torch.dtype) -> "Reader":
        """Hold all numbers in a type."""
        self.inverse, self.rows, self.before = (each.to(dtype) for each in (self.inverse, self.rows, self.before))
        return self

    @property
    def bytes(self) -> int:
        """Return the bytes that it holds."""
        return sum(each.nbytes for each in (self.inverse, self.rows, self.before))

    def costs(self, units: int) -> Tensor:
        """Return what the error rises by without each of the first `units` units, all that there are. -> (units,)"""
        count = units * self.size
        made = self.rows[:count].view(units, self.size, -1)
        if self.size == 1:
            return made.square().sum(dim=(1, 2)) / self.inverse.diagonal()[:count]
        own = self.inverse[:count, :count].view(units, self.size, units, self.size).diagonal(dim1=0, dim2=2)
        whitened: Tensor = torch.linalg.solve_triangular(triangles(own.permute(2, 0, 1)), made, upper=False)
        return whitened.square().sum(dim=(1, 2))

    def remove(self, units: Tensor) -> None:
        """Take units out and update the columns that stay. units: (n,)"""
        gone = self._columns(units)
        pulled, made = self.inverse[gone], self.rows[gone]
        factor = torch.cholesky_solve(torch.cat([pulled, made], dim=1), triangles(pulled[:, gone]))
        self.lost += float((factor[:, pulled.shape[1] :] * made).sum())
        factor = factor[:, : pulled.shape[1]]
        self.rows.addmm_(factor.t(), made, alpha=-1)
        self.inverse.addmm_(pulled.t(), factor, alpha=-1)
        self.rows[gone] = 0.0
        self.inverse[gone] = 0.0
        self.inverse[:, gone] = 0.0
        self.inverse[gone, gone] = 1.0  # so that what costs nothing any more can be solved for

    def forget(self, left: Tensor) -> None:
        """Drop the columns of units that are gone: what comes after is cheaper. left: (units,), whether each is there."""
        count = len(left) * self.size
        stay = torch.ones(len(self.rows), dtype=torch.bool, device=left.device)
        stay[:count] = left.repeat_interleave(self.size)
        self.gone += float(self.before[~stay].square().sum())
        self.inverse, self.rows, self.before = self.inverse[stay][:, stay], self.rows[stay], self.before[stay]

    def error(self) -> float:
        """Return the error so far, as a share of the output's energy: what elimination has added up, without the damping's
        part of it.
        """
        change = self.gone + float((self.before - self.rows).square().sum())
        return max(self.lost - self.damping * change, 0.0)

    def _columns(self, units: Tensor) -> Tensor:
        return (units[:, None] * self.size + torch.arange(self.size, device=units.device)).flatten()


def _rows(weights: Sequence[Tensor], energies: Sequence[float], columns: int) -> Tensor:
    """Return a matrix, transposed, with the sum of WᵀW / energy of all weights, float64: (columns, outputs or columns)."""
    scaled = list(zip(weights, (max(energy, 1e-30) for energy in energies), strict=True))
    if sum(map(len, weights)) <= columns:
        return torch.cat([weight.double() / energy**0.5 for weight, energy in scaled]).t().contiguous()
    gram = sum((gram_of(weight) / energy for weight, energy in scaled), torch.zeros((), device=weights[0].device))
    gram.diagonal().add_(SMALLEST_PIVOT * float(gram.diagonal().mean()) or 1e-30)
    factor: Tensor = torch.linalg.cholesky(gram)
    return factor


def remove_units(readers: Sequence[Reader], units: int) -> Generator[None, None, tuple[Tensor, dict[int, float]]]:
    """Remove all units, the cheapest first, and return their order and the error at each width; yield before each removal.

    The order: (units,), the first removed comes first. Errors are summed over the readers and never fall as units go.
    """
    device = readers[0].rows.device
    gone: list[int] = []
    alive = torch.arange(units, device=device)
    errors = {units: 0.0}
    for before, after in pairwise(widths_of(units)):
        left = torch.ones(before, dtype=torch.bool, device=device)
        pieces = min(PIECES, before - after)
        sizes = [(before - after) // pieces + (number < (before - after) % pieces) for number in range(pieces)]
        for size in sizes:
            yield
            costs = torch.stack([reader.costs(before) for reader in readers]).sum(dim=0)
            costs[~left] = float("inf")
            chosen = torch.argsort(costs, stable=True)[:size]
            for reader in readers:
                reader.remove(chosen)
            left[chosen] = False
            gone += alive[chosen].tolist()
        errors[after] = max(errors[before], sum(reader.error() for reader in readers))
        alive = alive[left]
        for reader in readers:
            reader.forget(left)
    return torch.tensor(gone), errors
