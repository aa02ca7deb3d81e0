"""What there is to choose from and who works: recipes, families, workers, the queue."""

from typing import Any

from fastapi import APIRouter
from sqlalchemy import func, select

from app.clock import now
from app.deps import CallerDep, ReadDep
from app.models import QUEUED, RUNNING, Job, Worker
from app.preflight import resolve_recipe
from app.schemas import Page, WorkerOut
from compression.catalog import FAMILIES
from compression.recipe import PRESETS, Recipe

router = APIRouter(prefix="/v1", tags=["reference"])
ALIVE_SECONDS = 30.0


@router.get("/recipes")
def recipes(_caller: CallerDep) -> dict[str, Any]:
    """The presets, each a whole recipe, and the JSON schema of all recipes."""
    items = [
        {"name": name, "summary": summary, "recipe": recipe.model_dump(mode="json")}
        for name, (recipe, summary) in PRESETS.items()
    ]
    return {"items": items, "next_page_token": None, "schema": Recipe.model_json_schema()}


@router.post("/recipes/check")
def check_recipe(body: dict[str, Any], _caller: CallerDep) -> dict[str, Any]:
    """Check a recipe by itself, and answer it whole, with what it leaves out. A model and data are a job's `validate_only`."""
    return {"recipe": resolve_recipe(body, ()).model_dump(mode="json")}


@router.get("/families", response_model=Page)
def families(_caller: CallerDep) -> Page:
    """The model families that Lathe can take apart."""
    return Page(items=[family.model_dump(mode="json") for family in FAMILIES.values()])


@router.get("/workers", response_model=Page)
def workers(session: ReadDep, caller: CallerDep) -> Page:
    """Who works, on what machine, and when it was last heard of; `job` where it is one of the caller's team."""
    alive = (Worker.seen_at > now(-ALIVE_SECONDS)).label("alive")
    mine = Job.team_id == caller.team
    running = select(Job.id).where(Job.worker_id == Worker.id, Job.state == RUNNING, mine).limit(1).scalar_subquery()
    rows = session.execute(select(Worker, alive, running).order_by(Worker.seen_at.desc()).limit(200)).all()
    same = ("id", "kind", "host", "pid", "facts", "drain", "started_at", "seen_at")
    return Page(
        items=[
            WorkerOut(**{name: getattr(worker, name) for name in same}, alive=bool(living), job=job)
            for worker, living, job in rows
        ]
    )


@router.get("/queue")
def queue(session: ReadDep, _caller: CallerDep) -> dict[str, int]:
    """How many jobs wait and run, of all teams."""
    counts = dict(
        session.execute(select(Job.state, func.count()).where(Job.state.in_((QUEUED, RUNNING))).group_by(Job.state)).all()
    )
    return {QUEUED: counts.get(QUEUED, 0), RUNNING: counts.get(RUNNING, 0)}
