"""`python -m workers jobs | checks | keeper [--device D]`: start one of the processes that run beside the API."""

import argparse
import os
import sys
from typing import NoReturn

from pydantic import ValidationError

from app.core import logs
from app.core.settings import get_settings
from app.store import broker
from workers import sandbox
from workers.device_probe import wake_up_target
from workers.devices import DeviceAbsent

DEVICE = (
    "of a worker for jobs: cuda:N, several cards as cuda:N,N, cpu or auto (the first card if it works, else the CPU); "
    "without it LATHE_DEVICE"
)


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.format_usage()}{message}\n")


def main(argv: list[str]) -> int:
    """Start the process that the arguments name; return its exit code."""
    parser = _Parser(prog="python -m workers")
    parser.add_argument("lane", choices=(*broker.LANES, "keeper"))
    parser.add_argument("--device", help=DEVICE)
    options = parser.parse_args(argv)
    if options.device is not None:
        if options.lane != broker.JOBS:
            parser.error("--device is for workers of jobs; checks and the keeper use no card")
        os.environ["LATHE_DEVICE"] = options.device  # the forked child, and a restarted worker, read it too
        try:
            get_settings()
        except ValidationError as problem:
            if any(error["loc"] == ("device",) for error in problem.errors()):
                parser.error(f"--device {options.device}: it is cpu, cuda:N, cuda:N,N, auto or auto:N")
            raise
    lane: str = options.lane
    if lane == "keeper":
        from workers import keeper  # one process, one role: a worker needs no keeper, and the keeper no Celery signals

        keeper.main()
        return 0
    logs.configure(f"worker-{lane}")
    try:
        # Before Celery, which would only log what its signals raise. The result is cached, also in the forked child.
        sandbox.get_sandbox(get_settings())
        target = wake_up_target(lane, get_settings())
    except sandbox.CannotConfine as problem:
        sys.stderr.write(f"{problem.code}: {problem.cause}\n{problem.remedy}\n")
        return 1
    except DeviceAbsent as problem:
        sys.stderr.write(f"{problem.code}: {problem.cause} {problem.remedy}\n")
        return 1
    os.environ["LATHE_LANE"] = lane  # celery_app reads it when it is imported, here and in the forked child
    from workers.celery_app import app

    node = f"{lane}-{os.getpid()}@%h"
    celery = ["-Q", broker.queue_name(target), "-n", node, "-P", "prefork", "-c", "1", "-l", "WARNING"]
    app.worker_main(["--quiet", "worker", *celery, "--without-gossip", "--without-mingle", "--without-heartbeat"])
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
