"""A TCP proxy that stands between the service and a server, and does to the connections what networks do.

Each connection has two threads, one a direction. What the proxy does may change at any moment, for connections that are
there already and for those to come.
"""

import contextlib
import socket
import threading
from dataclasses import dataclass, field
from typing import Self

BUFFER = 1 << 16


@dataclass(eq=False)
class Link:
    client: socket.socket
    server: socket.socket
    needles: list[bytes] = field(default_factory=list)
    """What must still pass, in this order, before the next reply is lost."""
    seen: bytes = b""
    doomed: bool = False
    dead: bool = False

    def close(self) -> None:
        for side in (self.client, self.server):
            with contextlib.suppress(OSError):
                side.shutdown(socket.SHUT_RDWR)
            side.close()


class Proxy:
    """Listens on a port of its own, which stays the same. Use as a context manager."""

    def __init__(self, target: int) -> None:
        self.target = target
        self.lock = threading.Lock()
        self.links: set[Link] = set()
        self.swallowed: frozenset[str] = frozenset()
        self.needles: tuple[bytes, ...] = ()
        self.lost = threading.Event()
        self.listener: socket.socket | None = None
        self.port = 0

    def __enter__(self) -> Self:
        self.listen()
        return self

    def __exit__(self, *_: object) -> None:
        self.refuse()
        self.drop()

    # What a test may ask for.

    def listen(self) -> None:
        if self.listener is None:
            self.listener = socket.create_server(("127.0.0.1", self.port), backlog=64)
            self.port = self.listener.getsockname()[1]
            threading.Thread(target=self._accept, args=(self.listener,), daemon=True, name="proxy").start()

    def heal(self) -> None:
        """Pass everything on again. A connection that lost bytes meanwhile cannot go on, and is closed."""
        broken, self.swallowed = bool(self.swallowed), frozenset()
        with self.lock:
            self.needles = ()
            for link in self.links:
                link.needles, link.doomed = [], False
        if broken:
            self.drop()
        self.listen()

    def refuse(self) -> None:
        """Take no more connections; those that there are go on."""
        listener, self.listener = self.listener, None
        if listener is not None:
            with contextlib.suppress(OSError):
                listener.shutdown(socket.SHUT_RDWR)
            listener.close()

    def drop(self) -> None:
        with self.lock:
            links, self.links = self.links, set()
        for link in links:
            link.close()

    def swallow(self, *directions: str) -> None:
        """Be a black hole for what the `client` or the `server` says, by default for both; nobody is told."""
        self.swallowed = frozenset(directions or ("client", "server"))

    def forsake(self) -> None:
        """Swallow for ever what the connections of this moment say, as a middlebox does that forgot them; new ones work."""
        with self.lock:
            for link in self.links:
                link.dead = True

    def lose_reply(self, *needles: bytes) -> None:
        """Once: after a client has sent messages with these bytes, in this order, lose the reply to the last of them.

        The server has done what was asked, the client sees its connection break. `lost` is set when it has happened.
        """
        with self.lock:
            self.lost.clear()
            self.needles = needles
            for link in self.links:
                link.needles, link.seen = list(needles), b""

    # How it is done.

    def _accept(self, listener: socket.socket) -> None:
        while True:
            try:
                client, _ = listener.accept()
            except OSError:
                return
            try:
                server = socket.create_connection(("127.0.0.1", self.target), 10)
            except OSError:
                client.close()
                continue
            server.settimeout(None)
            with self.lock:
                link = Link(client, server, list(self.needles))
                self.links.add(link)
            for name, source, sink in (("client", client, server), ("server", server, client)):
                threading.Thread(target=self._pump, args=(link, name, source, sink), daemon=True, name=f"proxy-{name}").start()

    def _pump(self, link: Link, name: str, source: socket.socket, sink: socket.socket) -> None:
        try:
            while data := source.recv(BUFFER):
                if link.dead or name in self.swallowed:
                    continue
                if name == "client":
                    self._look(link, data)
                elif link.doomed:
                    self.lost.set()
                    break
                sink.sendall(data)
        except OSError:
            pass
        if (link.dead or name in self.swallowed) and link in self.links:
            return  # a black hole does not tell of a closed connection either
        with self.lock:
            self.links.discard(link)
        link.close()

    def _look(self, link: Link, data: bytes) -> None:
        with self.lock:
            if not link.needles:
                return
            link.seen += data
            while link.needles and (place := link.seen.find(link.needles[0])) >= 0:
                link.seen = link.seen[place + len(link.needles.pop(0)) :]
            if not link.needles:
                link.doomed = True
                self._spare_others(link)
            # A needle may lie across two reads; what is longer than any needle cannot matter any more.
            link.seen = link.seen[-max(map(len, link.needles), default=0) :] if link.needles else b""

    def _spare_others(self, chosen: Link) -> None:
        self.needles = ()
        for link in self.links:
            if link is not chosen:
                link.needles = []
