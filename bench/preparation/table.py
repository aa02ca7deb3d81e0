"""The table: on validation the job's original beside the grid's best cell; on test both, and their paired interval."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from bench.preparation import grid
from bench.preparation.datasets import Prepared
from bench.preparation.records import Run

DRAWS = 2000
Numbers = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Compared:
    """One set's line. error: of the best cell's validation score, by a bootstrap over rows; low, high: job − grid on test."""

    rate: float
    best: float
    job: float
    error: float
    test_best: float
    test_job: float
    low: float
    high: float

    @property
    def holds(self) -> bool:
        """Return whether the job is at most one standard error below the grid's best cell, on validation."""
        return self.job >= self.best - self.error


def compared(prepared: Prepared, cells: Mapping[float, Sequence[Run]], own: Sequence[Run]) -> Compared:
    """Compare the job's originals with the grid. cells: rate → runs, one per seed; own: the job's runs, one per seed."""
    rate = max(cells, key=lambda one: float(np.mean([run.curve[run.best_epoch - 1] for run in cells[one]])))
    best, job = _Judge(prepared, "validation", cells[rate]), _Judge(prepared, "validation", own)
    tops, ours = _Judge(prepared, "test", cells[rate]), _Judge(prepared, "test", own)
    error = float(np.std([best.score(rows) for rows in best.draws()], ddof=1))
    apart = [ours.score(rows) - tops.score(rows) for rows in tops.draws()]
    low, high = np.percentile(apart, [2.5, 97.5])
    return Compared(rate, best.score(), job.score(), error, tops.score(), ours.score(), float(low), float(high))


class _Judge:
    """Scores runs on a split, as the mean over them, on all rows or on some."""

    def __init__(self, prepared: Prepared, split: str, runs: Sequence[Run]) -> None:
        self.prepared = prepared
        self.wanted = grid.wanted_of(prepared, prepared.rows(split))
        self.answers = [_in_order(np.array(getattr(run, split)), run, grid.labels_of(prepared)) for run in runs]

    def score(self, rows: npt.NDArray[np.int64] | None = None) -> float:
        chosen = np.arange(len(self.wanted)) if rows is None else rows
        return float(np.mean([grid.score(self.prepared, said[chosen], self.wanted[chosen]) for said in self.answers]))

    def draws(self) -> list[npt.NDArray[np.int64]]:
        generator = np.random.default_rng(0)
        return [generator.integers(0, len(self.wanted), len(self.wanted)) for _ in range(DRAWS)]


def _in_order(answers: Numbers, run: Run, labels: tuple[str, ...]) -> Numbers:
    """Turn ids of a run's labels into those of the set's sorted ones."""
    if not labels:
        return answers
    places = np.array([labels.index(label) for label in run.labels], np.float64)
    return places[answers.astype(np.int64)]


def lines(prepared: Prepared, cells: Mapping[float, Sequence[Run]], own: Sequence[Run]) -> str:
    """Write one set's line in Markdown."""
    found = compared(prepared, cells, own)
    minutes = sum(run.seconds for runs in cells.values() for run in runs) / 60
    columns = [
        prepared.name,
        f"{found.best:.2%} ({found.rate:g})",
        f"{found.job:.2%}",
        f"{found.error:.2%}",
        "yes" if found.holds else f"no, {found.best - found.job:.2%} below",
        ", ".join("yes" if run.converged else "no" for run in own),
        f"{found.test_best:.2%} / {found.test_job:.2%} [{found.low:+.2%}, {found.high:+.2%}]",
        f"{minutes:.1f} / {sum(run.seconds for run in own) / 60:.1f}",
    ]
    return "| " + " | ".join(columns) + " |"


HEAD = (
    "| set | grid's best cell (rate), validation | job, validation | standard error | at most one below | converged, by seed "
    "| test: grid / job [95 % of the difference] | minutes: grid / job |\n| --- | --- | --- | --- | --- | --- | --- | --- |"
)
