"""`python -m tests.chaos --jobs 200 --kills 200 --seed 1`: exit code 0 only if the audit finds nothing."""

import argparse
import os
import random
import signal
import sys
import tempfile
from pathlib import Path

from tests.chaos.house import opened
from tests.chaos.rampage import rampage, table


def say(text: str) -> None:
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description=__doc__)
    parser.add_argument("--jobs", type=int, default=200)
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--seed", type=int, default=1, help="all chance comes from it")
    parser.add_argument("--workers", type=int, default=2, help="workers that run jobs")
    parser.add_argument("--limit", type=float, default=180, help="minutes after which the kills stop, whatever is left")
    parser.add_argument("--folder", type=Path, help="where the run lies, and stays; else a temporary one, kept on failure")
    asked = parser.parse_args()
    root: Path = (asked.folder or Path(tempfile.mkdtemp(prefix="lathe-chaos-"))).resolve()
    os.environ["LATHE_TESTS_COLD"] = "1"  # as an operator's processes start
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # nothing may outlive a run that is broken off
    say(f"seed {asked.seed}; everything lies in {root}")
    with opened(root, asked.workers, random.Random(f"{asked.seed}-house"), keep=asked.folder is not None) as house:
        result, _ = rampage(house, jobs=asked.jobs, kills=asked.kills, seed=asked.seed, limit=60 * asked.limit, say=say)
        house.keep = house.keep or not result.clean
    text = table(result, root)
    if root.exists():
        (root / "result.txt").write_text(text, encoding="utf-8")
    say(text)
    return 0 if result.clean else 1


if __name__ == "__main__":
    sys.exit(main())
