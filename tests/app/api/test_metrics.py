"""/metrics as Prometheus meets it, and what deploy/ makes of it."""

import json
import os
import re
import subprocess
import sys
from functools import partial
from pathlib import Path

import httpx
import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families

from app.core.ids import new_id
from app.ops.metrics import STAGE_BUCKETS
from tests.app.api.conftest import MOMENT, SCRAPE, Json, entry, insert, problem, sql
from tests.conftest import ROOT, Service, fresh_database, started, wait_for

Found = dict[str, dict[tuple[tuple[str, str], ...], float]]


def parsed(text: str) -> Found:
    found: Found = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            found.setdefault(sample.name, {})[tuple(sorted(sample.labels.items()))] = sample.value
    return found


def text_of(service: Service) -> str:
    answer = httpx.get(f"{service.url}/metrics", headers={"Authorization": f"Bearer {SCRAPE}"})
    assert answer.status_code == 200, answer.text
    return answer.text


def scraped(service: Service) -> Found:
    return parsed(text_of(service))


def value(found: Found, name: str, **labels: str) -> float:
    return found.get(name, {}).get(tuple(sorted(labels.items())), 0.0)


def test_requests_are_counted_by_their_route_and_not_by_their_address(service: Service, http: httpx.Client) -> None:
    def counted(status: str) -> float:
        return value(scraped(service), "lathe_http_requests_total", method="GET", route="/v1/jobs/{job_id}", status=status)

    before = counted("404")
    for number in range(3):
        assert http.get(f"/v1/jobs/job_{number}").status_code == 404
    assert http.request("BREW", "/v1/coffee").status_code == 404
    assert counted("404") == before + 3
    found = scraped(service)
    assert value(found, "lathe_http_requests_total", method="OTHER", route="other", status="404") >= 1
    assert not any("job_0" in text for labels in found["lathe_http_requests_total"] for _, text in labels)
    assert value(found, "lathe_http_request_seconds_count", method="GET", route="/v1/jobs/{job_id}") >= 3


def test_a_failure_that_nobody_knows_makes_no_time_series(service: Service, http: httpx.Client, request_body: Json) -> None:
    before = value(scraped(service), "lathe_jobs_failed_total", code="unknown")
    for number in range(3):
        job = http.post("/v1/jobs", json=request_body).json()["id"]
        error = json.dumps({"code": f"secret_{number}", "cause": "said by an engine", "remedy": "none"})
        sql(service, "UPDATE jobs SET state = 'failed', error = %s WHERE id = %s", error, job)
    wait_for(lambda: value(scraped(service), "lathe_jobs_failed_total", code="unknown") == before + 3)
    assert "secret_" not in text_of(service)


def test_an_answer_that_was_asked_to_wait_is_no_slow_answer(service: Service, http: httpx.Client, request_body: Json) -> None:
    job = http.post("/v1/jobs", json=request_body).json()["id"]

    def timed() -> float:
        return value(scraped(service), "lathe_http_request_seconds_count", method="GET", route="/v1/jobs/{job_id}")

    before = timed()
    http.get(f"/v1/jobs/{job}", headers={"Prefer": "wait=1"})
    assert timed() == before
    http.get(f"/v1/jobs/{job}")
    assert timed() == before + 1


