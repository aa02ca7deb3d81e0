"""Stands where the profiler does: `python -m tests.client.measuring_child SPEC.json` answers as the spec's batch says."""

import json
import os
import signal
import sys
import time
from pathlib import Path

from tests.support.profiles import measured

SLOW, KILLED, CRASHED, UNFIT, REFUSED = 2, 3, 4, 5, 6
"""Batches for which it never ends, is killed, crashes, fails as typed, or sends what the service refuses."""


def main() -> None:
    spec = json.loads(Path(sys.argv[1]).read_text())
    folder, batch = Path(spec["folder"]), spec["request"]["batch"]
    assert (folder / "model.onnx").read_bytes() == b"weights"
    assert not [name for name in os.environ if name.startswith("LATHE_")]
    if batch == SLOW:
        Path("/proc/self/comm").write_text("slowly")
        time.sleep(600)
    if batch == KILLED:
        os.kill(os.getpid(), signal.SIGKILL)
    if batch == CRASHED:
        raise RuntimeError("the runtime is broken")
    sys.stdout.write("a library says something\n")
    if batch == UNFIT:
        sys.stdout.write(json.dumps({"code": "unsupported", "detail": "no LSTM", "remedy": "Take another format."}) + "\n")
    elif batch == REFUSED:
        sys.stdout.write(json.dumps(measured({**spec["request"], "threads": 7})) + "\n")
    else:
        sys.stdout.write(json.dumps(measured(spec["request"])) + "\n")


if __name__ == "__main__":
    main()
