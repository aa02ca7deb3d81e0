"""What callers who send half a request and nothing more do to the API: whether it answers its health check all the while."""

import contextlib
import resource
import selectors
import socket
import threading
import time
from dataclasses import dataclass

import httpx

STRANGER = "127.0.0.2"
"""Where the half requests come from; the health check is asked from 127.0.0.1."""
HALF = b"GET /v1/jo"
EVERY_SECONDS = 0.1
TIMEOUT_SECONDS = 10.0


@dataclass
class Held:
    """What a flood came to. slowest: seconds of the slowest health check; opened: sockets, those opened again among them."""

    asked: int = 0
    failed: int = 0
    slowest: float = 0.0
    opened: int = 0


def flood(port: int, sockets: int, seconds: float) -> Held:
    """Keep so many sockets open that send half a request line, each opened again as it is closed, and ask for health."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    held, over = Held(), threading.Event()
    asker = threading.Thread(target=_ask, args=(port, held, over))
    asker.start()
    try:
        with selectors.DefaultSelector() as waiting:
            for _ in range(sockets):
                _open(port, waiting, held)
            end = time.monotonic() + seconds
            while time.monotonic() < end:
                for key, _ in waiting.select(0.1):
                    if _is_over(key.fileobj):  # type: ignore[arg-type]  # they are sockets
                        waiting.unregister(key.fileobj)
                        key.fileobj.close()  # type: ignore[union-attr]
                        _open(port, waiting, held)
            for key in list(waiting.get_map().values()):
                key.fileobj.close()  # type: ignore[union-attr]
    finally:
        over.set()
        asker.join()
    return held


def _open(port: int, waiting: selectors.BaseSelector, held: Held) -> None:
    stranger = socket.socket()
    stranger.bind((STRANGER, 0))
    stranger.settimeout(TIMEOUT_SECONDS)
    with contextlib.suppress(OSError):  # it was refused at once: what select finds then
        stranger.connect(("127.0.0.1", port))
        stranger.sendall(HALF)
    stranger.setblocking(False)
    waiting.register(stranger, selectors.EVENT_READ)
    held.opened += 1


def _is_over(stranger: socket.socket) -> bool:
    try:
        return not stranger.recv(65536)
    except BlockingIOError:
        return False
    except OSError:
        return True


def _ask(port: int, held: Held, over: threading.Event) -> None:
    while not over.wait(EVERY_SECONDS):
        held.asked += 1
        begun = time.monotonic()
        try:
            answer = httpx.get(f"http://127.0.0.1:{port}/healthz/live", timeout=TIMEOUT_SECONDS)
            held.failed += answer.status_code != 200
        except httpx.HTTPError:
            held.failed += 1
        held.slowest = max(held.slowest, time.monotonic() - begun)
