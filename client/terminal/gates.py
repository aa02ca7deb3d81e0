"""Formats the verdicts of a job's quality gate, and the sizes that it made or tried, for its report."""

from collections.abc import Iterator

from compression.schema.report.points import size_text
from compression.schema.report.report import Report


def gate_lines(report: Report, quote: str) -> list[tuple[str, str]]:
    """Return lines, each with its style: the headline's verdict, and in a word the other artifacts'. quote: around names."""
    if report.gate is None:
        return []
    others = [one for one in report.artifacts if one.gate is not None and one.name not in report.shipped]
    told = ", ".join(f"{quote}{one.name}{quote} {one.gate.status}" for one in others if one.gate is not None)
    first, *more = report.gate.lines
    style = "green" if report.gate.status == "accept" else "yellow"
    return [(first, style), *((line, "") for line in more), *([(f"Others: {told}", "")] if told else [])]


def gate_sections(report: Report, quote: str) -> Iterator[tuple[str, list[tuple[str, str]]]]:
    """Yield the title and lines of the quality gate, of the sizes that were made, and of the search for one on each dataset."""
    yield "Quality gate:", gate_lines(report, quote)
    if (front := report.front) is not None:
        each = [(size_text(row, front), "green" if row.artifact == report.headline else "") for row in report.front_rows]
        yield "Sizes:", [*each, (front.why, "")]
    for part, found in report.size_searches.items():
        where = f", {part}" if part else ""
        yield f"Sizes tried, to keep {100 * found.retention:.1f} %{where}:", [(one, "") for one in found.lines]
