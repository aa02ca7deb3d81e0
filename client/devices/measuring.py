"""Measures an artifact in a process of its own, which may run out of memory, hang or crash: the device's loop goes on."""

import contextlib
import os
import signal
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path
from time import monotonic, sleep

from pydantic import TypeAdapter, ValidationError

from client.device_types import Claim
from compression.schema.profile import Profile, ProfileFailure, ProfileSpec

OPENING = 3600.0
"""Seconds that the process may take beside its timed windows: slow devices open large files for minutes."""
WINDOWS = 10
POLL = 0.2
LAST_WORDS = 2000
"""Characters of the process's log that a failure includes."""
_outcome: TypeAdapter[Profile | ProfileFailure] = TypeAdapter(Profile | ProfileFailure)
SMALLER = "Ask for a smaller batch or a shorter length, or take a device with more memory."
REPORT = "Profile it again; if it fails again, report it with this text."


def failure(code: str, detail: str, remedy: str) -> ProfileFailure:
    """Return a failure; long texts are cut."""
    return ProfileFailure.model_validate({"code": code, "detail": detail[:4000], "remedy": remedy[:4000]})


def measure(command: Sequence[str], folder: Path, claim: Claim, ended: Callable[[], bool]) -> Profile | ProfileFailure | None:
    """Run the command on a spec of the folder and the claim's request; return None if it was `ended` early.

    The process gets no LATHE_ variable, so no key: it opens files that others made.
    """
    spec, out, log = (folder.with_name(f"{folder.name}.{name}") for name in ("spec.json", "out", "log"))
    asked = ProfileSpec(folder=str(folder), kind=claim.artifact.kind, request=claim.request)
    spec.write_text(asked.model_dump_json(), encoding="utf-8")
    environment = {name: value for name, value in os.environ.items() if not name.startswith("LATHE_")}
    with out.open("wb") as lines, log.open("wb") as words:
        child = subprocess.Popen(
            [*command, str(spec)], stdout=lines, stderr=words, stdin=subprocess.DEVNULL, env=environment, start_new_session=True
        )
    limit = OPENING + WINDOWS * claim.request.seconds
    end = monotonic() + limit
    try:
        while child.poll() is None:
            if ended():
                return None
            if monotonic() > end:
                return failure("failed", f"The measurement took longer than {limit:.0f} s.", SMALLER)
            sleep(POLL)
    finally:
        if child.returncode is None:
            os.killpg(child.pid, signal.SIGKILL)
            child.wait()
    return _read(child.returncode, out, log)


def _read(code: int, out: Path, log: Path) -> Profile | ProfileFailure:
    """Return what a process that ended with `code` wrote as its last line, or why there is nothing."""
    lines = out.read_text("utf-8", "replace").splitlines()
    with contextlib.suppress(ValidationError):
        if code == 0 and lines:
            return _outcome.validate_json(lines[-1])
    said = log.read_text("utf-8", "replace")[-LAST_WORDS:]
    if code == -signal.SIGKILL:
        return failure("out_of_memory", f"The system killed the process that measured. {said}".strip(), SMALLER)
    return failure("failed", f"The process that measured ended with {code} and no result. {said}".strip(), REPORT)
