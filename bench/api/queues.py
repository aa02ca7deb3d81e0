"""Times claims and places in a short and in a long queue, and writers on SQLite."""

import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path

import httpx
from sqlalchemy import Engine, select, text
from sqlalchemy.orm import Session

from app.jobs import jobs, queue_forecast
from app.store.db import make_engine
from app.store.models import Job
from bench.api.servers import ROOT, Server

TEAMS = 100
ASKED = 20
"""Claims, and places, per side and round."""
FILL = (
    "ALTER TABLE jobs DISABLE TRIGGER USER",  # a hundred thousand times the same hundred rows: counted once instead
    "INSERT INTO teams (id, name, created_at) SELECT 'team_' || n, 'team ' || n, now() FROM generate_series(1, :teams) n",
    "INSERT INTO models (id, team_id, name, state, reasons, created_at, check_attempts)"
    " SELECT 'mdl_' || n, 'team_' || n, 'm', 'ready', '[]', now(), 0 FROM generate_series(1, :teams) n",
    "INSERT INTO datasets (id, team_id, name, state, reasons, created_at, check_attempts, task, data)"
    " SELECT 'dat_' || n, 'team_' || n, 'd', 'ready', '[]', now(), 0, 'text-classification', '{}'"
    " FROM generate_series(1, :teams) n",
    "INSERT INTO jobs (id, team_id, name, labels, task, model_id, dataset_id, recipe, evaluate, targets, priority, state,"
    " version, event_seq, attempt, fence, failures, created_at)"
    " SELECT 'job_' || lpad(n::text, 8, '0'), 'team_' || t, 'j', '{}', 'text-classification', 'mdl_' || t, 'dat_' || t,"
    " '{}', '{}', '{}', (random() * 20)::int - 10, 'queued', 1, 0, 0, 0, 0, now()"
    " FROM (SELECT n, 1 + floor(random() * :teams)::int AS t FROM generate_series(1, :jobs) n) AS made",
    "UPDATE teams SET queued = (SELECT count(*) FROM jobs WHERE jobs.team_id = teams.id AND jobs.state = 'queued')",
    "ALTER TABLE jobs ENABLE TRIGGER USER",
)


def fill(url: str, number: int) -> None:
    """Store waiting jobs of a hundred teams, of any priority."""
    engine = make_engine(url)
    with engine.begin() as connection:
        for statement in FILL:
            wanted = {name: value for name, value in (("teams", TEAMS), ("jobs", number)) if f":{name}" in statement}
            connection.execute(text(statement), wanted)
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.execute(text("VACUUM ANALYZE"))
    engine.dispose()


def compared(urls: dict[str, str], rounds: int) -> dict[str, dict[str, list[float]]]:
    """Claim jobs and find places on each side in turn; return operation → side → seconds."""
    engines = {name: make_engine(url) for name, url in urls.items()}
    chance = random.Random(0)
    waiting = {}
    for name, engine in engines.items():
        with Session(engine) as session:
            waiting[name] = list(session.scalars(select(Job.id).where(Job.state == "queued")))
    found: dict[str, dict[str, list[float]]] = {what: {name: [] for name in urls} for what in ("claim", "place")}

    def claim(session: Session, _job: str) -> None:
        jobs.claim(session, "wkr_bench", 600.0)

    def place(session: Session, job: str) -> None:
        queue_forecast.find_position(session, session.get_one(Job, job))

    for number in range(rounds + 1):
        for name in sorted(engines, reverse=bool(number % 2)):
            for what, act in (("claim", claim), ("place", place)):
                for _ in range(ASKED):
                    seconds = _timed(engines[name], act, chance.choice(waiting[name]))
                    if number:  # the first round warms up
                        found[what][name].append(seconds)
    for engine in engines.values():
        engine.dispose()
    return found


