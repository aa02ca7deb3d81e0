"""The audit of dependencies is green only where each was asked for; the list of what is installed is whole and valid."""

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest

from scripts import audit, sbom
from tests.conftest import free_port

WANTED = {"uvicorn": "0.54.0", "typing_extensions": "4.16.0"}
CANARY = {"name": "django", "version": "1.8", "vulns": [{"id": "PYSEC-1", "fix_versions": ["1.9"]}]}
FINE = [{"name": "uvicorn", "version": "0.54.0", "vulns": []}, {"name": "typing-extensions", "version": "4.16.0", "vulns": []}]

KNOWN = {**FINE[0], "vulns": [{"id": "GHSA-1", "fix_versions": []}]}


@pytest.mark.parametrize(
    ("told", "code", "word"),
    [
        (None, audit.NOT_CHECKED, "not checked"),
        ([CANARY, *FINE], audit.FINE, "nothing is known of 2 packages"),
        (FINE, audit.NOT_CHECKED, "not checked"),
        ([{**CANARY, "vulns": []}, *FINE], audit.NOT_CHECKED, "does not know"),
        ([CANARY, FINE[0]], audit.NOT_CHECKED, "not checked: typing_extensions"),
        ([CANARY, FINE[0], {"name": "typing-extensions", "skip_reason": "not found"}], audit.NOT_CHECKED, "typing_extensions"),
        ([CANARY, KNOWN, FINE[1]], audit.FOUND, "uvicorn==0.54.0: GHSA-1"),
    ],
)
def test_the_audit_is_green_only_where_all_was_asked_for(told: list[dict[str, Any]] | None, code: int, word: str) -> None:
    found, lines = audit.judge(None if told is None else {"dependencies": told}, WANTED)
    assert found == code
    assert word in "\n".join(lines)


def test_what_builds_and_images_add_is_audited_too() -> None:
    assert {"hatchling", "onnxruntime-gpu", "nvidia-ml-py"} <= set(audit.pins())


def test_the_lock_is_what_is_audited() -> None:
    assert len(audit.pins()) > 150
    assert not [name for name in ("torch", "torchvision") if "+" in audit.pins()[name]]


class Source(BaseHTTPRequestHandler):
    """Speaks as OSV does. It knows of one package only, or of none."""

    knows = ("django",)

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        name = body["package"]["name"]
        affected = {"package": {"ecosystem": "PyPI", "name": name}, "versions": [body["version"]], "ranges": []}
        found = {"id": "PYSEC-1", "summary": "s", "modified": "2026-01-01T00:00:00Z", "affected": [affected]}
        answer = json.dumps({"vulns": [found]} if name in self.knows else {}).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@pytest.fixture
def source() -> Iterator[str]:
    server = HTTPServer(("127.0.0.1", 0), Source)
    threading.Thread(target=server.serve_forever).start()
    yield f"http://127.0.0.1:{server.server_port}/"
    server.shutdown()
    server.server_close()


def test_the_real_tool_s_report_is_understood(source: str, monkeypatch: pytest.MonkeyPatch) -> None:
    assert audit.judge(audit.asked(WANTED, source)[0], WANTED)[0] == audit.FINE
    monkeypatch.setattr(Source, "knows", ("django", "uvicorn"))
    assert audit.judge(audit.asked(WANTED, source)[0], WANTED)[0] == audit.FOUND
    monkeypatch.setattr(Source, "knows", ())
    assert audit.judge(audit.asked(WANTED, source)[0], WANTED)[0] == audit.NOT_CHECKED
    report, last = audit.asked(WANTED, f"http://127.0.0.1:{free_port()}/")
    assert audit.judge(report, WANTED)[0] == audit.NOT_CHECKED
    assert "refused" in last


def test_the_list_of_what_is_installed_is_whole(tmp_path: Path) -> None:
    assert sbom.main(tmp_path / "bill.json") == 0
    bill = json.loads((tmp_path / "bill.json").read_text())
    assert bill["bomFormat"] == "CycloneDX"
    assert {"torch", "uvicorn"} <= {each["name"] for each in bill["components"]}
    assert bill["metadata"]["component"]["name"] == "lathe"
