"""Output of commands: a table for people, or exactly one JSON document for programs (JSON lines for streams)."""

import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Annotated, Any

import typer
from pydantic import BaseModel
from rich.console import Console, ConsoleOptions, RenderableType
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn
from rich.segment import Segment
from rich.table import Table
from rich.text import Text

from client.errors import CannotStart, ClientError, Problem
from client.terminal.fitting import FittingTable
from client.terminal.text import UNSEEN, escaped, one_line
from client.transfers.folders import Moved

WIDE = 10_000
"""Width of an output that is no terminal, so that a pipe gets one full line per row."""
IN_COMMANDS = {
    "unauthorized": "Set LATHE_KEY to a key that is in force, or LATHE_HOME to the folder that `lathe up` uses.",
    "not_found": "Check the id: `lathe ls`, `lathe models ls` and `lathe datasets ls` show what there is.",
    "report_not_ready": "Wait for it with `lathe watch`; `lathe show` has the rows of the finished stages.",
    "not_ready": "Upload it again with `lathe models add` or `lathe datasets add`; their `show` says why one was rejected.",
    "wrong_state": "See its state with `lathe show`; `lathe cancel` stops what still runs.",
    "no_tables": "Submit a job with `lathe submit --set prune.search=solver`: its tables are kept until it is deleted.",
    "no_remedy": "See what is wrong with `lathe show` and `lathe logs`; change it with `lathe submit --set`.",
    "invalid_recipe": "Correct the named key; `lathe recipe init` writes a file that says what each key may be.",
}
"""Problem → remedy in terms of commands, if the service's own is in terms of HTTP."""
_as_json: ContextVar[bool] = ContextVar("as_json", default=False)


def _choose(value: bool) -> bool:
    _as_json.set(value)
    return value


AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON document and nothing else.", callback=_choose)]


def as_json() -> bool:
    """Return whether this command prints for programs."""
    return _as_json.get()


def reset() -> None:
    """Forget the options of an earlier command of this process."""
    _as_json.set(False)


class _Console(Console):
    """Replaces control characters in text; rich's own control codes pass."""

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterator[Segment]:
        """See Console."""
        for segment in super().render(renderable, options):
            yield segment if segment.control else Segment(segment.text.translate(UNSEEN), segment.style)


def console(*, stderr: bool = False) -> Console:
    """Return a console for the current stdout or stderr. NO_COLOR and COLUMNS are respected (rich reads them)."""
    stream = sys.stderr if stderr else sys.stdout
    return _Console(file=stream, width=None if stream.isatty() else WIDE, highlight=False, emoji=False)


def plain(data: Any) -> Any:
    """Convert answers to what json can write."""
    if isinstance(data, BaseModel):
        return data.model_dump(mode="json")
    if isinstance(data, Mapping):
        return {name: plain(value) for name, value in data.items()}
    if isinstance(data, Sequence) and not isinstance(data, str):
        return [plain(value) for value in data]
    return data


def write_json(data: Any) -> None:
    """Print one document on one line."""
    sys.stdout.write(escaped(json.dumps(plain(data), ensure_ascii=False)) + "\n")
    sys.stdout.flush()


def emit(data: Any, *shown: RenderableType) -> None:
    """Print the document for programs, or the rest for people."""
    if as_json():
        write_json(data)
        return
    out = console()
    for part in shown:
        # Text from the service is never markup.
        out.print(Text(one_line(part)) if isinstance(part, str) else part, soft_wrap=isinstance(part, str))


def say(text: str) -> None:
    """Print a message for people on stderr; nothing for programs."""
    if not as_json():
        console(stderr=True).print(Text(one_line(text)), soft_wrap=True)


def show_error(error: ClientError) -> None:
    """Print an error's cause and what to do next; for programs as the one document."""
    if as_json():
        write_json({"error": error.as_dict()})
        return
    facts = error.as_dict()
    out = console(stderr=True)
    cause = error.cause if isinstance(error, CannotStart) else one_line(error.cause)  # that one has the lines of a log
    out.print(Text.assemble(("Error: ", "bold red"), cause, f" ({facts['code']})"), soft_wrap=True)
    if facts.get("param"):
        out.print(Text(one_line(f"Field: {facts['param']}")), soft_wrap=True)
    if remedy := (isinstance(error, Problem) and IN_COMMANDS.get(error.problem_code)) or error.remedy_text:
        out.print(Text(one_line(f"Next:  {remedy}")), soft_wrap=True)
    if facts.get("request_id"):
        out.print(Text(f"Request: {facts['request_id']}", style="dim"), soft_wrap=True)


def table(columns: Sequence[str], rows: Sequence[Sequence[Any]], *, empty: str) -> RenderableType:
    """Return a list as a table, or `empty` if it has no rows."""
    if not rows:
        return empty
    found = Table(box=None, pad_edge=False, header_style="bold")
    for column in columns:
        found.add_column(column, no_wrap=column != columns[-1])  # ids are never cut; what is said last may take more lines
    cells = [[Text("–" if cell is None else one_line(str(cell))) for cell in row] for row in rows]
    for line in cells:
        found.add_row(*line)
    return FittingTable(found, columns, cells)


@contextmanager
def moving(title: str, total: int) -> Iterator[Moved | None]:
    """Show a transfer's progress on stderr; if that is no terminal, a line once something moves."""
    out = console(stderr=True)
    if as_json() or not out.is_terminal:
        first = iter((f"{title}: {total / 1e6:.1f} MB",))

        def begun(_path: str, _amount: int) -> None:
            for text in first:  # which one of the threads gets
                say(text)

        yield begun
        return
    columns = (TextColumn("{task.description}", markup=False), BarColumn(), DownloadColumn(), TransferSpeedColumn())
    with Progress(*columns, console=out, transient=True) as progress:
        task = progress.add_task(one_line(title), total=total)
        yield lambda _path, amount: progress.advance(task, amount)
