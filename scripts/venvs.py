"""Make environments beside .venv: for a user who only has stock tools, and for tools that conflict with Lathe's own.

pip installs everything, torch included, so that the machine's own build of torch is used. Versions come from constraints.txt
if it exists, except for tools that need others. An environment whose requirements have not changed is kept.
"""

import argparse
import fcntl
import re
import shutil
import subprocess
import sys
import tomllib
import venv
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
NAMES = {"onnx": ("onnxruntime", "tokenizers", "numpy"), "transformers": ("torch", "torchao", "transformers")}
"""Packages that open a kind of artifact; numpy is onnxruntime's input and output."""


def _stock() -> dict[str, tuple[str, ...]]:
    """Return the requirements of each environment, with the bounds that Lathe itself is tested with."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    bounds = {re.split(r"[^A-Za-z0-9_-]", each)[0]: each for each in project["optional-dependencies"]["worker"]}
    return {kind: tuple(bounds[name] for name in names) for kind, names in NAMES.items()}


STOCK = _stock()
TOOLS = {
    "audit": ("cyclonedx-bom>=7.5,<8", "pip-audit>=2.10,<3"),
    "contract": ("schemathesis==4.32.5", "openapi-python-client==0.29.1"),
}
"""audit: tools that inspect Lathe's environment, and conflict with versions locked there (chardet). contract: tools that read
the OpenAPI document; a plugin of one would load in every pytest, the other pins typer."""
UNPINNED = {"audit": re.compile(".*"), "contract": re.compile("typer")}
"""Names in constraints.txt that do not bind an environment."""


def python_of(name: str) -> Path:
    """Return the interpreter of an environment."""
    return ROOT / f".venv-{name}" / "bin" / "python"


def make(name: str) -> Path:
    """Make an environment unless it is there already; return its interpreter. Concurrent calls wait for each other."""
    with (ROOT / f".venv-{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        return _make(name, ROOT / f".venv-{name}")


def _pins(name: str) -> str:
    """Return the constraints of an environment."""
    constraints = ROOT / "constraints.txt"
    lines = constraints.read_text(encoding="utf-8").splitlines() if constraints.exists() else []
    free = UNPINNED.get(name)
    return "\n".join(line for line in lines if free is None or not free.fullmatch(line.partition("==")[0]))


def _make(name: str, folder: Path) -> Path:
    needs, pinned = (STOCK | TOOLS)[name], _pins(name)
    wanted = "\n".join([sys.version, *needs, pinned])
    stamp = folder / "requirements.stamp"
    if stamp.exists() and stamp.read_text(encoding="utf-8") == wanted:
        return python_of(name)
    shutil.rmtree(folder, ignore_errors=True)
    print(f"making {folder.name} with {', '.join(needs)}", flush=True)
    venv.create(folder)  # our own pip fills it; what is used of it is compiled as it is used: seconds in place of half a minute
    constraints = folder / "constraints.txt"
    constraints.write_text(pinned, encoding="utf-8")
    pip = [sys.executable, "-m", "pip", "--python", python_of(name), "install", "-q", "--no-compile", "-c", constraints]
    subprocess.run([*pip, *needs], check=True)
    stamp.write_text(wanted, encoding="utf-8")  # last: a half-made environment has no stamp
    return python_of(name)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    names = f"of: {', '.join(STOCK | TOOLS)}; default: {' '.join(STOCK)}"
    parser.add_argument("names", nargs="*", metavar="name", default=list(STOCK), help=names)
    asked = parser.parse_args()
    if unknown := set(asked.names) - set(STOCK | TOOLS):
        parser.error(f"no such environment: {', '.join(sorted(unknown))}; choose {names}")
    for each in asked.names:
        make(each)
