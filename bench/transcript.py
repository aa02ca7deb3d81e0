"""Keeps what a bench printed as a record: the command that makes it again, the date, the machine and the minutes."""

import argparse
import contextlib
import json
import sys
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from io import StringIO
from pathlib import Path

from compression.system.environment import environment


class Tee(StringIO):
    """Standard output that is also kept."""

    def __init__(self) -> None:
        super().__init__()
        self.screen = sys.stdout

    def write(self, text: str, /) -> int:
        """Print it and keep it."""
        self.screen.write(text)
        return super().write(text)

    def flush(self) -> None:
        """Flush the screen."""
        self.screen.flush()


def run(name: str, bench: Callable[[list[str]], None], arguments: Sequence[str]) -> None:
    """Run a bench. With `--transcript FILE`, write a record of it once it has ended well."""
    parser = argparse.ArgumentParser(prog=f"python -m bench {name}", add_help=False, allow_abbrev=False)
    parser.add_argument("--transcript", type=Path)
    option, asked = parser.parse_known_args(arguments)
    if option.transcript is None:
        bench(asked)
        return
    path: Path = option.transcript
    started, now = time.monotonic(), datetime.now(UTC)
    with contextlib.redirect_stdout(Tee()) as printed:
        bench(asked)
    record = {
        "command": ["python", "-m", "bench", name, *asked],
        "date": now.date().isoformat(),
        "minutes": round((time.monotonic() - started) / 60, 1),
        "environment": environment(),
        "printed": printed.getvalue().splitlines(),
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(record, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