def test_figures_are_what_the_database_says(service: Service, http: httpx.Client, request_body: Json) -> None:
    # The figures may be a few seconds old: only now are those of before what the database says.
    depth = partial(value, name="lathe_queue_depth", lane="jobs")
    wait_for(lambda: depth(scraped(service)) == http.get("/v1/queue").json()["queued"])
    before = scraped(service)
    jobs = [http.post("/v1/jobs", json=request_body).json()["id"] for _ in range(3)]
    row = {"position": 2, "fence": 1, "parameters": 1, "size_bytes": 1, "seconds": 45.0, "row": "{}", "created_at": MOMENT}
    insert(service, "metrics", job_id=jobs[1], stage="pruned", **row)
    upload = http.post("/v1/models", json={"name": "given up", "files": [entry("config.json", b"{}")]}).json()["id"]
    sql(service, "UPDATE models SET state = 'validating', deleted_at = %s WHERE id = %s", MOMENT, upload)
    error = json.dumps({"code": "worker_lost"})
    insert(service, "events", job_id=jobs[1], seq=2, type="requeued", data=error, at=MOMENT)
    sql(service, "UPDATE jobs SET state = 'failed', error = %s WHERE id = %s", error, jobs[1])
    sql(service, "UPDATE jobs SET state = 'succeeded', deleted_at = %s WHERE id = %s", MOMENT, jobs[2])

    def grew(name: str, by: float, **labels: str) -> bool:
        return value(scraped(service), name, **labels) - value(before, name, **labels) == by

    wait_for(lambda: grew("lathe_jobs_finished_total", 1, outcome="succeeded"))
    assert grew("lathe_jobs", 1, state="queued")
    assert grew("lathe_queue_depth", 1, lane="jobs")
    assert grew("lathe_queue_depth", 0, lane="checks"), "a deleted upload waits for no check"
    assert grew("lathe_jobs", 0, state="succeeded"), "a deleted job is not there any more"
    assert grew("lathe_jobs_finished_total", 1, outcome="failed")
    assert grew("lathe_jobs_failed_total", 1, code="worker_lost")
    assert grew("lathe_setbacks_total", 1, code="worker_lost")
    assert grew("lathe_lease_losses_total", 2), "one attempt that was made again, and one that was not"
    assert grew("lathe_stage_seconds_sum", 45.0, stage="pruned")
    bucket = "lathe_stage_seconds_bucket"
    assert all(grew(bucket, bound >= 45, stage="pruned", le=str(float(bound))) for bound in STAGE_BUCKETS)
    assert value(scraped(service), "lathe_queue_oldest_seconds", lane="jobs") > 0


def test_a_worker_is_told_of_with_its_silence(service: Service) -> None:
    worker, silent, labels = new_id("wkr"), new_id("wkr"), {"kind": "jobs", "host": "h"}
    for who, minutes in ((worker, 0), (silent, 5)):
        seen = f"now() - interval '{minutes} minutes'"
        if service.database.kind == "sqlite":
            seen = f"strftime('%Y-%m-%d %H:%M:%f000', 'now', '-{minutes} minutes')"
        facts = json.dumps({"memory_bytes": 2**30, "confinement": "bubblewrap"})
        insert(service, "workers", id=who, facts=facts, drain=False, started_at=MOMENT, seen_at=MOMENT, **labels, pid=1)
        sql(service, f"UPDATE workers SET seen_at = {seen} WHERE id = %s", who)

    def told() -> Found | None:
        found = scraped(service)
        known = found.get("lathe_worker_memory_bytes", {})
        return found if any(worker in dict(name).values() for name in known) else None

    found = wait_for(told)
    assert value(found, "lathe_worker_memory_bytes", worker=worker, **labels) == 2**30
    assert value(found, "lathe_worker_heartbeat_age_seconds", worker=worker, **labels) < 60
    assert value(found, "lathe_worker_heartbeat_age_seconds", worker=silent, **labels) >= 300
    assert value(found, "lathe_workers", kind="jobs") == 1
    assert value(found, "lathe_devices", device="CPU", confinement="bubblewrap") == 1


def test_strangers_get_no_figures_wherever_they_seem_to_ask_from(shared: Service, service: Service, tmp_path: Path) -> None:
    keyed = {"Authorization": f"Bearer {service.database.key}"}
    with started(Service(tmp_path / "home", shared.database, shared.broker)) as bare:
        for at in (shared, bare):
            # What nginx's plain `proxy_pass http://127.0.0.1:PORT` sends for a stranger: its own address, and no word of his.
            for headers in ({}, {"Host": f"127.0.0.1:{at.port}"}, {"Host": "localhost"}, {"Authorization": "Bearer"}, keyed):
                problem(httpx.get(f"{at.url}/metrics", headers=headers), 401, "unauthorized")
            with at.client() as operator:  # an admin of the team that runs the service
                assert "lathe_database_up 1.0" in operator.get("/metrics").text
                reader = operator.post("/v1/keys", json={"name": "r", "scope": "write"}).json()["key"]
            with at.client(reader) as other:
                problem(other.get("/metrics"), 401, "unauthorized")
        problem(httpx.get(f"{bare.url}/metrics", headers={"Authorization": f"Bearer {SCRAPE}"}), 401, "unauthorized")
        wrong = {"Authorization": f"Bearer {SCRAPE[:-1]}"}
        problem(httpx.get(f"{shared.url}/metrics", headers=wrong), 401, "unauthorized")
        assert "lathe_database_up 1.0" in text_of(shared)


