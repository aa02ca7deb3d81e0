"""The proxy does what its name says: otherwise the tests that rely on it would prove nothing."""

import socket
import threading
from collections.abc import Iterator

import pytest

from tests.faults.proxy import Proxy


@pytest.fixture
def echo() -> Iterator[int]:
    listener = socket.create_server(("127.0.0.1", 0))

    def serve(there: socket.socket) -> None:
        with there:
            while data := there.recv(1000):
                there.sendall(data)

    def accept() -> None:
        while True:
            try:
                there, _ = listener.accept()
            except OSError:
                return
            threading.Thread(target=serve, args=(there,), daemon=True).start()

    threading.Thread(target=accept, daemon=True).start()
    yield listener.getsockname()[1]
    listener.shutdown(socket.SHUT_RDWR)
    listener.close()


@pytest.fixture
def proxy(echo: int) -> Iterator[Proxy]:
    with Proxy(echo) as made:
        yield made


def connect(proxy: Proxy) -> socket.socket:
    there = socket.create_connection(("127.0.0.1", proxy.port), 10)
    there.settimeout(10)
    return there


def ask(there: socket.socket, data: bytes) -> bytes:
    there.sendall(data)
    return there.recv(1000)


def test_it_passes_refuses_and_drops(proxy: Proxy) -> None:
    with connect(proxy) as there:
        assert ask(there, b"one") == b"one"
        proxy.refuse()
        with pytest.raises(ConnectionRefusedError):
            connect(proxy)
        assert ask(there, b"two") == b"two"
        proxy.drop()
        assert there.recv(10) == b""
    proxy.heal()
    with connect(proxy) as there:
        assert ask(there, b"three") == b"three"


def test_a_black_hole_says_nothing(proxy: Proxy) -> None:
    with connect(proxy) as there:
        assert ask(there, b"one") == b"one"
        proxy.swallow()
        there.settimeout(0.3)
        with pytest.raises(TimeoutError):
            ask(there, b"two")
        with connect(proxy) as new:
            new.settimeout(0.3)
            with pytest.raises(TimeoutError):
                ask(new, b"three")
        proxy.heal()
        there.settimeout(10)
        assert there.recv(10) == b""


def test_one_reply_is_lost_after_the_words_in_their_order(proxy: Proxy) -> None:
    with connect(proxy) as there, connect(proxy) as other:
        assert ask(there, b"zero") == b"zero"
        proxy.lose_reply(b"INSERT", b"COMMIT")
        assert ask(there, b"COMMIT") == b"COMMIT"  # before the first word it means nothing
        assert ask(there, b"INS") == b"INS"
        assert ask(there, b"ERT") == b"ERT"
        assert ask(other, b"COMMIT") == b"COMMIT"
        assert ask(there, b"COMMIT") == b""
        assert proxy.lost.wait(10)
        assert ask(other, b"INSERT COMMIT") == b"INSERT COMMIT"  # once
