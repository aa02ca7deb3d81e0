"""Builds the job report and the per-dataset summaries it needs after a dataset has been unloaded."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from compression.engine.reporting.notes import better_note, data_notes, scheme_notes
from compression.planning.verdicts import choose
from compression.schema.job_spec import Spec
from compression.schema.recipe.base import Task
from compression.schema.report.measurements import Row, Sensitivity, Uploaded
from compression.schema.report.report import Artifact, PartReport, Report, SplitFacts, verdicts
from compression.system.environment import environment


@dataclass
class DatasetSummary:
    """Facts about a dataset whose rows and model are no longer in memory. `rows` counts the rows of each split that go through
    the model. `cut` describes which part of train was cut off, `pruning` what pruning removed, `sensitivity` its curves.
    """

    task: Task
    labels: tuple[str, ...]
    splits: dict[str, SplitFacts]
    rows: dict[str, int]
    cut: str | None
    pruning: dict[str, Any] | None = field(default=None)
    sensitivity: dict[str, tuple[Sensitivity, ...]] = field(default_factory=dict)
    remarks: tuple[str, ...] = ()

    def notes(self, first: Row, last: Row) -> tuple[str, ...]:
        """Return notes on what the dataset's figures rest on. first: its baseline row; last: the headline stage's row."""
        return (*data_notes(first, last, self.task, self.splits, self.cut), *self.remarks)


def job_report(
    spec: Spec, rows: Sequence[Row], artifacts: Sequence[Artifact], about: Mapping[str, DatasetSummary], sent: Uploaded
) -> Report:
    """Build the report of a finished job. about: dataset name → summary. If a job has only one dataset, its name is empty."""
    chosen, choice = choose(rows, spec.targets)
    alone = about.get("")
    parts = [
        PartReport(
            name=name,
            task=facts.task,
            labels=facts.labels,
            splits=facts.splits,
            pruning=facts.pruning,
            sensitivity=facts.sensitivity,
            notes=facts.notes(rows[0].parts[name], chosen.parts[name]),
        )
        for name, facts in about.items()
        if name
    ]
    return Report(
        task=spec.task,
        labels=alone.labels if alone else (),
        rows=tuple(rows),
        uploaded=sent,
        headline=chosen.artifact,
        headlines={name: row.artifact for name, row in chosen.parts.items()},
        parts=tuple(parts),
        choice=choice,
        ratios=chosen.ratios,
        targets=spec.targets,
        verdicts=verdicts(chosen.ratios, spec.targets),
        artifacts=tuple(artifacts),
        recipe=spec.recipe,
        splits=alone.splits if alone else {},
        pruning=alone.pruning if alone else None,
        sensitivity=alone.sensitivity if alone else {},
        environment=environment(),
        notes=(
            *(alone.notes(rows[0], chosen) if alone else _of_means(rows[0], chosen, len(parts))),
            *scheme_notes(spec.recipe.quantize),
        ),
    )


def _of_means(first: Row, last: Row, parts: int) -> tuple[str, ...]:
    about = f"The rows are means over {parts} datasets, each with a model of its own, and weigh them alike."
    better = better_note(first, last)
    return (about,) if better is None else (about, better)
