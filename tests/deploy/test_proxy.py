"""The shipped proxy file in a real nginx before a real API: TLS, who asked, what streams, and what goes no further."""

import contextlib
import os
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import httpx
import psutil
import pytest

from client.api import Lathe
from client.errors import Unreachable
from scripts import proxy as proxy_file
from tests.app.api.conftest import SCRAPE, entry, job_body, new_team, problem
from tests.conftest import Service, free_port, over_sqlite, wait_for
from tests.deploy.proxies import INSTALLED, Proxy, running

pytestmark = pytest.mark.skipif(not INSTALLED and "CI" not in os.environ, reason="no nginx here: make setup-system")
WRONG = f"lathe_0123456789_{'s' * 43}"
FORGED = {"X-Forwarded-For": "9.9.9.9", "Forwarded": "for=9.9.9.9", "X-Real-IP": "9.9.9.9"}
MOST = 256
"""Connections of one address, as the file says."""
MIB = 1 << 20
HEADERS = ("strict-transport-security", "x-content-type-options", "x-request-id")


@pytest.fixture(scope="module")
def behind(templates: dict[str, str], valkey: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """An API that knows its public address, and trusts this machine's proxy as it does by default."""
    settings = {"LATHE_PUBLIC_URL": f"https://localhost:{free_port()}", "LATHE_METRICS_TOKEN": SCRAPE}
    settings |= {"LATHE_RATE_WRONG": "3/hour", "LATHE_QUOTA_BYTES_ARRIVING": str(16 * MIB)}
    with over_sqlite(templates, valkey, tmp_path_factory.mktemp("behind"), **settings) as made:
        yield made


@pytest.fixture(scope="module")
def proxy(behind: Service) -> Iterator[Proxy]:
    with running(behind.port, int(behind.settings["LATHE_PUBLIC_URL"].rsplit(":", 1)[1])) as made:
        yield made


def last_address(client: httpx.Client, name: str) -> str:
    """Make a model of this name; return the address that the audit log has for it."""
    made = client.post("/v1/models", json={"name": name, "files": [entry("config.json", b"{}")]}).json()["id"]
    (row,) = [row for row in client.get("/v1/audit?action=models.create").json()["items"] if row["object"] == made]
    return str(row["address"])


def submitted(service: Service, client: httpx.Client) -> str:
    """A job that waits: no worker is here."""
    return str(client.post("/v1/jobs", json=job_body(service, client)).json()["id"])


def test_plain_http_leads_to_the_public_address_whatever_its_host_says(proxy: Proxy) -> None:
    plain = f"http://127.0.0.1:{proxy.http}"
    answer = httpx.post(f"{plain}/v1/jobs?state=queued", headers={"Host": "evil.example"}, content=b"{}")
    assert (answer.status_code, answer.headers["location"]) == (308, f"{proxy.url}/v1/jobs?state=queued")
    proof = proxy.folder / "acme" / ".well-known" / "acme-challenge" / "token"
    proof.parent.mkdir(parents=True)
    proof.write_text("proof")
    assert httpx.get(f"{plain}/.well-known/acme-challenge/token").text == "proof"


def test_tls_brings_its_headers_once_and_a_cookie_of_this_host(proxy: Proxy, behind: Service) -> None:
    with proxy.client() as client:
        answer = client.get("/v1/jobs")
        assert answer.status_code == 401
        assert [len(answer.headers.get_list(name)) for name in HEADERS] == [1, 1, 1]
        assert answer.headers["server"] == "nginx"  # no version
        signed = client.post("/sign-in", data={"key": behind.database.key}, headers={"Origin": proxy.url})
        assert signed.headers["set-cookie"].startswith("__Host-")
        assert "secure" in signed.headers["set-cookie"].lower()
        assert client.get("/jobs").status_code == 200


def test_http_2_reaches_the_api_by_its_name(proxy: Proxy, behind: Service) -> None:
    trusted = ["curl", "-sS", "--http2", "--cacert", str(proxy.folder / "certificate.pem"), "-o", "/dev/null"]
    form = ["-H", f"Origin: {proxy.url}", "--data-urlencode", f"key={behind.database.key}", f"{proxy.url}/sign-in"]
    told = subprocess.run([*trusted, "-w", "%{http_version} %{http_code}", *form], check=True, capture_output=True, text=True)
    assert told.stdout == "2 303"


def test_an_address_is_the_callers_and_cannot_be_forged(proxy: Proxy, behind: Service) -> None:
    key = new_team(behind)
    with proxy.client("127.0.0.2", key, **FORGED) as client:
        assert last_address(client, "through") == "127.0.0.2"
    forged = {"Authorization": f"Bearer {key}", **FORGED}
    source = httpx.HTTPTransport(local_address="127.0.0.2")
    with httpx.Client(base_url=behind.url, headers=forged, transport=source) as direct:
        assert last_address(direct, "past the proxy") == "127.0.0.2"
    with proxy.client("127.0.0.4", WRONG) as guesser:
        found = [guesser.get("/v1/jobs", headers={"X-Forwarded-For": f"9.9.9.{n}"}).status_code for n in range(4)]
    assert found == [401, 401, 401, 429]
    with proxy.client("127.0.0.5", WRONG) as other:
        assert other.get("/v1/jobs").status_code == 401


def test_events_come_as_they_happen(proxy: Proxy, behind: Service) -> None:
    with proxy.client(key=new_team(behind)) as client:
        job = submitted(behind, client)
        with client.stream("GET", f"/v1/jobs/{job}/events", headers={"Accept": "text/event-stream"}) as stream:
            lines = stream.iter_lines()
            assert any("queued" in line for line in lines)  # the stream is open and goes on
            assert client.post(f"/v1/jobs/{job}/cancel").status_code == 202
            assert any("cancel" in line for line in lines)


def test_uploads_pass_as_they_come(proxy: Proxy, behind: Service) -> None:
    data = os.urandom(8 * MIB)
    with proxy.client(key=new_team(behind)) as client, proxy.client(key=client.headers["authorization"][7:]) as beside:

        def arriving() -> int:
            (quota,) = [quota for quota in beside.get("/v1/quotas").json()["items"] if quota["name"] == "bytes_arriving"]
            return int(quota["used"])

        def halves() -> Iterator[bytes]:
            yield data[: len(data) // 2]
            assert wait_for(arriving)  # the API has the request, of which the proxy has half
            yield data[len(data) // 2 :]

        made = client.post("/v1/models", json={"name": "m", "files": [entry("config.json", data)]}).json()["id"]
        place = f"/v1/models/{made}/files/config.json"
        assert client.put(place, content=halves()).status_code == 200
        large = os.urandom(32 * MIB)  # more than the team may send at once: refused before it has come
        made = client.post("/v1/models", json={"name": "m", "files": [entry("config.json", large)]}).json()["id"]
        problem(client.put(f"/v1/models/{made}/files/config.json", content=large), 507, "bytes_quota_exceeded")


def test_large_bodies_are_refused_in_the_services_form(proxy: Proxy, behind: Service) -> None:
    with proxy.client(key=behind.database.key) as client:
        for _ in range(10):  # the API answers before the body has come, and its answer arrives each time
            assert "1572864 bytes" in problem(client.post("/v1/jobs", content=bytes(MIB * 3 // 2)), 413, "too_large")["cause"]
        answer = client.post("/v1/jobs", content=bytes(3 * MIB))
        assert "proxy" in problem(answer, 413, "too_large")["cause"]
        assert [len(answer.headers.get_list(name)) for name in HEADERS] == [1, 1, 1]


@pytest.mark.parametrize("path", ["/metrics", "//metrics", "/%6detrics", "/v1/../metrics", "/./metrics?x=1"])
def test_nobody_outside_reads_the_figures(proxy: Proxy, path: str) -> None:
    with (
        socket.create_connection(("127.0.0.1", proxy.https)) as raw,
        proxy.trust.wrap_socket(raw, False, True, True, "localhost") as tls,
    ):
        head = f"GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nAuthorization: Bearer {SCRAPE}\r\n\r\n"
        tls.sendall(head.encode())
        answer = b"".join(iter(lambda: tls.recv(65536), b""))
    assert answer.startswith(b"HTTP/1.1 404")
    assert b'"code":"not_found"' in answer


def test_the_command_writes_what_nginx_takes(tmp_path: Path) -> None:
    certificate, key = proxy_file.sign(tmp_path)
    (tmp_path / "live.pem").symlink_to(certificate)
    command = [sys.executable, proxy_file.__file__, str(tmp_path), "--public-url", "https://lathe.example.com/"]
    command += ["--certificate", str(tmp_path / "live.pem"), "--key", str(key)]
    command += ["--http", "127.0.0.1:8080", "--https", "127.0.0.1:8443"]
    told = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    assert os.access(told.strip(), os.X_OK)
    subprocess.run(["nginx", "-e", "stderr", "-t", "-c", tmp_path / "nginx.conf"], check=True, capture_output=True)
    assert '"https://lathe.example.com"' in (tmp_path / "public.conf").read_text()
    assert f"{tmp_path}/live.pem;" in (tmp_path / "nginx.conf").read_text()  # a renewal gives the link another file


def test_an_api_that_is_away_is_told_in_the_services_form() -> None:
    with running(free_port()) as made, made.client() as client:
        answer = client.get("/v1/jobs")
        problem(answer, 503, "unavailable")
        assert answer.headers["retry-after"]


@pytest.fixture
def changed(
    request: pytest.FixtureRequest, behind: Service, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Proxy]:
    """The proxy with other figures in the shipped file."""
    shipped, text = tmp_path / "nginx.conf", proxy_file.SHIPPED.read_text()
    for ours, other in request.param.items():
        assert text.count(f" {ours};") == 1
        text = text.replace(f" {ours};", f" {other};")
    shipped.write_text(text)
    monkeypatch.setattr(proxy_file, "SHIPPED", shipped)
    with running(behind.port) as made:
        yield made


LONG = {"client_header_timeout 10s": "client_header_timeout 1h"}
SHORT = {"client_header_timeout 10s": "client_header_timeout 1s", "client_body_timeout 60s": "client_body_timeout 1s"}
FEW = {"limit_conn requests 256": "limit_conn requests 4"}


@pytest.mark.parametrize("changed", [LONG], ids=["patient"], indirect=True)  # so that what is closed is one too many
def test_half_requests_of_one_address_stop_nobody_else(changed: Proxy) -> None:
    def opened(number: int) -> socket.socket:
        made = socket.create_connection(("127.0.0.1", changed.https), source_address=("127.0.0.7", 0), timeout=30)
        with contextlib.suppress(OSError):  # it may have been closed already
            made.sendall(b"GET /v1/jo" if number % 2 else b"\x16\x03\x01\x02\x00\x01")  # half of a handshake, too
        made.setblocking(False)
        return made

    with contextlib.ExitStack() as held:
        sockets = [held.enter_context(opened(number)) for number in range(MOST + 60)]
        wait_for(lambda: sum(map(is_closed, sockets)) == 60)
        with changed.client("127.0.0.8") as client:
            assert client.get("/healthz/live").status_code == 200
    with changed.client("127.0.0.7") as client:
        assert wait_for(lambda: client.get("/healthz/live").status_code == 200)
    assert len(changed.log()) < 1000


def test_a_certificate_that_is_not_trusted_is_said_to_be_that(proxy: Proxy, behind: Service) -> None:
    with Lathe(proxy.url, behind.database.key) as lathe, pytest.raises(Unreachable) as error:
        lathe.job("job_1")
    assert "SSL_CERT_FILE" in error.value.remedy_text


def test_one_that_was_killed_starts_again_in_its_place(behind: Service) -> None:
    with tempfile.TemporaryDirectory(prefix="lathe-proxy-") as place:
        folder, (http, https) = Path(place), (free_port(), free_port())
        for _ in range(2):
            with proxy_file.running(folder, behind.port, http, https) as process:
                wait_for(lambda: answers(f"http://127.0.0.1:{http}/") == 308)
                master = psutil.Process(process.pid)
                for one in (master, *master.children()):
                    one.kill()
            assert (folder / "run" / "plain.sock").exists()


def answers(url: str) -> int | None:
    try:
        return httpx.get(url).status_code
    except httpx.TransportError:
        return None


@pytest.mark.parametrize("changed", [SHORT], ids=["impatient"], indirect=True)
@pytest.mark.parametrize("begun", [b"GET /v1/jo", b"POST /v1/jobs HTTP/1.1\r\nHost: localhost\r\nContent-Length: 9\r\n\r\n{"])
def test_what_stands_still_is_cut_off(changed: Proxy, begun: bytes) -> None:
    with (
        socket.create_connection(("127.0.0.1", changed.https), timeout=30) as raw,
        changed.trust.wrap_socket(raw, server_hostname="localhost", suppress_ragged_eofs=True) as tls,
    ):
        tls.sendall(begun)
        with contextlib.suppress(ConnectionResetError):
            assert b"HTTP/1.1 200" not in b"".join(iter(lambda: tls.recv(65536), b""))


@pytest.mark.parametrize("changed", [FEW], ids=["narrow"], indirect=True)
def test_one_connection_carries_no_more_requests_at_once_than_many_would(changed: Proxy, behind: Service) -> None:
    with changed.client(key=behind.database.key) as client:
        job = submitted(behind, client)
        asked = ["--http2", "--parallel", "--parallel-immediate", f"{changed.url}/v1/jobs/{job}?version=[1-12]"]
        sent = ["-H", f"Authorization: {client.headers['authorization']}", "-H", "Prefer: wait=2"]
        command = ["curl", "-sS", "--cacert", str(changed.folder / "certificate.pem"), *asked, *sent]
        told = subprocess.run([*command, "-w", "\n%{http_code}\n"], check=True, capture_output=True, text=True).stdout
    assert told.count("\n200\n") >= 4
    assert told.count('"code":"too_many_connections"') == told.count("\n503\n") >= 1


def is_closed(made: socket.socket) -> bool:
    try:
        return not made.recv(1, socket.MSG_PEEK)
    except BlockingIOError:
        return False
    except OSError:
        return True
