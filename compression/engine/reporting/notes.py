"""Writes a report's notes: what got worse, what did not help, and what a reader needs to judge it."""

from collections.abc import Mapping

from compression.schema.recipe.base import Task
from compression.schema.recipe.quantize import Quantize
from compression.schema.report.measurements import Latency, Ratios, Row, Score
from compression.schema.report.report import SplitFacts
from compression.schema.schemes import SCHEMES
from compression.schema.tasks import TASKS


def with_notes(row: Row, previous: Row | None) -> Row:
    """Return the row with added notes on what is worse than before. previous: the previous stage's row."""
    notes = row_notes(row.ratios, row.judged_score, previous)
    tested = row.score
    if isinstance(tested, Score) and tested.rows_changed_by_batching:
        notes.append(f"{tested.rows_changed_by_batching} of {tested.rows} answers depend on who shares the batch.")
    if isinstance(row.latency, Latency) and not row.latency.exclusive:
        notes.append("Another job may have been timed on this host at once: its turn was not over within the time of waiting.")
    return row.model_copy(update={"notes": (*row.notes, *notes)})


def row_notes(found: Ratios, score: object, previous: Row | None) -> list[str]:
    """Return notes on what is worse than before in a stage's artifact.

    score: the artifact's score on the split that choices are made on.
    """
    notes = []
    if isinstance(score, Score):
        before = previous.judged_score if previous is not None else None
        if previous is not None and isinstance(before, Score) and score.worth < before.worth:
            noise = " (within one standard error)" if before.worth - score.worth <= before.worth_error else ""
            turned = "rose" if score.lower_is_better else "fell"
            notes.append(
                f"{found.judged_on.capitalize()} {score.metric} {turned} from {before.value:.4f} ({previous.stage}) to "
                f"{score.value:.4f}{noise}."
            )
        if score.above_chance <= 0:
            notes.append(f"The score is no better than chance ({score.chance:.4f}: what knowing no text would score).")
    if previous is not None and found.speed_up is not None and found.speed_up < 1:
        notes.append(f"It is slower than the baseline: {1 / found.speed_up:.2f} times its latency.")
    if previous is not None and found.size_reduction < 0:
        notes.append("It is larger than the baseline.")
    return notes


def data_notes(first: Row, last: Row, task: Task, splits: Mapping[str, SplitFacts], cut: str | None) -> tuple[str, ...]:
    """Return notes on what a dataset's figures rest on.

    first: the baseline's row; last: the headline's row; cut: the note on what was cut off, if anything.
    """
    notes = [
        f"{first.parameters.embedding / first.parameters.total:.0%} of the baseline's parameters are embeddings, "
        f"{last.parameters.embedding / last.parameters.total:.0%} of the result's."
    ]
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
        change = last.score.worth - first.score.worth
        if change > 0:
            how = "better" if last.score.lower_is_better else "higher"
            unit = " nats a token" if last.score.lower_is_better else ""
            return (
                f"On test the result scores {how} than the baseline by {change:.4f}{unit}; the standard error is {error:.4f}."
            )
    return None


def scheme_notes(settings: Quantize | None) -> tuple[str, ...]:
    """Return notes on how a scheme's transformers checkpoint differs from its ONNX artifact."""
    note = None if settings is None else SCHEMES[settings.scheme].note
    return () if note is None else (note,)
