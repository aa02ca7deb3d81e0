"""The page that runs a finished job's original and compressed model side by side."""

from typing import Any

from fastapi import APIRouter, Request, Response
from sqlalchemy.orm import Session

from app.api.dependencies import ReadDep
from app.api.job_list import WITHOUT_ROWS, JobFilter, filter_jobs
from app.jobs import jobs
from app.jobs.predictions import find_dataset
from app.pages.dashboard.views import PageRoute, VisitorDep, render
from app.store.models import Dataset, Job
from compression.schema.prediction_request import INPUTS, LARGEST_IMAGE, asked_for
from compression.schema.tasks import TASKS

router = APIRouter(include_in_schema=False, route_class=PageRoute)
MOST = 100


def parts_of(session: Session, job: Job) -> list[dict[str, Any]]:
    """Return the input fields and the row counts of each dataset of a job."""
    found = []
    for name in [part.name for part in job.parts] or [""]:
        dataset = session.get_one(Dataset, find_dataset(job, name))
        task: Any = dataset.task
        paired = bool((dataset.data.get("columns") or {}).get("text_pair"))
        fields = [(one, INPUTS[one]) for one in asked_for(task, paired=paired)]
        rows = {} if dataset.deleted_at else (dataset.facts or {}).get("rows", {})
        there = {split: rows[split] for split in ("test", "validation", "train") if rows.get(split)}
        found.append({"name": name, "task": task, "fields": fields, "rows": there})
    return found


PREDICTS = (*(task.name for task in TASKS.values() if task.asks), "several")
"""Tasks of the jobs that predict single rows."""


@router.get("/try")
def try_page(request: Request, session: ReadDep, visitor: VisitorDep, job: str = "", part: str = "") -> Response:
    """Show the choice of a job, and the form of its inputs."""
    finished = filter_jobs(visitor.team, JobFilter(state=["succeeded"])).where(Job.task.in_(PREDICTS))
    rows = session.scalars(finished.options(*WITHOUT_ROWS).order_by(Job.id.desc()).limit(MOST)).all()
    chosen = jobs.get(session, visitor.team, job) if job else next(iter(rows), None)
    parts = parts_of(session, chosen) if chosen is not None and chosen.state == "succeeded" else []
    taken = next((one for one in parts if one["name"] == part), parts[0] if parts else None)
    others = [one for one in rows if chosen is None or one.id != chosen.id]
    listed = [(one.id, one.name) for one in ([chosen] if chosen is not None else []) + others]
    context: dict[str, Any] = {"jobs": listed, "job": chosen, "parts": parts, "part": taken, "most": LARGEST_IMAGE}
    return render(request, "try.html", visitor, here="try", **context)
