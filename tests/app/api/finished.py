"""Jobs that have ended well, as if a worker had done them, and their pages as a browser would find them."""

from html.parser import HTMLParser
from typing import Any

import httpx

from compression.schema.report.layer_ranges import LayerRange
from compression.schema.report.measurements import NotMeasured, Remedy, Row, StageVerdict
from compression.schema.report.report import Report
from compression.schema.report.sensitivity import Sensitivity
from tests.app.api.conftest import Json, insert, sql
from tests.client.figures import report
from tests.conftest import Service

HOSTILE = "<script>alert(1)</script>\"'&"
MOMENT = "2026-02-03 04:05:06.000000"


class Page(HTMLParser):
    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []
        self.text = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += attrs

    def handle_data(self, data: str) -> None:
        self.text += data


def add_row(service: Service, job: str, position: int, row: Row) -> None:
    figures = {"parameters": row.parameters.total, "size_bytes": row.size.bytes}
    figures |= {"latency_ms": getattr(row.latency, "median_ms", None), "score": getattr(row.score, "value", None)}
    made = {"fence": 1, "row": row.model_dump_json(), "created_at": MOMENT}
    insert(service, "metrics", job_id=job, stage=row.stage, position=position, **figures, **made)


def end_well(service: Service, job: str, found: str) -> None:
    """End a job with a report, after four minutes."""
    statement = "UPDATE jobs SET state = 'succeeded', report = %s, started_at = %s, finished_at = %s WHERE id = %s"
    sql(service, statement, found, MOMENT.replace("04:05:06", "04:01:00"), MOMENT, job)


def end_with(service: Service, job: str, found: Report) -> None:
    for position, row in enumerate(found.rows):
        add_row(service, job, position, row)
    end_well(service, job, found.model_dump_json())


def done(service: Service, http: httpx.Client, body: Json, found: Report | None = None, **more: Any) -> str:
    job = str(http.post("/v1/jobs", json={**body, **more}).json()["id"])
    end_with(service, job, found or report())
    return job


def hostile_report() -> Report:
    """A report in which every text that a job may bring is a script."""
    remedy = Remedy(key="recipe.distill.epochs", now=HOSTILE, proposed=HOSTILE, why=HOSTILE)
    verdict = StageVerdict(met=(), missed=("retention",), best_before="quantized", worse_than="quantized", remedies=(remedy,))
    layer = LayerRange(layer=HOSTILE, largest=9.0, percentile=1.0, ratio=9.0, beyond=0.01, levels_used=0.05, broken=True)
    point, unknown = Sensitivity(ratio=0.1, taken=0.1, parameters=1, score=0.7), NotMeasured(not_measured=HOSTILE)
    changes = {"notes": (HOSTILE,), "verdict": verdict, "ranges": (layer,), "flops": unknown, "peak_memory_bytes": unknown}
    *rows, last = report().rows
    return report(
        rows=(*rows, last.model_copy(update=changes)),
        labels=(HOSTILE, "b"),
        choice=HOSTILE,
        notes=(HOSTILE,),
        sensitivity={HOSTILE: (point, point)},
        environment={HOSTILE: HOSTILE},
        pruning={HOSTILE: {"before": 4, "after": 2, "asked": 0.5, "taken": 0.5}},
    )
