"""Jobs as a busy team has them: most have succeeded, with a report of usual size; some failed, a few run, some wait."""

import datetime as dt
import random
from typing import Any

from sqlalchemy import insert, select, text
from sqlalchemy.orm import Session

from app.db import make_engine
from app.ids import new_id
from app.models import Dataset, Event, Job, Metric, Model, Team
from compression.recipe import PRESETS, Evaluate, Targets
from compression.report import (
    STAGES,
    Artifact,
    Latency,
    LayerRange,
    Parameters,
    Report,
    Row,
    Score,
    Shape,
    Size,
    ratios,
    verdicts,
)

RUNNING, WAITING, FAILED = 5, 5, 0.05
TASK = "text-classification"
LAYERS = 36
BATCH = 500


def report(parameters: int) -> Report:
    """Return a report of four rows, with the ranges of as many layers as a small encoder has."""
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
    rows = tuple(
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
    artifact = Artifact(
        name=rows[-1].artifact,
        kind="onnx",
        stage="distilled",
        precision="int8",
        files=(),
        score=score,
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
        verdicts=verdicts(rows[-1].ratios, Targets()),
        artifacts=(artifact,),
        recipe=PRESETS["standard"][0],
        splits={},
        pruning=None,
        environment={"torch": "2.13"},
    )


def fill(url: str, number: int) -> list[str]:
    """Store so many jobs of the first team, the newest of which run; return the ids of those."""
    engine, chance, ids = make_engine(url), random.Random(0), []
    moment = dt.datetime.now(dt.UTC)
    told = report(14_000_000).model_dump(mode="json")
    with Session(engine) as session, session.begin():
        team = session.scalars(select(Team.id)).one()
        models = [Model(team_id=team, name=f"encoder-{place}", state="ready") for place in range(5)]
        dataset = Dataset(team_id=team, name="reviews", state="ready", task=TASK, data={})
        session.add_all([*models, dataset])
        session.flush()
        for start in range(0, number, BATCH):
            jobs: list[dict[str, Any]] = []
            rows: list[dict[str, Any]] = []
            for place in range(start, min(start + BATCH, number)):
                state = _state(number - place, chance)
                job = new_id("job")
                ids.append(job)
                jobs.append(
                    {
                        "id": job,
                        "team_id": team,
                        "name": f"experiment {place}",
                        "labels": {"experiment": f"e{place % 50}", "who": f"w{place % 7}"},
                        "task": TASK,
                        "model_id": models[place % 5].id,
                        "dataset_id": dataset.id,
                        "recipe": PRESETS["standard"][0].model_dump(mode="json"),
                        "evaluate": Evaluate().model_dump(mode="json"),
                        "targets": Targets().model_dump(mode="json"),
                        "state": state,
                        "report": told if state == "succeeded" else None,
                        "error": {"code": "unseen_label", "cause": "c", "remedy": "r"} if state == "failed" else None,
                        "fence": 1,
                        "attempt": 1,
                        "event_seq": 1,
                        "started_at": None if state == "queued" else moment,
                        "finished_at": moment if state in ("succeeded", "failed") else None,
                        "lease_until": moment + dt.timedelta(days=1) if state == "running" else None,
                    }
                )
                if state != "queued":
                    rows += [_metric(job, row) for row in told["rows"][: 4 if state == "succeeded" else 2]]
            session.execute(insert(Job), jobs)
            session.execute(insert(Event), [{"job_id": job["id"], "seq": 1, "type": "queued", "data": {}} for job in jobs])
            # Rows of a job that is over are final; these belong to history.
            session.execute(text("ALTER TABLE metrics DISABLE TRIGGER metrics_are_final"))
            session.execute(insert(Metric), rows)
            session.execute(text("ALTER TABLE metrics ENABLE TRIGGER metrics_are_final"))
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.execute(text("VACUUM ANALYZE"))
    engine.dispose()
    return ids[-RUNNING - WAITING : -WAITING]


def _state(left: int, chance: random.Random) -> str:
    if left <= WAITING:
        return "queued"
    if left <= WAITING + RUNNING:
        return "running"
    return "failed" if chance.random() < FAILED else "succeeded"


def _metric(job: str, row: dict[str, Any]) -> dict[str, Any]:
    return {
        "job_id": job,
        "stage": row["stage"],
        "position": STAGES.index(row["stage"]),
        "fence": 1,
        "parameters": row["parameters"]["total"],
        "size_bytes": row["size"]["bytes"],
        "latency_ms": row["latency"]["median_ms"],
        "score": row["score"]["value"],
        "seconds": row["seconds"],
        "row": row,
    }


def _size(size: int, dtype: str) -> Size:
    return Size(bytes=size, dtype=dtype, bytes_at_16_bit=44_000_000)
