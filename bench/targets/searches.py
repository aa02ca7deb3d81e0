"""The searches side by side: `python -m bench search`, which keeps a record of each run and goes on from them."""

import subprocess
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path

from bench.engine import Stopped
from bench.targets.steps import Clock, Facts, Place, Step, records_of

ROOT = Path(__file__).parents[2]
COMMAND = (sys.executable, "-m", "bench", "search")


def steps(place: Place) -> Iterator[Step]:
    """Yield the one step: what has a record of its own there is not run again."""
    yield Step("searches", {"bench": "search"}, partial(_compared, place))


def _compared(place: Place, clock: Clock) -> Facts:
    """Run the bench; keep the table that it prints. Raises Stopped if the minutes are over before."""
    command = [*COMMAND, "--examples", str(place.examples), "--vision", str(place.data / "vision")]
    minutes = clock.left()
    seconds = None if minutes is None else 60 * minutes
    try:
        done = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, text=True, timeout=seconds, check=True)
    except subprocess.TimeoutExpired:
        raise Stopped("searches: stopped; the same command goes on from the records in bench/search/records") from None
    return {"printed": [line for line in done.stdout.splitlines() if line.startswith("|")]}


def table(records: Path) -> str:
    """Return the table as it was printed."""
    return "\n".join(line for _, record in records_of(records) for line in record["printed"])