def test_several_processes_count_together(postgres: str, templates: dict[str, str], valkey: str, tmp_path: Path) -> None:
    (tmp_path / "counts").mkdir()
    with fresh_database("sqlite", postgres, templates, tmp_path) as database:
        settings = {"PROMETHEUS_MULTIPROC_DIR": str(tmp_path / "counts"), "LATHE_METRICS_TOKEN": SCRAPE}
        several = Service(tmp_path / "home", database, valkey, settings=settings)
        several.start("api", "app.server", "--port", str(several.port), "--workers", "2")
        try:
            wait_for(lambda: httpx.get(f"{several.url}/healthz/ready").status_code == 200)
            asked: list[int] = []

            def both_have_answered() -> bool:
                asked.append(httpx.get(f"{several.url}/v1/queue").status_code)
                return len({path.stem.rsplit("_", 1)[1] for path in (tmp_path / "counts").glob("counter_*.db")}) == 2

            wait_for(both_have_answered, every=0.01)
            assert set(asked) == {401}
            labels = {"method": "GET", "route": "/v1/queue", "status": "401"}

            def counted() -> list[float]:
                return [value(scraped(several), "lathe_http_requests_total", **labels) for _ in range(4)]

            wait_for(lambda: counted() == [len(asked)] * 4)  # a process counts an answer once it has sent it
            assert "lathe_queue_depth" in scraped(several)
        finally:
            several.stop()


def test_a_database_that_is_away_costs_its_figures_only(tmp_path: Path) -> None:
    script = "from app.core import logs; from app.ops import metrics; from prometheus_client import generate_latest as told;"
    script += "logs.configure('test'); print(told(metrics.registry()).decode())"
    env = {**os.environ, "LATHE_DATABASE_URL": "postgresql+psycopg://nobody@127.0.0.1:1/none", "LATHE_HOME": str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, env=env, capture_output=True, text=True, check=True)
    found = parsed(done.stdout)
    assert value(found, "lathe_database_up") == 0.0
    assert "lathe_jobs" not in found
    assert found["process_resident_memory_bytes"]


@pytest.mark.parametrize("file", ["prometheus/alerts.yml", "grafana/lathe.json"])
def test_what_deploy_asks_for_is_told(service: Service, http: httpx.Client, file: str) -> None:
    http.get("/v1/queue")
    text = (ROOT / "deploy" / file).read_text()
    if file.endswith(".json"):
        board = json.loads(text)
        asked = [target["expr"] for panel in board["panels"] for target in panel["targets"]]
        assert len({panel["id"] for panel in board["panels"]}) == len(board["panels"]) >= 12
    else:
        rules = [rule for group in yaml.safe_load(text)["groups"] for rule in group["rules"]]
        asked = [rule["expr"] for rule in rules]
        assert len({rule["alert"] for rule in rules}) == len(rules) >= 8
        assert all({"summary", "remedy"} == set(rule["annotations"]) and rule["labels"]["severity"] for rule in rules)
    names = set(re.findall(r"\b(?:lathe|process)_\w+", " ".join(asked)))
    told = set(re.findall(r"^# TYPE (\w+)", text_of(service), re.MULTILINE))
    told |= {f"{name}_{end}" for name in told for end in ("bucket", "sum", "count")}
    assert names - told == set()
    assert names, "nothing is asked for"
