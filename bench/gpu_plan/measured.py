"""The same training with real numbers, in a process of its own whose peak the kernel tells."""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from bench.gpu_plan.step import Case

ROOT = Path(__file__).parent.parent.parent
GGUF = ROOT / ".cache/examples/decoder"
OPENED = "smollm2-135m"
"""The shape whose real weights are used where scripts/fetch_examples.py has put them: memory does not depend on them."""


def measure(case: "Case") -> dict[str, int]:
    """Return the peak resident bytes of a case's training or cut, and of a process that has only the libraries.

    Raises ChildProcessError with its last words where the process fails.
    """
    command = [sys.executable, "-m", "bench.gpu_plan.measured", json.dumps(asdict(case))]
    environment = {**os.environ, "TQDM_DISABLE": "1", "PYTHONWARNINGS": "ignore"}
    done = subprocess.run(command, cwd=ROOT, check=False, capture_output=True, text=True, env=environment)
    if done.returncode != 0:
        said = done.stderr.strip() or "nothing was said"
        raise ChildProcessError(f"{case.name} ended with {done.returncode}: {said.splitlines()[-1]}")
    found: dict[str, int] = json.loads(done.stdout.splitlines()[-1])
    return found


def train_here(case: "Case") -> dict[str, int]:
    """Train or cut as `measure` says, in this process."""
    from bench.gpu_plan.step import made, models_of, run
    from compression.engine import pipeline  # noqa: F401 (what the engine's process has imported)
    from compression.evaluation.measure import peak_memory
    from compression.models import loading, sanitized_folder
    from compression.system import process

    process.keep_freed_memory()  # as the engine does
    libraries, whole = peak_memory(), None
    if case.shape == OPENED and any(GGUF.glob("*.gguf")):
        with tempfile.TemporaryDirectory(prefix="lathe-gpu-plan-") as place:
            folder = sanitized_folder.sanitized_folder(GGUF, Path(place) / "model")
            whole = loading.load_model(folder, (), "causal-lm", seed=0)
    if case.way == "cut":
        from bench.gpu_plan.cut import cut

        cut(case, whole or made(case.published.stock))
    else:
        run(case, *models_of(case, whole))
    peak = peak_memory()
    if not isinstance(peak, int) or not isinstance(libraries, int):
        raise SystemExit("this system does not tell a process's peak memory")
    return {"libraries": libraries, "peak": peak}


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m bench.gpu_plan.measured", description=__doc__)
    parser.add_argument("case", type=json.loads, help="the fields of `bench.gpu_plan.step.Case`, in JSON")
    asked = parser.parse_args()
    from bench.gpu_plan.step import Case

    print(json.dumps(train_here(Case(**asked.case))))
