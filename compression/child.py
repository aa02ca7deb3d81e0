"""Start one of the engine's own commands in a fresh process and take its answer. Torch-free."""

import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import compression
from compression.memory import killed_for_memory
from compression.recipe import Config

LAST_WORDS = 2000
"""Characters of a failed child's log that its error carries."""


OUT_OF_MEMORY = 4
"""Exit code of a child for which memory did not suffice."""


class ChildFailed(RuntimeError):
    """A child of the engine ended without an answer: a bug or the machine, not the user's to mend."""


class ChildOutOfMemory(ChildFailed):
    """A child's memory did not suffice: it said so itself, or the kernel ended it for that."""


def ask(command: str, spec: Config, *, timeout: float) -> str:
    """Run `python -m compression <command> SPEC.json` and return its standard output.

    The child dies with us (`process.die_with_parent`). Raises ChildFailed where it ends with an error or takes longer than
    `timeout` seconds, ChildOutOfMemory where it had too little memory.
    """
    before = killed_for_memory()
    with tempfile.TemporaryDirectory(prefix="lathe-") as folder:
        path = Path(folder) / "spec.json"
        path.write_text(spec.model_dump_json(), "utf-8")
        try:
            done = subprocess.run(
                [sys.executable, "-m", "compression", command, "--die-with-parent", str(path)],
                env=_environment(),
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                timeout=timeout,
                check=False,
            )
        except subprocess.TimeoutExpired as problem:
            raise ChildFailed(f"{command} took longer than {timeout:.0f} s") from problem
    if done.returncode != 0:
        # Anybody may send SIGKILL: it tells of memory only where the kernel counted one of its own meanwhile.
        ended_for_it = done.returncode == -signal.SIGKILL and killed_for_memory() > before
        kind = ChildOutOfMemory if done.returncode == OUT_OF_MEMORY or ended_for_it else ChildFailed
        raise kind(f"{command} ended with {done.returncode}: {done.stderr[-LAST_WORDS:]}")
    return done.stdout


def _environment() -> dict[str, str]:
    # The package is found again even where we were started from its folder without being installed.
    home = str(Path(compression.__file__).parents[1])
    paths = [home, *filter(None, [os.environ.get("PYTHONPATH")])]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(paths), "TOKENIZERS_PARALLELISM": "false", "HF_HUB_OFFLINE": "1"}
