"""Predicts what a convolution takes from timed ones: weights for each pair of grains, led through the rows. Torch-free.

Runtimes have other kernels for channels whose number is a multiple of 16, of 4, or of neither (`GRAINS`), so a width says more
by its grain than by its size. For a pair of grains the time is a sum with weights of at least 0: of 1, of the places, of places
times channels on both sides, and of the multiplications. The weights fit the rows by their relative errors. What is then left
at the rows nearby is made good, the more the nearer.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from math import exp, log

from compression.schema.device_table import GRAINS, TableRow

Grains = tuple[int, int]
ROUNDS = 400  #: of coordinate descent: more change nothing in the third digit
NEAR = 0.05  #: squared distance, in logarithms of sizes, within which a row counts as the same size


def grains_of(inputs: int, outputs: int) -> Grains:
    """Return the grains of a convolution's channels on both sides, the larger one first."""
    one, other = (next(grain for grain in GRAINS if width % grain == 0) for width in (inputs, outputs))
    return max(one, other), min(one, other)


def _terms(inputs: float, outputs: float, places: float) -> tuple[float, ...]:
    return 1.0, places, places * (inputs + outputs), places * inputs * outputs


def _point(inputs: float, outputs: float, places: float) -> tuple[float, ...]:
    narrow, wide = sorted((inputs, outputs))
    return log(narrow), log(wide), log(places)


@dataclass(frozen=True)
class ConvolutionTimes:
    """What the convolutions of a pair of grains take, in one runtime and form."""

    weights: tuple[float, ...]
    left: tuple[tuple[tuple[float, ...], float], ...]  #: of each row its size and the logarithm of time by fit

    @classmethod
    def of(cls, rows: Sequence[TableRow]) -> "ConvolutionTimes":
        """Fit rows of at least one size."""
        sizes = [(row.inputs, row.outputs, row.places * row.batch) for row in rows]
        weights = fitted([[term / row.microseconds for term in _terms(*size)] for row, size in zip(rows, sizes, strict=True)])
        fits = [sum(map(float.__mul__, weights, _terms(*size))) for size in sizes]
        left = ((_point(*size), log(row.microseconds / fit)) for row, size, fit in zip(rows, sizes, fits, strict=True))
        return cls(weights, tuple(left))

    def microseconds(self, inputs: float, outputs: float, places: float) -> float:
        """Return the time of a convolution with so many channels on both sides at so many places."""
        here = _point(inputs, outputs, places)
        near = [(1 / (NEAR + sum((a - b) ** 2 for a, b in zip(here, at, strict=True))) ** 2, rest) for at, rest in self.left]
        rest = sum(weight * rest for weight, rest in near) / sum(weight for weight, _ in near)
        return exp(rest) * sum(map(float.__mul__, self.weights, _terms(inputs, outputs, places)))


def fitted(rows: Iterable[Sequence[float]]) -> tuple[float, ...]:
    """Return weights of at least 0 with which each row's sum is nearest to 1: least squares by coordinate descent."""
    columns = list(zip(*rows, strict=True))
    products = [[sum(map(float.__mul__, one, other)) for other in columns] for one in columns]
    sums, weights = [sum(column) for column in columns], [0.0] * len(columns)
    for _ in range(ROUNDS):
        for at, own in enumerate(products):
            others = sum(map(float.__mul__, own, weights)) - own[at] * weights[at]
            weights[at] = max((sums[at] - others) / own[at], 0.0)
    return tuple(weights)
