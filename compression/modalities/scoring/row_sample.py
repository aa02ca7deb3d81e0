"""Which rows of a split are scored if scoring all of them takes too long: a random sample, the same for all artifacts."""

import math
import time
from collections import Counter
from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

FEWEST_ROWS = 100
"""The smallest sample, however long its rows take: a share of it has a standard error of five points at most."""


@dataclass(frozen=True)
class ScoringLimit:
    """Limits of one split of one artifact. A row that was begun is finished."""

    rows: int | None = None  #: most rows; None: all
    seconds: float = math.inf  #: seconds after which no further row is begun

    def taken(self, order: Sequence[int], *, fewest: int | None = None, share: float = 1.0) -> Iterator[int]:
        """Yield the beginning of an order of rows, until a limit is reached.

        fewest: rows that are yielded however long they take, by default FEWEST_ROWS. share: of the seconds, if the caller
        works on the rows again.
        """
        end, least = time.monotonic() + share * self.seconds, FEWEST_ROWS if fewest is None else fewest
        for number, row in enumerate(order[: self.rows]):
            if number >= least and time.monotonic() >= end:
                return
            yield row


WHOLE = ScoringLimit()


def sampling_order(strata: Sequence[Hashable], seed: int) -> list[int]:
    """Return the numbers of rows in a random order, each beginning of which is a stratified sample.

    strata: of each row what it is to be represented by, such as its label. Each stratum is spread evenly over the order, so a
    beginning has its share, to a row or two. The same strata and seed give the same order: artifacts that score equally many
    rows score the same ones.
    """
    draw, sizes = np.random.default_rng(seed), Counter(strata)
    shuffled = [int(row) for row in draw.permutation(len(strata))]
    offsets = {stratum: draw.random() for stratum in sizes}
    seen: Counter[Hashable] = Counter()
    places = np.empty(len(strata))
    for row in shuffled:
        stratum = strata[row]
        places[row] = (seen[stratum] + offsets[stratum]) / sizes[stratum]  # strata lie evenly between 0 and 1
        seen[stratum] += 1
    return sorted(shuffled, key=lambda row: places[row])