def _timed(engine: Engine, act: Callable[[Session, str], None], job: str) -> float:
    with Session(engine, expire_on_commit=False) as session, session.begin():
        session.execute(text("SELECT 1"))
        started = time.perf_counter()
        act(session, job)
        return time.perf_counter() - started


def median_ms(seconds: list[float]) -> float:
    """Return the median in milliseconds."""
    return statistics.median(seconds) * 1000


# Writers on SQLite


def written(writers: int, seconds: float) -> tuple[list[float], list[int]]:
    """Submit and cancel jobs on SQLite from several clients; return the seconds of each request, and unexpected statuses."""
    with tempfile.TemporaryDirectory(prefix="lathe-bench-writers-", ignore_cleanup_errors=True) as place:
        home = Path(place)
        url = f"sqlite:///{home / 'lathe.db'}"
        environment = {**os.environ, "LATHE_DATABASE_URL": url, "LATHE_HOME": str(home)}
        command = [sys.executable, "-m", "app.bootstrap"]
        made = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, check=True)
        server = Server("app.main:app", url, home, str(json.loads(made.stdout)["key"]))
        server.start("/healthz/ready")
        try:
            return _written(server, url, writers, seconds)
        finally:
            server.kill()


def _written(server: Server, url: str, writers: int, seconds: float) -> tuple[list[float], list[int]]:
    body = ready(server, url)
    took: list[float] = []
    odd: list[int] = []
    end = time.monotonic() + seconds

    def one() -> None:
        with _client(server) as http:
            while time.monotonic() < end:
                made = _asked(http, "/v1/jobs", body, took, odd)
                if made.status_code == 202:
                    _asked(http, f"/v1/jobs/{made.json()['id']}/cancel", None, took, odd)

    threads = [threading.Thread(target=one) for _ in range(writers)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return took, odd


def _asked(http: httpx.Client, path: str, body: object, took: list[float], odd: list[int]) -> httpx.Response:
    started = time.perf_counter()
    answer = http.post(path, json=body)
    took.append(time.perf_counter() - started)
    if answer.status_code != 202:
        odd.append(answer.status_code)
    return answer


def _client(server: Server) -> httpx.Client:
    key = {"Authorization": f"Bearer {server.key}"}
    return httpx.Client(base_url=f"http://127.0.0.1:{server.port}", headers=key, timeout=120)


def ready(server: Server, url: str) -> dict[str, object]:
    """Create a model and a dataset for jobs, as if workers had checked them; return a job's body."""
    facts = {
        "models": {
            "kind": "model",
            "family": "bert",
            "architecture": "BertModel",
            "max_positions": 512,
            "labels": None,
            "shape": {"layers": 6, "hidden": 384, "heads": 12, "ffn": 1536, "vocabulary": 30522},
            "parameters": {"total": 22713216, "embedding": 11917824, "other": 10795392},
            "dtype": "float32",
            "bytes": 90868376,
        },
        "datasets": {
            "kind": "dataset",
            "labels": ["negative", "positive"],
            "mean_words": 12.0,
            "longest_words": 40,
            "rows": {"train": 100, "validation": 20, "test": 20},
            "label_counts": {"train": {"negative": 50, "positive": 50}},
        },
    }
    weights, rows = ({"path": path, "size": 1, "sha256": "0" * 64} for path in ("config.json", "train.jsonl"))
    with _client(server) as http:
        model = http.post("/v1/models", json={"name": "m", "files": [weights]}).json()["id"]
        data = {"name": "d", "format": "jsonl", "splits": {"train": [rows["path"]]}, "files": [rows]}
        dataset = http.post("/v1/datasets", json=data).json()["id"]
    engine = make_engine(url)
    with engine.begin() as connection:
        for table, told in facts.items():
            connection.execute(text(f"UPDATE {table} SET state = 'ready', facts = :facts"), {"facts": json.dumps(told)})
    engine.dispose()
    return {"models": {"base": model}, "datasets": [dataset], "recipe": "quick"}
