"""Builds the job report and the per-dataset summaries it needs after a dataset has been unloaded."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from compression.planning.front import front_of
from compression.planning.recommendation import recommended
from compression.planning.verdicts import choose
from compression.schema.artifact_formats import INTEGERS, TRANSFORMERS
from compression.schema.job_spec import Spec
from compression.schema.recipe.base import Task
from compression.schema.recipe.quantize import Quantize
from compression.schema.report.measurements import Row, Score, Uploaded
from compression.schema.report.points import PointCut
from compression.schema.report.report import Artifact, PartReport, Report, SplitFacts, verdicts
from compression.schema.report.samples import Sample
from compression.schema.report.sensitivity import Sensitivity
from compression.schema.report.size_search import SizeSearch
from compression.schema.schemes import SCHEMES
from compression.schema.stages import Stage
from compression.schema.tasks import TASKS
from compression.system.environment import environment


class StageFacts(Protocol):
    """What a stage's checkpoint has for the report beside its row."""

    @property
    def pruning(self) -> dict[str, Any] | None:
        """Return what pruning removed."""

    @property
    def sensitivity(self) -> dict[str, tuple[Sensitivity, ...]]:
        """Return its curves."""

    @property
    def sizes(self) -> SizeSearch | None:
        """Return what a recipe with `auto` tried."""

    @property
    def points(self) -> tuple[PointCut, ...]:
        """Return the sizes that `prune.points` asks for."""


@dataclass
class DatasetSummary:
    """Facts about a dataset whose rows and model are no longer in memory. `rows` counts the rows of each split that go through
    the model. `cut` describes which part of train was cut off, `pruning` what pruning removed, `sensitivity` its curves,
    `sizes` what a recipe with `auto` tried, `points` the sizes that `prune.points` asks for.
    """

    task: Task
    labels: tuple[str, ...]
    splits: dict[str, SplitFacts]
    rows: dict[str, int]
    cut: str | None
    pruning: dict[str, Any] | None = field(default=None)
    sensitivity: dict[str, tuple[Sensitivity, ...]] = field(default_factory=dict)
    sizes: SizeSearch | None = None
    points: tuple[PointCut, ...] = ()
    remarks: tuple[str, ...] = ()
    samples: tuple[Sample, ...] = ()

    def take(self, found: StageFacts) -> None:
        """Take what a stage found out that the report tells once."""
        self.pruning, self.sensitivity, self.sizes = found.pruning, found.sensitivity, found.sizes
        self.points = found.points

    def pruned(self, stage: Stage) -> dict[str, Any] | None:
        """Return what pruning had removed by a stage: of several sizes, that stage's own."""
        own = (one.pruning for one in self.points if one.stage == stage)
        return next(own, self.points[0].pruning if self.points else self.pruning)

    def made(self, stages: Sequence[Stage]) -> tuple[PointCut, ...]:
        """Return those of the sizes that have a row. stages: of the rows."""
        return tuple(one for one in self.points if one.stage in stages)

    def notes(self, first: Row, last: Row) -> tuple[str, ...]:
        """Return notes on what the dataset's figures rest on. first: its baseline row; last: the headline stage's row."""
        return (*data_notes(first, last, self.task, self.splits, self.cut), *self.remarks)


def job_report(
    spec: Spec, rows: Sequence[Row], artifacts: Sequence[Artifact], about: Mapping[str, DatasetSummary], sent: Uploaded
) -> Report:
    """Build the report of a finished job. about: dataset name → summary. If a job has only one dataset, its name is empty."""
    chosen, choice = choose(rows, spec.targets)
    alone, scheme_note = about.get(""), _scheme_note(spec.recipe.quantize, artifacts)
    stages = [row.stage for row in rows]
    parts = [
        PartReport(
            name=name,
            task=facts.task,
            labels=facts.labels,
            splits=facts.splits,
            pruning=facts.pruned(chosen.stage),
            points=facts.made(stages),
            sensitivity=facts.sensitivity,
            sizes=facts.sizes,
            notes=facts.notes(rows[0].parts[name], chosen.parts[name]),
            samples=facts.samples,
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
        recommended=recommended(chosen, rows[0], artifacts, spec.targets, sent),
        ratios=chosen.ratios,
        targets=spec.targets,
        verdicts=verdicts(chosen, spec.targets),
        gate=chosen.gate,
        artifacts=tuple(artifacts),
        recipe=spec.recipe,
        splits=alone.splits if alone else {},
        pruning=alone.pruned(chosen.stage) if alone else None,
        points=alone.made(stages) if alone else (),
        front=front_of(rows, spec.targets),
        sensitivity=alone.sensitivity if alone else {},
        sizes=alone.sizes if alone else None,
        environment=environment(),
        samples=alone.samples if alone else (),
        notes=(
            *(alone.notes(rows[0], chosen) if alone else _of_means(rows[0], chosen, len(parts))),
            *([scheme_note] if scheme_note is not None else ()),
        ),
    )


def _scheme_note(quantize: Quantize | None, artifacts: Sequence[Artifact]) -> str | None:
    """Return how checkpoints with a scheme's integers differ from ONNX files; None if the job ships none."""
    ships = any(one.kind == TRANSFORMERS.name and one.precision in INTEGERS for one in artifacts)
    return SCHEMES[quantize.scheme].note if quantize is not None and ships else None


def data_notes(first: Row, last: Row, task: Task, splits: Mapping[str, SplitFacts], cut: str | None) -> tuple[str, ...]:
    """Return notes on what a dataset's figures rest on: the baseline's row, the headline's row, what was cut off."""
    notes = []
    if first.parameters.embedding:
        notes.append(
            f"{first.parameters.embedding / first.parameters.total:.0%} of the baseline's parameters are embeddings, "
            f"{last.parameters.embedding / last.parameters.total:.0%} of the result's."
        )
    if carved := sorted(name for name, facts in splits.items() if facts.carved_from_train):
        how = "stratified, " if TASKS[task].one_class else ""
        notes.append(f"Carved from train, {how}by the recipe's seed: {', '.join(carved)}.")
    if cut is not None:
        notes.append(cut)
    if (better := better_note(first, last)) is not None:
        notes.append(better)
    return tuple(notes)


def better_note(first: Row, last: Row) -> str | None:
    """Return a note with the standard error if the result scores better than the baseline, else None."""
    if isinstance(first.score, Score) and isinstance(last.score, Score):
        error = (first.score.worth_error**2 + last.score.worth_error**2) ** 0.5
        gain = last.score.worth - first.score.worth
        if gain > 0:
            how = "better" if last.score.lower_is_better else "higher"
            unit = " nats a token" if last.score.lower_is_better else ""
            return f"On test the result scores {how} than the baseline by {gain:.4f}{unit}; the standard error is {error:.4f}."
    return None


def _of_means(first: Row, last: Row, parts: int) -> tuple[str, ...]:
    about = f"The rows are means over {parts} datasets, each with a model of its own, and weigh them alike."
    better = better_note(first, last)
    return (about,) if better is None else (about, better)
