"""Resolve Lathe's dependencies with pip on this machine and pin them, except torch, torchvision and what torch needs.

    python scripts/lock.py [--hashes]

Writes constraints.txt, and for each way to install Lathe a list of what it takes with the hashes of all files of each release
(requirements/). --hashes: only those lists, from constraints.txt as it is. Runs in a fresh virtual environment, so that what
happens to be installed has no say. Torch stays a range: which build is right depends on the machine. So does torchvision, each
release of which needs one release of torch (docs/decisions/0002-torch-is-a-range.md).
"""

import argparse
import json
import re
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
CONSTRAINTS = ROOT / "constraints.txt"
LEFT_OPEN = re.compile(r"torch|torchvision|triton|lathe|(nvidia|cuda)-.*")
HEADER = "# Made by `make lock` on Python 3.11. Pins everything but torch (docs/decisions/0002-torch-is-a-range.md).\n"
HASHED = (
    "# Made by `make lock` for Python 3.11 to 3.13: all but torch, with what builds Lathe itself. It is installed by\n"
    "#   pip install --require-hashes --no-deps -r requirements/{name}.txt\n"
)
WAYS = {
    "api": ("api",),
    "serve": ("serve",),
    "worker": ("worker", "vision", "gguf", "genai", "lm-eval", "compressed-tensors", "search"),
    "dev": ("worker", "vision", "embedded", "dev"),
}
"""The extras of each way to install Lathe."""
BUILD = "hatchling>=1.27\neditables\n"
"""Build requirements: [build-system] of pyproject.toml, and what hatchling needs for an editable install."""


def constrain(python: str, folder: Path) -> None:
    """Write constraints.txt."""
    report = folder / "report.json"
    wanted = f"{ROOT}[worker,vision,embedded,dev]"
    pip = [python, "-m", "pip", "install", "--quiet", "--dry-run", "--report", str(report), wanted]
    subprocess.run(pip, check=True)
    found = json.loads(report.read_text(encoding="utf-8"))["install"]
    pins = {item["metadata"]["name"].lower().replace("_", "-"): item["metadata"]["version"] for item in found}
    lines = [f"{name}=={version}\n" for name, version in sorted(pins.items()) if not LEFT_OPEN.fullmatch(name)]
    CONSTRAINTS.write_text(HEADER + "".join(lines), encoding="utf-8")
    print(f"{CONSTRAINTS.name}: {len(lines)} pins")


def add_hashes(python: str, folder: Path) -> None:
    """Write the lists with hashes, for every platform, within constraints.txt."""
    subprocess.run([python, "-m", "pip", "install", "--quiet", "uv"], check=True)
    build = folder / "build.in"
    build.write_text(BUILD, encoding="utf-8")
    for name, extras in WAYS.items():
        made = folder / f"{name}.txt"
        command = [python, "-m", "uv", "pip", "compile", "pyproject.toml", str(build), "--constraint", str(CONSTRAINTS)]
        command += ["--generate-hashes", "--universal", "--python-version", "3.11", "--no-header", "--no-annotate", "--quiet"]
        command += [option for extra in extras for option in ("--extra", extra)]
        subprocess.run([*command, "--native-tls", "-o", str(made)], cwd=ROOT, check=True)
        releases = re.split(r"^(?=\S)", made.read_text(encoding="utf-8"), flags=re.MULTILINE)
        kept = [each for each in releases if each and not LEFT_OPEN.fullmatch(each.split("==")[0])]
        target = ROOT / "requirements" / f"{name}.txt"
        target.parent.mkdir(exist_ok=True)
        target.write_text(HASHED.format(name=name) + "".join(kept), encoding="utf-8")
        print(f"{target.relative_to(ROOT)}: {len(kept)} releases")


def main(arguments: Sequence[str]) -> None:
    """Resolve and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--hashes", action="store_true", help="leave constraints.txt as it is")
    asked = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        subprocess.run([sys.executable, "-m", "venv", folder / "venv"], check=True)
        python = str(folder / "venv" / "bin" / "python")
        subprocess.run([python, "-m", "pip", "install", "--quiet", "--upgrade", "pip"], check=True)
        if not asked.hashes:
            constrain(python, folder)
        add_hashes(python, folder)


if __name__ == "__main__":
    main(sys.argv[1:])
