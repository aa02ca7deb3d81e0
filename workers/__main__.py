"""`python -m workers jobs | checks | keeper`: start one of the processes that run beside the API."""

import os
import sys

from app.core import logs
from app.core.settings import get_settings
from app.store import broker
from workers import sandbox

USAGE = "usage: python -m workers jobs | checks | keeper"


def main(argv: list[str]) -> int:
    """Start the process that the argument names; return its exit code."""
    if len(argv) != 1 or argv[0] not in {*broker.LANES, "keeper"}:
        sys.stderr.write(USAGE + "\n")
        return 2
    if argv[0] == "keeper":
        from workers import keeper  # one process, one role: a worker needs no keeper, and the keeper no Celery signals

        keeper.main()
        return 0
    try:
        # Before Celery, which would only log what its signals raise. The result is cached, also in the forked child.
        sandbox.get_sandbox(get_settings())
    except sandbox.CannotConfine as problem:
        sys.stderr.write(f"{problem.code}: {problem.cause}\n{problem.remedy}\n")
        return 1
    os.environ["LATHE_LANE"] = argv[0]  # celery_app reads it when it is imported, here and in the forked child
    logs.configure(f"worker-{argv[0]}")
    from workers.celery_app import app

    node = f"{argv[0]}-{os.getpid()}@%h"
    options = ["-Q", broker.queue_name(argv[0]), "-n", node, "-P", "prefork", "-c", "1", "-l", "WARNING"]
    app.worker_main(["--quiet", "worker", *options, "--without-gossip", "--without-mingle", "--without-heartbeat"])
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
