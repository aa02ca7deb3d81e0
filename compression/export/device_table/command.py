"""`python -m compression device-table --out FILE`: measures what a device table lacks, and prints it."""

import argparse
import statistics
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

from pydantic import Field, ValidationError

from compression.export.device_table.measuring import measured
from compression.export.device_table.plan import Layer, quick_plan, whole_plan
from compression.schema.config import Config
from compression.schema.device_table import DeviceTable, TableRow
from compression.system import durable_files
from compression.system.child_process import Step, telling

QUICK_SECONDS = 0.1


class TableRequest(Config):
    """The input of `python -m compression device-table-job`, which an engine runs."""

    threads: Annotated[int, Field(ge=1, le=1024)]
    quick: Annotated[bool, Field(description="A few layers of each operation.")] = False


def read_table(path: Path) -> DeviceTable | None:
    """Read a table; None if there is none, or no whole one."""
    try:
        return DeviceTable.model_validate_json(path.read_bytes())
    except (OSError, ValidationError):
        return None


def lines(table: DeviceTable) -> Iterator[str]:
    """Yield a table in Markdown: a line for each layer, a column for each runtime and form."""
    columns = list(dict.fromkeys((row.runtime, row.form) for row in table.rows))
    found: dict[tuple[object, ...], dict[tuple[str, str], TableRow]] = {}
    for row in table.rows:
        found.setdefault(row.layer, {})[row.runtime, row.form] = row
    yield f"| layer | widths | places | batch | {' | '.join(' '.join(column) for column in columns)} |"
    yield f"|{' --- |' * (4 + len(columns))}"
    for (operation, inputs, outputs, places, batch), rows in found.items():
        cells = [f"{rows[column].microseconds:.1f} µs" if column in rows else "" for column in columns]
        yield f"| {operation} | {inputs} → {outputs} | {places} | {batch} | {' | '.join(cells)} |"
    spread = statistics.median(row.spread for row in table.rows)
    yield f"\nSpread (the quartiles' distance / the median), in the middle of all rows: {spread:.1%}."


def planned(*, quick: bool) -> tuple[list[Layer], tuple[float, ...]]:
    """Return the layers, and how many seconds each is timed if not as usual."""
    return (quick_plan(), (QUICK_SECONDS,)) if quick else (whole_plan(), ())


def run(out: Path, threads: int, *, quick: bool) -> DeviceTable:
    """Measure into a file, which is written anew after every few layers: what it has already is not measured again."""
    plan, more = planned(quick=quick)
    for table in measured(plan, threads, read_table(out), *more):
        durable_files.write_text(out, table.model_dump_json())
        print(f"{len({row.layer for row in table.rows})} of {len(plan)} layers are timed.", file=sys.stderr, flush=True)  # noqa: T201
    return table


def show(asked: argparse.Namespace) -> int:
    """Measure as the arguments ask, and print the table. Return the exit code."""
    print("\n".join(lines(run(asked.out, asked.threads, quick=asked.quick))))  # noqa: T201
    return 0


def main(path: Path) -> int:
    """Measure for an engine: print steps, then the table as one line. Return the exit code."""
    tell, request = telling(), TableRequest.model_validate_json(path.read_bytes())
    plan, more = planned(quick=request.quick)
    for table in measured(plan, request.threads, None, *more):
        tell(Step(done=len({row.layer for row in table.rows}), total=len(plan)))
    tell(table)
    return 0
