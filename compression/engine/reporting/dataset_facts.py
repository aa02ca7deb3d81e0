"""What a job remembers of its datasets for the report, and the report itself."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from compression.engine.dataset_run import DatasetRun
from compression.engine.reporting.notes import better_note, data_notes, scheme_notes
from compression.modalities.text.batches import TokenizedDataset
from compression.modalities.text.causal_lm.packed_examples import PackedDataset
from compression.planning.verdicts import choose
from compression.schema.job_spec import Spec
from compression.schema.recipe.base import Task
from compression.schema.report.measurements import Row, Sensitivity, Uploaded
from compression.schema.report.report import Artifact, PartReport, Report, SplitFacts, verdicts
from compression.system.environment import environment


@dataclass
class DatasetSummary:
    """A dataset when its rows and its model are no longer in memory.

    `rows` counts those of each split that go through the model; `cut` are the training texts that reach `max_length` tokens;
    `pruning` is what the cut took, `sensitivity` the curves that it drew.
    """

    task: Task
    labels: tuple[str, ...]
    splits: dict[str, SplitFacts]
    rows: dict[str, int]
    max_length: int
    cut: int
    pruning: dict[str, Any] | None = field(default=None)
    sensitivity: dict[str, tuple[Sensitivity, ...]] = field(default_factory=dict)
    remarks: tuple[str, ...] = ()

    @classmethod
    def of(cls, part: DatasetRun) -> "DatasetSummary":
        """Take them from a part that is open."""
        own = {str(name): rows for name, rows in part.state.rows.items()}
        return cls(
            task=part.task,
            labels=part.dataset.labels,
            splits={name: _with_tokens(facts, own.get(name)) for name, facts in part.dataset.facts().items()},
            rows={name: _rows(rows) for name, rows in own.items()} | {"unlabelled": len(part.dataset.unlabelled)},
            max_length=part.max_length,
            cut=part.cut,
            remarks=language_notes(part),
        )

    def notes(self, first: Row, last: Row) -> tuple[str, ...]:
        """Say what the dataset's figures rest on. first: its baseline; last: its row of the headline's stage."""
        return (*data_notes(first, last, self.task, self.splits, self.cut, self.max_length), *self.remarks)


SENTENCE = 20
"""Tokens of a row as times are foretold by."""


def _rows(rows: TokenizedDataset) -> int:
    """Count a split's rows; of packed texts as many sentences as take the time that they do."""
    return rows.asked // SENTENCE + 1 if isinstance(rows, PackedDataset) else len(rows)


def _with_tokens(facts: SplitFacts, rows: TokenizedDataset | None) -> SplitFacts:
    if not isinstance(rows, PackedDataset):
        return facts
    return facts.model_copy(update={"tokens": rows.whole, "bytes": rows.bytes})


def language_notes(part: DatasetRun) -> tuple[str, ...]:
    """Say what a language model's figures rest on; nothing of other tasks."""
    rows, notes = part.state.rows, list[str]()
    train, validation = rows["train"], rows["validation"]
    if not isinstance(train, PackedDataset) or not isinstance(validation, PackedDataset):
        return ()
    window = part.evaluate.window or part.max_length
    notes.append(
        f"Perplexity is taken in windows of {window} tokens that go on by {max(window // 2, 1)}; texts share rows of "
        f"{part.max_length} tokens in training and do not see each other."
    )
    if validation.asked < validation.whole:
        notes.append(f"Epochs are chosen by {validation.asked:,} of {validation.whole:,} tokens of validation.")
    for name, some in part.scored.items():
        whole = len(part.dataset.splits[name])
        if len(some) < whole:
            notes.append(f"{len(some)} of {whole} texts of {name} are scored (evaluate.tokens {part.evaluate.tokens:,}).")
    for each, split in rows.items():
        if isinstance(split, PackedDataset) and split.left_out:
            notes.append(f"{split.left_out} texts of {each} have no token that could be foretold, and are left out.")
    return tuple(notes)


def job_report(
    spec: Spec, rows: Sequence[Row], artifacts: Sequence[Artifact], about: Mapping[str, DatasetSummary], sent: Uploaded
) -> Report:
    """Put the report of a finished job together. about: name → dataset; the only one of a job has no name."""
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
