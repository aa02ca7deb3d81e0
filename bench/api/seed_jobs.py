"""Fills a database with a busy team's jobs: most succeeded, with a report of usual size; some failed, a few run or wait."""

import datetime as dt
import json
import random
from typing import Any

from sqlalchemy import insert, select, text
from sqlalchemy.orm import Session

from app.core.ids import new_id
from app.store.db import make_engine
from app.store.models import Dataset, Event, Job, Model, Team
from compression.schema.recipe.presets import PRESETS
from compression.schema.recipe.recipe import Evaluate, Targets
from compression.schema.report.layer_ranges import LayerRange
from compression.schema.report.measurements import Latency, Parameters, Row, Score, Shape, Size
from compression.schema.report.ratios import ratios
from compression.schema.report.report import Artifact, Report, verdicts
from compression.schema.stages import STAGES

RUNNING, WAITING, FAILED = 5, 5, 0.05
TASK = "text-classification"
LAYERS = 36


def _rows(parameters: int) -> tuple[Row, ...]:
    score = Score(
        metric="accuracy",
        value=0.9,
        standard_error=0.01,
        value_at_batch_32=0.9,
        rows=872,
        metrics={},
        rows_changed_by_batching=0,
        chance=0.5,
    )
    timed = Latency(
        median_ms=6.4,
        p95_ms=7.0,
        spread_ms=0.3,
        baseline_median_ms=16.0,
        baseline_p95_ms=17.0,
        runs=200,
        batch=1,
        length=128,
        threads=1,
        runtime="onnxruntime",
    )
    base = (Parameters(total=22_000_000, embedding=12_000_000, other=10_000_000), _size(90_000_000, "float32"), score)
    own = (Parameters(total=parameters, embedding=7_000_000, other=parameters - 7_000_000), _size(14_000_000, "int8"), score)
    layers = tuple(
        LayerRange(
            layer=f"bert.encoder.layer.{number // 6}.part.{number % 6}",
            largest=9.0,
            percentile=2.0,
            ratio=4.5,
            beyond=0.001,
            levels_used=0.4,
            broken=False,
        )
        for number in range(LAYERS)
    )
    return tuple(
        Row(
            stage=stage,
            artifact=f"{stage}-onnx",
            shape=Shape(layers=6, hidden=384, heads=12, ffn=1536, vocabulary=30522),
            parameters=own[0],
            size=own[1],
            latency=timed,
            score=score,
            flops=1_400_000_000,
            peak_memory_bytes=120_000_000,
            ratios=ratios(base, own, timed),
            seconds=120.0,
            ranges=layers,
        )
        for stage in STAGES
    )


def report(parameters: int) -> Report:
    """Return a report of four rows, with the ranges of as many layers as a small encoder has."""
    rows = _rows(parameters)
    artifact = Artifact(
        name=rows[-1].artifact,
        kind="onnx",
        stage="distilled",
        precision="int8",
        files=(),
        score=rows[-1].score,
        opens_with="onnxruntime",
    )
    return Report(
        task=TASK,
        labels=("negative", "positive"),
        rows=rows,
        headline=artifact.name,
        headlines={},
        sensitivity={},
        ratios=rows[-1].ratios,
        targets=Targets(),
        verdicts=verdicts(rows[-1], Targets()),
        artifacts=(artifact,),
        recipe=PRESETS["standard"][0],
        splits={},
        pruning=None,
        environment={"torch": "2.13"},
    )


ROWS = text(
    "INSERT INTO metrics (job_id, stage, position, fence, parameters, size_bytes, latency_ms, score, seconds, row, created_at) "
    "SELECT jobs.id, told.row->>'stage', told.place - 1, 1, (told.row->'parameters'->>'total')::bigint, "
    "(told.row->'size'->>'bytes')::bigint, (told.row->'latency'->>'median_ms')::float, (told.row->'score'->>'value')::float, "
    "(told.row->>'seconds')::float, told.row, now() "
    "FROM jobs CROSS JOIN jsonb_array_elements(CAST(:rows AS jsonb)) WITH ORDINALITY AS told(row, place) "
    "WHERE jobs.id = ANY(:ids) AND told.place <= :most"
)
ENDED = text(
    "UPDATE jobs SET state = :state, report = CAST(:report AS jsonb), error = CAST(:error AS jsonb), finished_at = now() "
    "WHERE id = ANY(:ids)"
)
FAILURE = {"code": "unseen_label", "cause": "c", "remedy": "r"}


def fill(url: str, number: int) -> list[str]:
    """Store jobs of the first team; return the ids of those that run."""
    engine, chance = make_engine(url), random.Random(0)
    told = report(14_000_000).model_dump(mode="json")
    ids: dict[str, list[str]] = {"succeeded": [], "failed": [], "running": [], "queued": []}
    with Session(engine) as session, session.begin():
        team = session.scalars(select(Team.id)).one()
        models = [Model(team_id=team, name=f"encoder-{place}", state="ready") for place in range(5)]
        dataset = Dataset(team_id=team, name="reviews", state="ready", task=TASK, data={})
        session.add_all([*models, dataset])
        session.flush()
        jobs = []
        for place in range(number):
            job, state = new_id("job"), _state(number - place, chance)
            ids[state].append(job)
            jobs.append(_job(job, team, models[place % 5].id, dataset.id, place, state))
        session.execute(insert(Job), jobs)
        session.execute(insert(Event), [{"job_id": job["id"], "seq": 1, "type": "queued", "data": {}} for job in jobs])
        # As in life: rows come while a job runs, and its outcome last.
        for state, most in (("succeeded", len(STAGES)), ("failed", 2), ("running", 2)):
            session.execute(ROWS, {"rows": json.dumps(told["rows"]), "ids": ids[state], "most": most})
        ended = {"state": "succeeded", "report": json.dumps(told), "error": None, "ids": ids["succeeded"]}
        session.execute(ENDED, ended)
        session.execute(ENDED, {"state": "failed", "report": None, "error": json.dumps(FAILURE), "ids": ids["failed"]})
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.execute(text("VACUUM ANALYZE"))
    engine.dispose()
    return ids["running"]


def _job(job: str, team: str, model: str, dataset: str, place: int, state: str) -> dict[str, Any]:
    moment = dt.datetime.now(dt.UTC)
    waits = state == "queued"
    return {
        "id": job,
        "team_id": team,
        "name": f"experiment {place}",
        "labels": {"experiment": f"e{place % 50}", "who": f"w{place % 7}"},
        "task": TASK,
        "model_id": model,
        "dataset_id": dataset,
        "recipe": PRESETS["standard"][0].model_dump(mode="json"),
        "evaluate": Evaluate().model_dump(mode="json"),
        "targets": Targets().model_dump(mode="json"),
        "state": "queued" if waits else "running",
        "fence": 1,
        "attempt": 1,
        "event_seq": 1,
        "started_at": None if waits else moment,
        "lease_until": None if waits else moment + dt.timedelta(days=1),
    }


def _state(left: int, chance: random.Random) -> str:
    if left <= WAITING:
        return "queued"
    if left <= WAITING + RUNNING:
        return "running"
    return "failed" if chance.random() < FAILED else "succeeded"


def _size(size: int, dtype: str) -> Size:
    return Size(bytes=size, dtype=dtype, bytes_at_16_bit=44_000_000)
