"""Make environments beside Lathe's own: of a user who only has stock tools (.venv-onnx, .venv-transformers), and of our tools.

    python scripts/venvs.py [onnx] [transformers] [audit]        (default: the first two)

pip installs everything, torch included, so that the machine's own build of torch is used. Versions come from
constraints.txt where it exists, but for our tools, which want others. Idempotent: an environment whose requirements have
not changed is kept.
"""

import re
import shutil
import subprocess
import sys
import tomllib
import venv
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
NAMES = {"onnx": ("onnxruntime", "tokenizers", "numpy"), "transformers": ("torch", "torchao", "transformers")}
"""What a user installs to open a kind of artifact; numpy is what onnxruntime takes and gives."""


def _stock() -> dict[str, tuple[str, ...]]:
    """Return the requirements of each environment, with the bounds that Lathe itself is tested with."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    bounds = {re.split(r"[^A-Za-z0-9_-]", each)[0]: each for each in project["optional-dependencies"]["worker"]}
    return {kind: tuple(bounds[name] for name in names) for kind, names in NAMES.items()}


STOCK = _stock()
TOOLS = {"audit": ("cyclonedx-bom>=7.5,<8", "pip-audit>=2.10,<3")}
"""Tools that look at Lathe's environment from outside: they refuse versions that are locked there (chardet)."""


def python_of(name: str) -> Path:
    """Return the interpreter of a stock environment."""
    return ROOT / f".venv-{name}" / "bin" / "python"


def make(name: str) -> Path:
    """Make an environment unless it is there already; return its interpreter."""
    folder = ROOT / f".venv-{name}"
    constraints = ROOT / "constraints.txt"
    pinned = constraints.read_text(encoding="utf-8") if name in STOCK and constraints.exists() else ""
    needed = {**STOCK, **TOOLS}[name]
    wanted = "\n".join([sys.version, *needed, pinned])
    stamp = folder / "requirements.stamp"
    if stamp.exists() and stamp.read_text(encoding="utf-8") == wanted:
        return python_of(name)
    shutil.rmtree(folder, ignore_errors=True)
    print(f"making {folder.name} with {', '.join(needed)}", flush=True)
    venv.create(folder, with_pip=True)
    options = ["-c", str(constraints)] if pinned else []
    subprocess.run([python_of(name), "-m", "pip", "install", "-q", *options, *needed], check=True)
    stamp.write_text(wanted, encoding="utf-8")  # last: a half-made environment has no stamp
    return python_of(name)


if __name__ == "__main__":
    for each in sys.argv[1:] or STOCK:
        make(each)
