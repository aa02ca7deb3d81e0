"""Which rows of a split are scored if scoring all of them takes too long: a random sample, the same for all artifacts."""

import math
import time
from collections import Counter
from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

FEWEST_ROWS = 100
"""The smallest sample, however long its rows take: a share of it has a standard error of five points at most."""

PIECE = 0.05
"""The share of the time after which it is looked at again."""


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

    def taken_in_pieces(self, order: Sequence[int], *, share: float = 1.0) -> Iterator[int]:
        """Yield the beginning of an order of rows in pieces, each of which ascends, until a limit is reached.

        Files of many rows are read forwards: each step back begins anew. A piece that was begun is finished, or the rows at its
        beginning would be drawn more often; by the pace so far it takes PIECE of the seconds. The first has FEWEST_ROWS.
        share: of the seconds, if the caller works on the rows again.
        """
        rows, begun, given = order[: self.rows], time.monotonic(), share * self.seconds
        done = min(FEWEST_ROWS, len(rows))
        yield from sorted(rows[:done])
        while done < len(rows):
            spent = time.monotonic() - begun
            if spent >= given:
                return
            fit = done / spent * min(given - spent, PIECE * given) if spent > 0 else math.inf
            size = max(1, int(min(fit, len(rows))))
            yield from sorted(rows[done : done + size])
            done += size


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
