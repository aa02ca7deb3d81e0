"""Make the environments of a user who only has stock tools: .venv-onnx and .venv-transformers.

    python scripts/venvs.py [onnx] [transformers]        (default: both)

pip installs everything, torch included, so that the machine's own build of torch is used. Versions come from
constraints.txt where it exists. Idempotent: an environment whose requirements have not changed is kept.
"""

import shutil
import subprocess
import sys
import venv
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
STOCK: dict[str, tuple[str, ...]] = {
    # numpy is what onnxruntime takes and gives.
    "onnx": ("onnxruntime>=1.24", "tokenizers>=0.22", "numpy>=2.3"),
    "transformers": ("torch>=2.11,<3", "torchao>=0.17", "transformers>=5.5"),
}


def python_of(name: str) -> Path:
    """Return the interpreter of a stock environment."""
    return ROOT / f".venv-{name}" / "bin" / "python"


def make(name: str) -> Path:
    """Make an environment unless it is there already; return its interpreter."""
    folder = ROOT / f".venv-{name}"
    constraints = ROOT / "constraints.txt"
    pinned = constraints.read_text(encoding="utf-8") if constraints.exists() else ""
    wanted = "\n".join([sys.version, *STOCK[name], pinned])
    stamp = folder / "requirements.stamp"
    if stamp.exists() and stamp.read_text(encoding="utf-8") == wanted:
        return python_of(name)
    shutil.rmtree(folder, ignore_errors=True)
    print(f"making {folder.name} with {', '.join(STOCK[name])}", flush=True)
    venv.create(folder, with_pip=True)
    options = ["-c", str(constraints)] if pinned else []
    subprocess.run([python_of(name), "-m", "pip", "install", "-q", *options, *STOCK[name]], check=True)
    stamp.write_text(wanted, encoding="utf-8")  # last: a half-made environment has no stamp
    return python_of(name)


if __name__ == "__main__":
    for each in sys.argv[1:] or STOCK:
        make(each)
