"""Resolve Lathe's dependencies as pip would on this machine and pin them, all but torch and what torch brings.

    python scripts/lock.py constraints.txt

Runs in a fresh virtual environment, so that what happens to be installed has no say. Torch stays a range: which build is
right depends on the machine (docs/decisions/0002-torch-is-a-range.md).
"""

import json
import re
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).parent.parent
LEFT_OPEN = re.compile(r"torch|triton|lathe|(nvidia|cuda)-.*")
HEADER = "# Made by `make lock` on Python 3.11. Pins everything but torch (docs/decisions/0002-torch-is-a-range.md).\n"


def main(target: Path) -> None:
    """Write the pins."""
    with tempfile.TemporaryDirectory() as folder:
        subprocess.run([sys.executable, "-m", "venv", folder], check=True)
        pip = [f"{folder}/bin/python", "-m", "pip"]
        subprocess.run([*pip, "install", "--quiet", "--upgrade", "pip"], check=True)
        report = Path(folder) / "report.json"
        wanted = f"{ROOT}[worker,embedded,dev]"
        subprocess.run([*pip, "install", "--quiet", "--dry-run", "--report", str(report), wanted], check=True)
        found = json.loads(report.read_text())["install"]
    pins = {item["metadata"]["name"].lower().replace("_", "-"): item["metadata"]["version"] for item in found}
    lines = [f"{name}=={version}\n" for name, version in sorted(pins.items()) if not LEFT_OPEN.fullmatch(name)]
    target.write_text(HEADER + "".join(lines), encoding="utf-8")
    print(f"{target}: {len(lines)} pins")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
