"""One request followed through API, worker and engine: by its id in their logs, and as one trace."""

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import ROOT, Database, Service, wait_for
from tests.support.examples import TINY_RECIPE, send_data, send_model, tiny_model, tiny_splits
from tests.workers.test_whole import finished

PARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


@pytest.fixture
def service(database: Database, valkey: str, tmp_path: Path) -> Iterator[Service]:
    settings = {"LATHE_TRACES": f"file:{tmp_path / 'spans.jsonl'}", "LATHE_LEASE_SECONDS": "20"}
    made = Service(tmp_path / "home", database, valkey.replace("/0", "/9"), settings=settings)
    made.start_api()
    made.start_workers("checks", "jobs", "keeper")
    yield made
    made.stop()


def lines(text: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in text.splitlines() if line]


@pytest.mark.parametrize("database", ["postgresql"], indirect=True)
def test_a_request_is_followed_to_the_engine_and_back(service: Service, tmp_path: Path) -> None:
    with service.client() as http:
        model, data = send_model(http, tiny_model(tmp_path / "tiny")), send_data(http, tiny_splits())
        recipe = {**TINY_RECIPE, "prune": None, "distill": None, "artifacts": []}
        body = {"models": {"base": model["id"]}, "datasets": [data["id"]], "recipe": recipe}
        job = http.post("/v1/jobs", json=body, headers={"X-Request-Id": "nightly-42", "traceparent": PARENT}).json()
        assert job["request_id"] == "nightly-42"
        assert finished(http, job["id"])["state"] == "succeeded", service.log("jobs")
        # The worker logs and traces that once it has cleaned up, after the outcome is written.
        wait_for(lambda: '"name": "attempt"' in (tmp_path / "spans.jsonl").read_text())
        again = http.post(f"/v1/jobs/{job['id']}/retry", headers={"X-Request-Id": "by-hand"}).json()
        assert again["request_id"] == "by-hand", "a retry is another request's"
        http.post(f"/v1/jobs/{again['id']}/cancel")

    asked = [line for line in lines(service.log("api")) if line.get("request_id") == "nightly-42"]
    assert [(line["event"], line["method"], line["status"]) for line in asked] == [("request", "POST", 202)]
    worked = [line for line in lines(service.log("jobs")) if line.get("job") == job["id"]]
    assert {line["request_id"] for line in worked} == {"nightly-42"}
    happened = [line["event"] for line in worked]
    assert (happened[0], happened[-1]) == ("attempt", "succeeded")
    assert happened.count("stage_started") == happened.count("stage_finished") == 2
    assert "engine_started" in happened, "what the engine says comes with the job's and the request's id too"
    trace = PARENT.split("-")[1]
    assert {line["trace_id"] for line in [*asked, *worked]} == {trace}

    def spans() -> list[dict[str, Any]]:
        return [span for span in lines((tmp_path / "spans.jsonl").read_text()) if span["context"]["trace_id"] == f"0x{trace}"]

    found = {span["name"]: span for span in spans()}
    stages = [f"stage {name}" for name in ("baseline", "quantized")]
    assert set(found) == {"POST /v1/jobs", "attempt", *stages}
    request, attempt = found["POST /v1/jobs"], found["attempt"]
    assert request["parent_id"] == f"0x{PARENT.split('-')[2]}"
    assert attempt["parent_id"] == request["context"]["span_id"]
    assert {found[name]["parent_id"] for name in stages} == {attempt["context"]["span_id"]}
    assert attempt["attributes"]["lathe.request_id"] == "nightly-42"
    names = [span["resource"]["attributes"]["service.name"] for span in (request, attempt)]
    assert names == ["lathe-api", "lathe-worker-jobs"]


def test_a_library_s_line_is_json_too(tmp_path: Path) -> None:
    script = "import logging; from app.core import logs; logs.configure('test');"
    (line,) = lines(run(script + "logging.getLogger('some.library').warning('%s is odd', 7)", tmp_path).stderr)
    assert {line[key] for key in ("event", "level", "logger")} == {"7 is odd", "warning", "some.library"}
    assert "trace_id" not in line


@pytest.mark.parametrize("place", ["nowhere", "file:/no/such/folder/spans"])
def test_traces_that_go_nowhere_are_told_at_the_start(place: str, tmp_path: Path) -> None:
    done = run("from app.core import logs; logs.configure('test')", tmp_path, LATHE_TRACES=place)
    assert done.returncode != 0
    assert place.removeprefix("file:") in done.stderr


def test_without_traces_nothing_of_them_is_imported(tmp_path: Path) -> None:
    done = run("import sys, app.main; print(any('opentelemetry.sdk' in name for name in sys.modules))", tmp_path)
    assert done.stdout.split() == ["False"], done.stderr


def run(script: str, home: Path, **settings: str) -> subprocess.CompletedProcess[str]:
    env = {**Service(home, Database("sqlite", "", ""), "").env, **settings}
    env["LATHE_DATABASE_URL"] = f"sqlite:///{home / 'lathe.db'}"
    return subprocess.run([sys.executable, "-c", script], cwd=ROOT, env=env, capture_output=True, text=True, check=False)
