"""What strangers do with sockets: half a request, one that stands still, too many, and two ways to read one."""

import contextlib
import itertools
import json
import os
import re
import socket
import subprocess
import sys
import time
from collections.abc import Iterator

import httpx
import psutil
import pytest

from app.api.connections import ConnectionLimits, Listener
from app.core.networks import client_network
from app.core.settings import Settings
from tests.app.api.conftest import entry
from tests.conftest import ROOT, Service, fresh_database, wait_for

LIVE = b"GET /healthz/live HTTP/1.1\r\nHost: lathe\r\nConnection: close\r\n\r\n"
FILES = 300


@pytest.fixture(scope="module")
def narrow(templates: dict[str, str], valkey: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """An API that may open 300 files, and waits for nobody for long."""
    folder = tmp_path_factory.mktemp("narrow")
    with fresh_database("sqlite", "", templates, folder) as database:
        patience = {"LATHE_HEADER_SECONDS": "2", "LATHE_IDLE_SECONDS": "3"}
        made = Service(folder / "home", database, valkey, settings=patience)
        made.home.mkdir()
        server = [
            "sh",
            "-c",
            f'ulimit -n {FILES}; exec "$@"',
            "sh",
            sys.executable,
            "-m",
            "app.server",
            "--port",
            f"{made.port}",
        ]
        with (made.home / "api.log").open("ab") as out:
            streams = {"stdout": out, "stderr": out}
            made.processes["api"] = subprocess.Popen(server, cwd=ROOT, env=made.env, start_new_session=True, **streams)
        wait_for(lambda: httpx.get(f"{made.url}/healthz/ready").status_code == 200)
        yield made
        made.stop()


def connect(service: Service, source: str = "127.0.0.1") -> socket.socket:
    made = socket.create_connection(("127.0.0.1", service.port), timeout=30, source_address=(source, 0))
    made.settimeout(30)
    return made


def rest(connection: socket.socket) -> bytes:
    return b"".join(iter(lambda: connection.recv(65536), b""))


def ask(service: Service, raw: bytes, source: str = "127.0.0.1") -> bytes:
    with connect(service, source) as connection:
        connection.sendall(raw)
        return rest(connection)


def code(answer: bytes) -> tuple[int, str]:
    """Status and code of a problem document on the wire, which carries the headers of every answer."""
    head, _, body = answer.partition(b"\r\n\r\n")
    assert b"application/problem+json" in head
    assert b"X-Content-Type-Options: nosniff" in head
    assert b"server:" not in head.lower()
    return int(head.split()[1]), json.loads(body)["code"]


def test_half_requests_of_one_address_stop_nobody_else(narrow: Service) -> None:
    api = psutil.Process(narrow.processes["api"].pid)
    with contextlib.ExitStack() as held:
        for number in range(2 * FILES):
            connection = held.enter_context(connect(narrow, "127.0.0.2"))
            with contextlib.suppress(OSError):  # it may have been refused already
                connection.sendall(b"GET / HT")
            if number % 100 == 0:
                assert ask(narrow, LIVE).startswith(b"HTTP/1.1 200")
        assert api.num_fds() < FILES / 2
        assert ask(narrow, LIVE).startswith(b"HTTP/1.1 200")
        assert ask(narrow, LIVE, "127.0.0.3").startswith(b"HTTP/1.1 200")

        def refused() -> bool:
            """Take its places anew: on a slow machine the first have been cut off by now."""
            for _ in range(FILES):
                held.enter_context(connect(narrow, "127.0.0.2"))
            answer = ask(narrow, LIVE, "127.0.0.2")
            return answer.startswith(b"HTTP/1.1 503") and code(answer) == (503, "too_many_connections")

        wait_for(refused, 60)
    wait_for(lambda: ask(narrow, LIVE, "127.0.0.2").startswith(b"HTTP/1.1 200"))
    assert "out of system resource" not in narrow.log("api")


def test_many_addresses_together_leave_room_for_health_checks(narrow: Service) -> None:
    with contextlib.ExitStack() as held:

        def fill(part: bytes) -> None:
            for number in range(200):
                connection = held.enter_context(connect(narrow, f"127.0.1.{number + 1}"))
                with contextlib.suppress(OSError):
                    connection.sendall(part)

        def refused() -> bool:
            fill(b"")  # again: on a slow machine the first have been cut off by now
            answer = ask(narrow, LIVE, "127.0.2.1")
            return answer.startswith(b"HTTP/1.1 503") and code(answer) == (503, "too_many_connections")

        fill(b"GET / HT")
        assert ask(narrow, LIVE).startswith(b"HTTP/1.1 200")
        wait_for(refused, 60)


@pytest.mark.parametrize("begun", [b"", b"GET / HTTP/1.1\r\nHost: lathe\r\n", LIVE.replace(b"close", b"keep-alive") + b"GET"])
def test_headers_that_do_not_come_end_the_connection(narrow: Service, begun: bytes) -> None:
    with connect(narrow) as connection:
        connection.sendall(begun)
        answer = rest(connection)
    if begun.startswith(b"GET /healthz"):
        assert answer.startswith(b"HTTP/1.1 200")
        answer = answer[answer.rindex(b"HTTP/1.1") :]
    assert code(answer) == (408, "request_timeout")


def test_headers_that_trickle_end_the_connection_too(narrow: Service) -> None:
    with connect(narrow) as connection, contextlib.suppress(OSError):  # a body would live on
        for byte in itertools.cycle(b"a"):
            connection.sendall(bytes([byte]))
            time.sleep(0.2)


def upload(service: Service, data: bytes) -> bytes:
    """The headers of a PUT of a whole file."""
    with service.client() as http:
        made = http.post("/v1/models", json={"name": "m", "files": [entry("w.json", data)]}).json()["id"]
    head = f"PUT /v1/models/{made}/files/w.json HTTP/1.1\r\nHost: lathe\r\nAuthorization: Bearer {service.database.key}\r\n"
    return f"{head}Connection: close\r\nContent-Length: {len(data)}\r\n\r\n".encode()


def test_a_body_on_which_nothing_moves_is_cut_off(narrow: Service) -> None:
    asked = upload(narrow, b"x" * 100)
    with connect(narrow) as connection:
        connection.sendall(asked + b"x" * 10)
        assert code(rest(connection)) == (408, "request_timeout")

    def logged() -> list[int]:
        lines = [json.loads(line) for line in narrow.log("api").splitlines() if '"PUT"' in line]
        return [line["status"] for line in lines if line["event"] == "request"]

    wait_for(logged)
    assert logged()[-1] == 408


def test_a_slow_body_lives(narrow: Service) -> None:
    def lives() -> bool:
        """Send slowly; where this process stood still for longer than it meant to, that tells nothing."""
        asked, longest, last = upload(narrow, b"x" * 8), 0.0, time.monotonic()
        with connect(narrow) as connection, contextlib.suppress(OSError):
            connection.sendall(asked)
            for _ in range(8):  # longer altogether than either limit
                time.sleep(0.7)
                connection.sendall(b"x")
                longest, last = max(longest, time.monotonic() - last), time.monotonic()
            if rest(connection).startswith(b"HTTP/1.1 200"):
                return True
        assert longest > 2, "it was slow, and no slower than it may be"
        return False

    wait_for(lives, 60)


def test_an_answer_that_nobody_reads_is_cut_off(narrow: Service) -> None:
    with connect(narrow) as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        asked = LIVE.replace(b"/healthz/live", b"/openapi.json").replace(b"close", b"keep-alive")
        with contextlib.suppress(OSError):
            connection.settimeout(1)
            connection.sendall(asked * 400)  # what it does not read does not fit into the kernel's buffers
        port = connection.getsockname()[1]

        def gone() -> bool:
            open_ = psutil.Process(narrow.processes["api"].pid).net_connections("tcp")
            return not any(one.raddr and one.raddr.port == port for one in open_)

        connection.settimeout(60)
        assert connection.recv(1)  # it was taken, and is being answered
        wait_for(gone)


@pytest.mark.parametrize(
    "raw",
    [
        b"GET /healthz/live HTTP/1.1\nHost: lathe\n\n",
        b"GET /healthz/live HTTP/1.1\r\nHost: lathe\nX: y\r\n\r\n",
        b"POST /v1/jobs HTTP/1.1\r\nHost: lathe\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        b"POST /v1/jobs HTTP/1.0\r\nHost: lathe\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        b"nonsense\r\n\r\n",
        b"GET / HTTP/1.1\r\nX: " + b"a" * 20_000,
    ],
)
def test_what_can_be_read_in_two_ways_is_refused(narrow: Service, raw: bytes) -> None:
    assert code(ask(narrow, raw)) == (400, "malformed_request")  # ask() returns: the connection is closed


def test_a_flood_of_nonsense_leaves_few_lines(narrow: Service) -> None:
    before = narrow.log("api").count("Invalid HTTP request")
    for _ in range(300):
        ask(narrow, b"nonsense\r\n\r\n")
    assert narrow.log("api").count("Invalid HTTP request") - before <= 60


def test_addresses_are_bounded_and_proxies_are_not() -> None:
    settings = Settings(max_connections=100, max_connections_per_address=2)
    bounds = ConnectionLimits.from_settings(settings, 100_000, "10.0.0.0/8, *")
    for address in ("192.0.2.1", "10.0.0.1", "2001:db8::1", "127.0.0.1", "::ffff:192.0.2.9"):
        for _ in range(2):
            assert bounds.exceeded_limit(address) is None
            bounds.count_open(address)
    refused = {"192.0.2.1", "2001:db8::2", "192.0.2.9"}
    asked = [*refused, "10.0.0.1", "127.0.0.1", "2001:db8:0:1::1"]
    assert {address for address in asked if bounds.exceeded_limit(address) == "address"} == refused
    assert client_network("2001:db8::1%eth0") == "2001:db8::/64"
    assert ConnectionLimits.from_settings(Settings(), 300, "").total < 300 / 2
    assert ConnectionLimits.from_settings(Settings(max_connections=4000), 300, "").total < 300 / 2


def test_answers_do_not_wait_for_acknowledgments() -> None:
    listening = socket.create_server(("127.0.0.1", 0))
    with (
        Listener(listening, ConnectionLimits.from_settings(Settings(), 300, "")) as listener,
        socket.create_connection(listener.getsockname()[:2]),
    ):
        taken, _ = listener.accept()
        with taken:
            assert taken.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)


def test_without_descriptors_a_caller_is_refused_and_not_left_waiting() -> None:
    listening = socket.create_server(("127.0.0.1", 0))
    bounds = ConnectionLimits.from_settings(Settings(), 300, "")
    with Listener(listening, bounds) as listener:
        listener.setblocking(False)
        with socket.create_connection(listener.getsockname()[:2], timeout=30) as caller:
            taken = []
            with contextlib.suppress(OSError):
                for _ in iter(int, 1):
                    taken.append(os.open(os.devnull, os.O_RDONLY))
                    if len(taken) > 30_000:
                        pytest.skip("the limit of open files is too high to reach")
            try:
                with pytest.raises(BlockingIOError):
                    listener.accept()
            finally:
                for number in taken:
                    os.close(number)
            assert re.match(rb"HTTP/1.1 503 ", rest(caller))
        assert listener.spare is not None
