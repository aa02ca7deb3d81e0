"""A flood of clients from another address who send half of something and no more, all the while that everything is killed."""

import contextlib
import random
import selectors
import socket
import threading
import time

ADDRESS = "127.0.0.2"
"""Where they come from; the client whose jobs must end comes from 127.0.0.1."""
SOCKETS = 100
PAUSE = 0.5
"""Seconds before a socket that was closed is opened again: while the API is down, all are refused at once."""
HALVES = (
    b"GET /v1/jo",
    b"GET /v1/jobs HTTP/1.1\r\nHost: lathe\r\nX-Slow: ",
    b"POST /v1/jobs HTTP/1.1\r\nHost: lathe\r\nContent-Type: application/json\r\nContent-Length: 9999\r\n\r\n{",
)
DRIBBLE = 0.3
"""Share of the sockets that go on, a byte a second, as those do who know that silence is cut off."""


class SlowClients(threading.Thread):
    """Keeps SOCKETS sockets open, each opened again when the service closes it. `closed` counts those."""

    def __init__(self, port: int, chance: random.Random) -> None:
        super().__init__(name="slow-clients", daemon=True)
        self.port, self.chance = port, chance
        self.stopped = threading.Event()
        self.closed = 0
        self.answers: set[bytes] = set()
        """First lines of what the service said before it closed."""

    def run(self) -> None:
        due = [time.monotonic()] * SOCKETS
        with selectors.DefaultSelector() as held:
            dribbled = time.monotonic()
            while not self.stopped.is_set():
                now = time.monotonic()
                for _ in [moment for moment in due if moment <= now]:
                    self._open(held)
                due = [moment for moment in due if moment > now]
                for key, _ in held.select(0.2):
                    if self._is_over(key.fileobj):  # type: ignore[arg-type]  # they are sockets
                        held.unregister(key.fileobj)
                        key.fileobj.close()  # type: ignore[union-attr]
                        self.closed += 1
                        due.append(time.monotonic() + PAUSE)
                if now - dribbled > 1:
                    dribbled = now
                    for key in held.get_map().values():
                        if key.data:
                            with contextlib.suppress(OSError):  # it is over: what select finds next
                                key.fileobj.send(b"a")  # type: ignore[union-attr]
            for key in list(held.get_map().values()):
                key.fileobj.close()  # type: ignore[union-attr]

    def _open(self, held: selectors.BaseSelector) -> None:
        slow = socket.socket()
        with contextlib.suppress(OSError):  # nobody listens just now, or it was refused at once: what select finds
            slow.bind((ADDRESS, 0))
            slow.settimeout(1)
            slow.connect(("127.0.0.1", self.port))
            slow.sendall(self.chance.choice(HALVES))
        slow.setblocking(False)
        held.register(slow, selectors.EVENT_READ, self.chance.random() < DRIBBLE)

    def _is_over(self, slow: socket.socket) -> bool:
        try:
            said = slow.recv(65536)
        except BlockingIOError:
            return False
        except OSError:
            return True
        if said.startswith(b"HTTP/"):
            self.answers.add(said.split(b"\r\n", 1)[0])
        return not said
