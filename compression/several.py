"""Several datasets in one job: the row of their mean, with its verdict."""

from collections.abc import Mapping, Sequence

from compression.notes import row_notes
from compression.recipe import Spec
from compression.report import Remedy, Row, Uploaded, mean_row
from compression.verdicts import judged


def mean_judged(parts: Mapping[str, Row], before: Sequence[Row], spec: Spec, limit: str | None, sent: Uploaded) -> Row:
    """Take the mean of one stage's rows and hold it against the targets and the means of earlier stages.

    parts: name → row, in the job's order; limit: that of training which a part has reached; sent: the model that all came from.
    """
    row = mean_row(parts, before[0] if before else None, sent)
    row = row.model_copy(update={"notes": tuple(row_notes(row.ratios, row.score, before[-1] if before else None))})
    task = spec.asked[0].task
    return judged(row, before, spec.recipe, spec.targets, limit=limit, applied=applied(parts), task=task)


def applied(parts: Mapping[str, Row]) -> list[Remedy]:
    """Gather what the parts tried by themselves: one remedy a key, which says what came of it for each part that did."""
    found: dict[str, Remedy] = {}
    for name, row in parts.items():
        for remedy in row.verdict.remedies if row.verdict else ():
            said = f"{name}: {remedy.why}"
            before = found.get(remedy.key)
            found[remedy.key] = remedy.model_copy(update={"why": f"{before.why} {said}" if before else said})
    return list(found.values())
