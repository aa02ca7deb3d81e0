"""Predicts what linear layers and convolutions take from timed ones: a sum with weights, led through the rows. Torch-free.

The time is a sum of 1, the places, the places times the channels on a side, the size of the weight where it is read once, and
the multiplications, with weights of at least 0 that fit the rows by their relative errors. What is then left at the rows nearby
is made good, the more the nearer. Runtimes have other kernels for convolutions with a number of channels that is a multiple of
16, of 4, or of neither (`GRAINS`), so each pair of grains has weights of its own.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from math import exp, log

from compression.schema.device_table import GRAINS

Grains = tuple[int, int]
Size = tuple[float, float, float]  #: channels that are read, channels that are made, places
ROUNDS, ENOUGH = 2000, 1e-7  #: of coordinate descent: the most, and the change of all weights, as a share, at which it ends
NEAR = 0.05  #: squared distance, in logarithms of sizes, within which a row counts as the same size


def grains_of(inputs: int, outputs: int) -> Grains:
    """Return the grains of a convolution's channels on both sides, the larger one first."""
    one, other = (next(grain for grain in GRAINS if width % grain == 0) for width in (inputs, outputs))
    return max(one, other), min(one, other)


@dataclass(frozen=True)
class ProductTimes:
    """What layers that multiply take, of one kind and pair of grains, in one runtime and form."""

    alike: bool  #: whether both directions count as one, as those of convolutions do
    weights: tuple[float, ...]
    left: tuple[tuple[Size, float], ...]  #: of each row its size in logarithms, and the logarithm of time by sum

    @classmethod
    def of(cls, rows: Sequence[tuple[Size, float]], *, alike: bool) -> "ProductTimes":
        """Fit rows, one at least. rows: sizes and microseconds above 0."""
        weights = fitted([[term / time for term in _terms(size, alike=alike)] for size, time in rows])
        sums = [sum(map(float.__mul__, weights, _terms(size, alike=alike))) for size, _ in rows]
        left = ((_point(size, alike=alike), log(time / own)) for (size, time), own in zip(rows, sums, strict=True))
        return cls(alike, weights, tuple(left))

    def microseconds(self, inputs: float, outputs: float, places: float) -> float:
        """Return the time of a layer of this size."""
        size = (float(inputs), float(outputs), float(places))
        here = _point(size, alike=self.alike)
        near = [(1 / (NEAR + sum((a - b) ** 2 for a, b in zip(here, at, strict=True))) ** 2, rest) for at, rest in self.left]
        rest = sum(weight * rest for weight, rest in near) / sum(weight for weight, _ in near)
        return exp(rest) * sum(map(float.__mul__, self.weights, _terms(size, alike=self.alike)))


def _terms(size: Size, *, alike: bool) -> tuple[float, ...]:
    inputs, outputs, places = map(float, size)
    ends = (places * (inputs + outputs),) if alike else (places * inputs, places * outputs, inputs * outputs)
    return 1.0, places, *ends, places * inputs * outputs


def _point(size: Size, *, alike: bool) -> Size:
    inputs, outputs, places = map(log, size)
    return (min(inputs, outputs), max(inputs, outputs), places) if alike else (inputs, outputs, places)


def fitted(rows: Iterable[Sequence[float]]) -> tuple[float, ...]:
    """Return weights of at least 0 with which each row's sum is nearest to 1: least squares by coordinate descent."""
    columns = list(zip(*rows, strict=True))
    products = [[sum(map(float.__mul__, one, other)) for other in columns] for one in columns]
    sums, weights = [sum(column) for column in columns], [0.0] * len(columns)
    for _ in range(ROUNDS):
        before = [*weights]
        for at, own in enumerate(products):
            others = sum(map(float.__mul__, own, weights)) - own[at] * weights[at]
            weights[at] = max((sums[at] - others) / own[at], 0.0)
        if all(abs(new - old) <= ENOUGH * new for new, old in zip(weights, before, strict=True)):
            break
    return tuple(weights)
