"""A table for terminals of any width: no word is cut. If words do not fit beside each other, each row is a block of lines."""

from collections.abc import Sequence

from rich.console import Console, ConsoleOptions, RenderResult
from rich.measure import Measurement
from rich.table import Table
from rich.text import Text

UNBOUNDED = 10_000
"""Width at which a table tells what it needs: at its console's own it tells no more than that."""


class FittingTable:
    """A table, or its rows one below the other if the console is narrower than its columns must be."""

    def __init__(self, table: Table, headers: Sequence[str], rows: Sequence[Sequence[Text]]) -> None:
        """table: with these headers and rows."""
        self.table, self.headers, self.rows = table, headers, rows

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """See rich's protocol."""
        for column in self.table.columns:
            column.width = None
        needed = Measurement.get(console, options.update(max_width=UNBOUNDED), self.table).maximum
        whole, least = self._widths()
        spare = options.max_width - (needed - sum(whole) + sum(least))  # what is needed beside the cells is padding and lines
        if spare >= 0:
            if needed > options.max_width:
                wanted = sum(whole) - sum(least)
                for column, most, width in zip(self.table.columns, whole, least, strict=True):
                    column.width = width + spare * (most - width) // wanted  # rich alone would cut words
            yield self.table
            return
        for number, row in enumerate(self.rows):
            if number:
                yield Text("")
            yield Text.assemble((f"{self.headers[0]} " if self.headers[0] else "", "bold"), row[0])
            for header, cell in zip(self.headers[1:], row[1:], strict=True):
                yield Text.assemble((f"  {header}: ", "bold"), cell)

    def _widths(self) -> tuple[list[int], list[int]]:
        """Return the width of each column's longest cell, and of its longest word; both are the cell's if it must not wrap."""
        columns = [[Text(self.headers[number]), *(row[number] for row in self.rows)] for number in range(len(self.headers))]
        whole = [max(cell.cell_len for cell in cells) for cells in columns]
        least = [
            most if column.no_wrap else max(Text(word).cell_len for cell in cells for word in cell.plain.split() or [""])
            for column, cells, most in zip(self.table.columns, columns, whole, strict=True)
        ]
        return whole, least
