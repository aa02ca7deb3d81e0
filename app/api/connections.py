"""Limits of open connections, in total and by address, with a reserve for health checks.

The total follows from the process's limit of open files and applies when a connection is accepted: one too many gets a 503 and
is closed before it costs anything, so accept() never runs out of descriptors.
"""

import asyncio
import contextlib
import errno
import ipaddress
import os
import resource
import socket
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import structlog

from app.api.raw_responses import raw_response
from app.core.errors import TooManyConnections
from app.core.networks import Network, client_network, trusted_networks
from app.core.settings import Settings, get_settings
from app.ops.metrics import refused

log = structlog.get_logger()
OWN_FILES = 128
"""Files that the process opens itself: the database, its log, libraries, and the listening socket."""
FILES_EACH = 2
"""A connection, and the file that it reads or writes."""
MOST = 4096
"""Maximum connections of one process, however many files it may open: each costs memory too."""
MOST_FILES = 65536
RESERVE = 8
"""Connections reserved for this machine: health checks, and a local proxy."""
LEAST = 8
REFUSED_AT_ONCE = 64
"""After so many refusals the event loop does other work."""
LOG_SECONDS = 10.0
CAUSES = {
    "address": "this address has reached its limit of connections",
    "total": "the service has reached its limit of connections",
    "files": "the service has no file descriptor left for another connection",
}
NO_FILES = frozenset({errno.EMFILE, errno.ENFILE})


def raise_file_limit() -> int:
    """Raise the limit of open files as far as the system allows, up to MOST_FILES; return it."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = MOST_FILES if hard == resource.RLIM_INFINITY else min(hard, MOST_FILES)
    if soft == resource.RLIM_INFINITY or soft >= most:
        return MOST_FILES if soft == resource.RLIM_INFINITY else soft
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))
    return most


@dataclass
class ConnectionLimits:
    """The limits of connections, and the current numbers."""

    total: int
    each: int  #: for one address that is neither this machine's nor a trusted proxy's
    trusted: tuple[Network, ...] = ()  #: proxies, which have no limit of their own
    open: Counter[str] = field(default_factory=Counter)
    refused: int = 0  #: since the last log line
    logged_at: float = float("-inf")

    @classmethod
    def from_settings(cls, settings: Settings, files: int, trusted: str) -> "ConnectionLimits":
        """Derive the limits from the number of files that the process may open; settings may only lower the total."""
        room = max((files - OWN_FILES) // FILES_EACH, LEAST + RESERVE)
        total = min(room, settings.max_connections or MOST)
        each = settings.max_connections_per_address or max(LEAST, total // 4)
        return cls(total, min(each, total), trusted_networks(trusted))

    def exceeded_limit(self, address: str) -> str | None:
        """Return the limit that one more connection would exceed: `total`, `address`, or None."""
        known = client_network(address)
        number = sum(self.open.values())
        if self._is_local(known):
            return "total" if number >= self.total else None
        if number >= self.total - RESERVE:
            return "total"
        return "address" if self.open[known] >= self.each and not self._is_trusted(known) else None

    def count_open(self, address: str) -> Callable[[], None]:
        """Count a connection; return the function that ends the count."""
        known = client_network(address)
        self.open[known] += 1

        def ended() -> None:
            self.open[known] -= 1
            if not self.open[known]:
                del self.open[known]

        return ended

    def count_refusal(self, reason: str, address: str) -> None:
        """Count a refusal. The log has at most one line per LOG_SECONDS."""
        refused.labels(reason).inc()
        self.refused += 1
        if time.monotonic() - self.logged_at >= LOG_SECONDS:
            log.warning(
                "connections_refused", reason=reason, address=address, number=self.refused, open=sum(self.open.values())
            )
            self.refused, self.logged_at = 0, time.monotonic()

    @staticmethod
    def _is_local(known: str) -> bool:
        return known in {"127.0.0.1", "::1"}

    def _is_trusted(self, known: str) -> bool:
        try:
            found = ipaddress.ip_address(known)
        except ValueError:
            return False
        return any(found in network for network in self.trusted)


class _Counted(socket.socket):
    """A connection that reports when it is closed."""

    ended: Callable[[], None] | None = None

    def close(self) -> None:
        super().close()
        if self.ended is not None:
            self.ended()
            self.ended = None


class Listener(socket.socket):
    """A listening socket that closes connections beyond the limits at once, so that asyncio never sees them."""

    def __init__(self, listening: socket.socket, bounds: ConnectionLimits) -> None:
        super().__init__(listening.family, listening.type, listening.proto, fileno=listening.detach())
        self.bounds = bounds
        self.spare: int | None = os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)

    def accept(self) -> tuple[socket.socket, Any]:
        """Return the next admitted connection. Raises BlockingIOError if there is none now."""
        for _ in range(REFUSED_AT_ONCE):
            try:
                plain, address = super().accept()
            except OSError as error:
                if error.errno not in NO_FILES:
                    raise
                self._refuse_without_files(error)
                continue
            peer = str(address[0]) if isinstance(address, tuple) else "unix"
            reason = self.bounds.exceeded_limit(peer)
            if reason is None:
                counted = _Counted(plain.family, plain.type, plain.proto, fileno=plain.detach())
                if counted.family in (socket.AF_INET, socket.AF_INET6):
                    # asyncio does this only for sockets that it creates. Otherwise each response's body waits for the client's
                    # delayed acknowledgment of its headers: 40 ms.
                    counted.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                counted.ended = self.bounds.count_open(peer)
                return counted, address
            self.bounds.count_refusal(reason, peer)
            self._refuse(plain, CAUSES[reason])
        raise BlockingIOError

    def close(self) -> None:
        """Release the port and the spare descriptor."""
        super().close()
        if self.spare is not None:
            os.close(self.spare)
            self.spare = None

    @staticmethod
    def _refuse(plain: socket.socket, cause: str) -> None:
        with plain:
            plain.setblocking(False)
            with contextlib.suppress(OSError):
                plain.recv(65536)  # unread bytes would make the kernel drop the answer
            with contextlib.suppress(OSError):
                plain.send(raw_response(TooManyConnections(cause)))
                plain.shutdown(socket.SHUT_WR)

    def _refuse_without_files(self, error: OSError) -> None:
        """Release the spare descriptor for a moment, to take the connection from the queue; otherwise it would wake us forever.

        Raises the error if even that fails; asyncio then pauses for a second.
        """
        if self.spare is None:
            raise error
        os.close(self.spare)
        self.spare = None
        try:
            plain, address = super().accept()
            self.bounds.count_refusal("files", str(address[0]))
            self._refuse(plain, CAUSES["files"])
        finally:
            self.spare = os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)


class BoundedLoop(asyncio.SelectorEventLoop):
    """The event loop of an API process: its servers accept connections within the limits."""

    async def create_server(self, *args: Any, sock: socket.socket | None = None, **options: Any) -> Any:
        """Wrap the socket on which the server accepts connections."""
        if sock is not None:
            bounds = ConnectionLimits.from_settings(
                get_settings(), raise_file_limit(), os.environ.get("FORWARDED_ALLOW_IPS", "127.0.0.1")
            )
            log.info("listening", connections=bounds.total, of_one_address=bounds.each)
            sock = Listener(sock, bounds)
        return await super().create_server(*args, sock=sock, **options)
