"""A load generator with almost no cost of its own: prepared requests over persistent connections."""

import socket
import time


class Line:
    """One HTTP/1.1 connection. Responses must have a Content-Length."""

    def __init__(self, port: int) -> None:
        self.socket = socket.create_connection(("127.0.0.1", port), timeout=60)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.rest = b""

    def send(self, request: bytes) -> None:
        """Send a request."""
        self.socket.sendall(request)

    def receive(self) -> bytes:
        """Return the body of the next response. Stops the bench for any status but 200."""
        while (end := self.rest.find(b"\r\n\r\n")) < 0:
            self.rest += self._more()
        head = self.rest[:end].lower()
        if not head.startswith(b"http/1.1 200"):
            raise SystemExit(f"not a 200: {self.rest[:500]!r}")
        length = int(head.split(b"content-length:")[1].split(b"\r\n")[0])
        while len(self.rest) < end + 4 + length:
            self.rest += self._more()
        body, self.rest = self.rest[end + 4 : end + 4 + length], self.rest[end + 4 + length :]
        return body

    def _more(self) -> bytes:
        found = self.socket.recv(1 << 16)
        if not found:
            raise SystemExit("the server closed the line")
        return found

    def close(self) -> None:
        """Close the connection."""
        self.socket.close()


def rate(port: int, request: bytes, lines: int, seconds: float) -> tuple[float, int]:
    """Keep `lines` requests in flight for so many seconds; return (responses per second, responses)."""
    opened = [Line(port) for _ in range(lines)]
    try:
        done, started = 0, time.perf_counter()
        while time.perf_counter() - started < seconds:
            for line in opened:
                line.send(request)
            for line in opened:
                line.receive()
            done += lines
        return done / (time.perf_counter() - started), done
    finally:
        for line in opened:
            line.close()


def times(port: int, request: bytes, number: int) -> list[float]:
    """Send a request `number` times in sequence; return the seconds of each."""
    line, found = Line(port), []
    try:
        for _ in range(number):
            started = time.perf_counter()
            line.send(request)
            line.receive()
            found.append(time.perf_counter() - started)
        return found
    finally:
        line.close()
