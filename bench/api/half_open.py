"""Half-open requests: whether the API answers its health check while sockets send half a request and nothing more.

`python -m bench.api.half_open` floods `lathe up`, directly and through the shipped proxy file (needs Debian's nginx and
libnginx-mod-stream); `python -m bench api --only half-open` floods servers with few and with many file descriptors.
"""

import argparse
import contextlib
import json
import os
import resource
import selectors
import signal
import socket
import ssl
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import httpx

from bench.api.servers import ROOT, free_port
from scripts import proxy

STRANGER = "127.0.0.2"
"""Source address of the half requests; the health check comes from 127.0.0.1."""
HALF = b"GET /v1/jo"
EVERY_SECONDS = 0.1
TIMEOUT_SECONDS = 10.0


@dataclass
class Held:
    """Result of a flood. slowest: seconds of the slowest health check; opened: sockets, reopened ones included."""

    asked: int = 0
    failed: int = 0
    slowest: float = 0.0
    opened: int = 0


def flood(port: int, sockets: int, seconds: float, trust: ssl.SSLContext | None = None) -> Held:
    """Keep sockets open that send half a request line, reopen each that is closed, and check the health meanwhile.

    trust: context that knows the certificate, if the port speaks TLS.
    """
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    held, over = Held(), threading.Event()
    asker = threading.Thread(target=_ask, args=(port, held, over, trust))
    asker.start()
    try:
        with selectors.DefaultSelector() as waiting:
            for _ in range(sockets):
                _open(port, waiting, held, trust)
            end = time.monotonic() + seconds
            while time.monotonic() < end:
                for key, _ in waiting.select(0.1):
                    if _is_over(key.fileobj):  # type: ignore[arg-type]  # they are sockets
                        waiting.unregister(key.fileobj)
                        key.fileobj.close()  # type: ignore[union-attr]
                        _open(port, waiting, held, trust)
            for key in list(waiting.get_map().values()):
                key.fileobj.close()  # type: ignore[union-attr]
    finally:
        over.set()
        asker.join()
    return held


def _open(port: int, waiting: selectors.BaseSelector, held: Held, trust: ssl.SSLContext | None) -> None:
    stranger = socket.socket()
    stranger.bind((STRANGER, 0))
    stranger.settimeout(TIMEOUT_SECONDS)
    with contextlib.suppress(OSError):  # it was refused at once: what select finds then
        stranger.connect(("127.0.0.1", port))
        if trust is not None:
            stranger = trust.wrap_socket(stranger, server_hostname="localhost", do_handshake_on_connect=False)
            stranger.do_handshake()
        stranger.sendall(HALF)
    stranger.setblocking(False)
    waiting.register(stranger, selectors.EVENT_READ)
    held.opened += 1


def _is_over(stranger: socket.socket) -> bool:
    try:
        return not stranger.recv(65536)
    except (BlockingIOError, ssl.SSLWantReadError):
        return False
    except OSError:
        return True


def _ask(port: int, held: Held, over: threading.Event, trust: ssl.SSLContext | None) -> None:
    place = f"{'http' if trust is None else 'https'}://127.0.0.1:{port}/healthz/live"
    while not over.wait(EVERY_SECONDS):
        held.asked += 1
        begun = time.monotonic()
        try:
            answer = httpx.get(place, timeout=TIMEOUT_SECONDS, verify=trust or False)  # without TLS there is nothing to verify
            held.failed += answer.status_code != 200
        except httpx.HTTPError:
            held.failed += 1
        held.slowest = max(held.slowest, time.monotonic() - begun)


@contextlib.contextmanager
def lathe_up(home: Path) -> Iterator[int]:
    """Run `lathe up` without job workers; yield its port."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("LATHE_")}
    command = [sys.executable, "-m", "client", "up", "--json", "--home", str(home), "--port", "0", "--workers", "0"]
    process = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, text=True)
    try:
        if process.stdout is None:
            raise RuntimeError("not piped")
        yield int(json.loads(process.stdout.readline())["url"].rsplit(":", 1)[1])
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait()


def main(arguments: Sequence[str]) -> None:
    """Try it directly and through the proxy; print a row for each."""
    parser = argparse.ArgumentParser(prog="python -m bench.api.half_open", description=__doc__)
    parser.add_argument("--sockets", type=int, default=2000, help="sockets that stay open")
    parser.add_argument("--seconds", type=float, default=40.0, help="length of each flood")
    asked = parser.parse_args(arguments)
    print("| half requests | opened | health asked | failed | slowest | log |\n| --- | --- | --- | --- | --- | --- |")
    with tempfile.TemporaryDirectory(prefix="lathe-half-open-", ignore_cleanup_errors=True) as place:
        home, folder = Path(place) / "home", Path(place) / "proxy"
        folder.mkdir()
        with lathe_up(home) as port:
            logs = [home / "logs"]
            _row("lathe up", logs, lambda: flood(port, asked.sockets, asked.seconds))
            https = free_port()
            with proxy.running(folder, port, free_port(), https):
                trust = ssl.create_default_context(cafile=str(folder / "certificate.pem"))
                logs.append(folder / "log")
                _row("through the proxy, in TLS", logs, lambda: flood(https, asked.sockets, asked.seconds, trust))


def _row(name: str, logs: Sequence[Path], tried: Callable[[], Held]) -> None:
    before = _bytes(logs)
    held = tried()
    met = held.asked > 0 and not held.failed and _bytes(logs) - before < 2**20
    sides = f"{held.opened:,} | {held.asked} | {held.failed} | {held.slowest:.2f} s | +{(_bytes(logs) - before) / 1000:.1f} kB"
    print(f"| {name} | {sides} | {'met' if met else 'MISSED'}", flush=True)


def _bytes(logs: Sequence[Path]) -> int:
    return sum(file.stat().st_size for log in logs for file in (log.rglob("*") if log.is_dir() else [log]))


if __name__ == "__main__":
    main(sys.argv[1:])
