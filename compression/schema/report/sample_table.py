"""The samples of a report beside the answers of two of its artifacts: the baseline's and the recommended one."""

from dataclasses import dataclass

from compression.schema.report.report import Report
from compression.schema.report.samples import Sample, SampleAnswer
from compression.schema.tasks import TASKS


@dataclass(frozen=True)
class SampleLine:
    """A sample and both answers."""

    sample: Sample
    original: SampleAnswer
    compressed: SampleAnswer


@dataclass(frozen=True)
class SampleTable:
    """The samples of a dataset."""

    part: str  #: the dataset's name, if there are several
    row: str  #: what a row is, for people
    exact: bool  #: whether an answer is right or wrong: not for numbers and stretches of text, which are right by degrees
    lines: tuple[SampleLine, ...]


def sample_tables(report: Report) -> list[SampleTable]:
    """Return the samples of each dataset; none of one whose artifacts have no answers, as in older reports."""
    first, answers = report.rows[0], {artifact.name: artifact.answers for artifact in report.artifacts}
    places = [(part.name, part.task, part.samples) for part in report.parts] or [("", report.task, report.samples)]
    tables = []
    for name, task, samples in places:
        before = answers.get(first.parts.get(name, first).artifact, ())
        after = answers.get(report.headlines.get(name, report.headline), ())
        if samples and len(before) == len(after) == len(samples):
            spec, lines = TASKS[task], zip(samples, before, after, strict=True)
            tables.append(SampleTable(name, spec.row, spec.named_labels, tuple(SampleLine(*line) for line in lines)))
    return tables
