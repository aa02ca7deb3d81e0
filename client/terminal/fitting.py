"""A table for terminals of any width: where its words would be cut, each row is a block of lines."""

from collections.abc import Sequence

from rich.console import Console, ConsoleOptions, RenderResult
from rich.measure import Measurement
from rich.table import Table
from rich.text import Text

UNBOUNDED = 10_000
"""Width at which a table tells what it needs: at its console's own it tells no more than that."""


class FittingTable:
    """A table, or its rows one below the other if the console is narrower than its longest words together."""

    def __init__(self, table: Table, headers: Sequence[str], rows: Sequence[Sequence[Text]]) -> None:
        """table: with these headers and rows."""
        self.table, self.headers, self.rows = table, headers, rows

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """See rich's protocol."""
        needed = Measurement.get(console, options.update(max_width=UNBOUNDED), self.table).minimum
        if needed <= options.max_width:
            yield self.table
            return
        for number, row in enumerate(self.rows):
            if number:
                yield Text("")
            yield Text.assemble((f"{self.headers[0]} " if self.headers[0] else "", "bold"), row[0])
            for header, cell in zip(self.headers[1:], row[1:], strict=True):
                yield Text.assemble((f"  {header}: ", "bold"), cell)
