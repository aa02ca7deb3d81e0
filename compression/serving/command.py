"""`python -m compression serve FOLDER`: opens an artifact and serves it until SIGTERM."""

import argparse
import ipaddress
import json
import os
import signal
import socket
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from compression.schema.errors import CompressionError, InvalidSpec, MissingResource
from compression.schema.extras import pip_install
from compression.schema.prediction_request import BODY_DEFAULTS, FILES, LARGEST_QUESTION, LARGEST_TEXTS
from compression.schema.tasks import TASKS
from compression.system.processor import usable_cores

if TYPE_CHECKING:
    from compression.serving.served_model import ServedModel

KEY = "LATHE_SERVE_KEY"  #: environment variable with the key that requests must carry
SHORTEST_KEY = 16
GRACE = 30  #: seconds for running requests after SIGTERM
BACKLOG = 512


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of the command."""
    parser.add_argument("folder", type=Path, metavar="FOLDER", help="an artifact, as `lathe download` leaves it")
    parser.add_argument("--host", default="127.0.0.1", help=f"address to listen on; all but loopback need a key in {KEY}")
    parser.add_argument("--port", type=int, default=8400, help="port to listen on; 0: any that is free")
    parser.add_argument("--threads", type=int, default=usable_cores(), help="threads of the runtime")
    parser.add_argument("--target-ms", type=float, default=50.0, help="time from a request to its answer, when rows may wait")
    parser.add_argument("--max-batch", type=int, default=32, help="rows of a batch; 1: no batches")
    parser.add_argument("--queue", type=int, default=256, help="rows that may wait; more are answered with 503")
    most = f"of a request, by default {BODY_DEFAULTS}; more is answered with 413"
    parser.add_argument("--max-body", type=int, default=None, metavar="BYTES", help=most)
    parser.add_argument("--json", action="store_true", help="print one JSON document and nothing else")


def main(options: argparse.Namespace) -> int:
    """Serve; return the exit code: 0 after SIGTERM, 2 if it cannot be served as asked."""
    try:
        _check(options)
        return _serve(options)
    except CompressionError as problem:
        return _failed(problem, as_json=options.json)


def _check(options: argparse.Namespace) -> None:
    """Check options and key. Raises InvalidSpec."""
    for name in ("threads", "target_ms", "max_batch", "queue", "max_body"):
        value = getattr(options, name)
        if value is not None and not 0 < value < 1 << 40:  # also refuses NaN
            option = "--" + name.replace("_", "-")
            raise InvalidSpec(f"{option} must be more than 0", param=option, remedy="Leave it out, or give another number.")
    key = os.environ.get(KEY, "")
    if key and (len(key) < SHORTEST_KEY or not key.isascii() or not key.isprintable() or " " in key):
        cause = f"the key in {KEY} is not {SHORTEST_KEY} printable ASCII characters or more, without spaces"
        raise InvalidSpec(cause, param=KEY, remedy="Make one: openssl rand -hex 24")
    if not key and not _is_loopback(options.host):
        cause = f"{options.host} is not a loopback address, and there is no key"
        raise InvalidSpec(cause, param=KEY, remedy=f"Set {KEY} to a secret that clients send, or leave out --host.")


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _serve(options: argparse.Namespace) -> int:
    try:
        import uvicorn

        from compression.serving.batching import BatchRules
        from compression.serving.http import Limits, Server
        from compression.serving.served_model import ServedModel
    except ImportError as problem:
        cause = f"a package that serving needs is not installed: {problem}"
        raise MissingResource(cause, remedy=f"{pip_install('serve')}.") from problem

    model = ServedModel(options.folder, threads=options.threads)
    files = bool(FILES & set(TASKS[model.task].asks))
    limits = Limits(
        options.queue, options.max_body or (LARGEST_QUESTION if files else LARGEST_TEXTS), os.environ.get(KEY) or None
    )
    rules = BatchRules(options.max_batch, options.target_ms / 1000)
    server = Server(model, rules, limits, model.timed(options.max_batch))
    listener = listen(options.host, options.port)
    config = uvicorn.Config(
        server.app(),
        ws="none",
        backlog=BACKLOG,
        access_log=False,
        log_level="warning",
        server_header=False,
        timeout_graceful_shutdown=GRACE,
    )
    for number in (signal.SIGINT, signal.SIGTERM):  # uvicorn raises them again once all is drained
        signal.signal(number, lambda *_: None)
    _print_ready(model, listener, as_json=options.json)
    uvicorn.Server(config).run(sockets=[listener])
    return 0


def listen(host: str, port: int) -> socket.socket:
    """Listen on an address. Raises InvalidSpec if that is not possible."""
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        listener = socket.create_server((host, port), family=family, backlog=BACKLOG)
        # Connections inherit it. Otherwise the end of each answer waits 40 ms for the client to confirm its head.
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return listener
    except (OSError, OverflowError) as problem:
        cause = f"cannot listen on {host}, port {port}: {problem}"
        raise InvalidSpec(cause, param="--port", remedy="Name a free port and an address of this machine.") from problem


def _print_ready(model: "ServedModel", listener: socket.socket, *, as_json: bool) -> None:
    host, port = listener.getsockname()[:2]
    url = f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
    about: dict[str, Any] = {"artifact": str(model.folder), "format": model.format.name, "task": model.task}
    if as_json:
        print(json.dumps({"url": url, **about, "runtime": model.runner.name}), flush=True)  # noqa: T201
        return
    print(f"{model.folder.name} ({model.task}) is served by {model.runner.name}: POST {url}/v1/predict", flush=True)  # noqa: T201


def _failed(problem: CompressionError, *, as_json: bool) -> int:
    if as_json:
        print(json.dumps({"error": problem.as_dict()}, ensure_ascii=False), flush=True)  # noqa: T201
    else:
        print(f"Error: {problem.cause} ({problem.code})\nNext:  {problem.remedy_text}", file=sys.stderr)  # noqa: T201
    return 2
