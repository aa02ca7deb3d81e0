"""Formats what both models of a job answer, for terminals. Pure functions."""

from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from client.terminal.render import percent, size
from client.terminal.text import one_line
from compression.schema.prediction import Answer, Answered


def _said(answer: Answer) -> str:
    if answer.label is not None:
        share = answer.scores.get(answer.label)
        return f"{answer.label} ({percent(share)})" if share is not None else answer.label
    if answer.value is not None:
        return f"{answer.value:.4g}"
    return " ".join(answer.tags) if answer.tags is not None else answer.text or "no answer"


def _expected(found: Answered) -> str:
    """Return what the data has: tags, or any of a question's answers."""
    if not isinstance(found.expected, tuple):
        return str(found.expected)
    return (" " if "tokens" in found.asked else " or ").join(found.expected) or "no answer in the context"


def answers(found: Answered) -> list[RenderableType]:
    """Return both models' answers to the same texts, side by side."""
    grid = Table(header_style="bold", pad_edge=False)
    for header in ("", "answer", "time", "size"):
        grid.add_column(header)
    for name, answer in (("original", found.original), ("compressed", found.compressed)):
        time = f"{answer.milliseconds:.2f} ms, median of {answer.runs}"
        grid.add_row(name, Text(one_line(_said(answer))), time, size(answer.bytes))
    texts: list[RenderableType] = [
        f"{name}: {value if isinstance(value, str) else ' '.join(value)}" for name, value in found.asked.items()
    ]
    expected: list[RenderableType] = [] if found.expected is None else [f"expected: {_expected(found)}"]
    alone = [] if found.exclusive else ["Another job was perhaps timed on that machine at once: the times may be too long."]
    return [*texts, *expected, grid, *alone]
