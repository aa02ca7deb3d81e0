"""Serves the API: `python -m app.server --host 127.0.0.1 --port 8321`.

uvicorn with our protocol (protocol.py) and our event loop (connections.py). `uvicorn app.main:app` serves the same routes
without limits of connections and time.
"""

import argparse
from collections.abc import Sequence

import uvicorn
from uvicorn.config import STARTUP_FAILURE
from uvicorn.supervisors import Multiprocess

BACKLOG = 512


def config(host: str, port: int, workers: int, grace: int | None) -> uvicorn.Config:
    """Return uvicorn's configuration."""
    return uvicorn.Config(
        "app.main:app",
        host=host,
        port=port,
        workers=workers,
        http="app.api.protocol:BoundedProtocol",
        loop="app.api.connections:BoundedLoop",
        ws="none",
        backlog=BACKLOG,
        access_log=False,
        log_config=None,  # uvicorn's own lines would come before those of app.core.logs, and in another form
        server_header=False,
        timeout_graceful_shutdown=grace,
    )


def main(arguments: Sequence[str] | None = None) -> None:
    """Serve until SIGTERM."""
    parser = argparse.ArgumentParser(prog="python -m app.server", description="Serve the API.")
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on")
    parser.add_argument("--port", type=int, default=8321, help="port to listen on")
    parser.add_argument("--workers", type=int, default=1, help="processes that share the port")
    parser.add_argument("--grace", type=int, default=None, metavar="SECONDS", help="time for running requests at shutdown")
    chosen = parser.parse_args(arguments)
    serving = config(chosen.host, chosen.port, chosen.workers, chosen.grace)
    listener = serving.bind_socket()
    if chosen.workers > 1:
        Multiprocess(serving, sockets=[listener]).run()
        return
    server = uvicorn.Server(serving)
    server.run(sockets=[listener])
    if not server.started:
        raise SystemExit(STARTUP_FAILURE)


if __name__ == "__main__":
    main()
