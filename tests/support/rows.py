"""Rows that tests store by themselves, without the API."""

from collections.abc import Callable
from typing import Any, TypeVar

from sqlalchemy import select
from sqlalchemy.orm import Session

from app.jobs import fencing, jobs
from app.store.db import writing
from app.store.models import Dataset, Job, Model, Team

T = TypeVar("T")
TASK = "text-classification"
ASKED: dict[str, Any] = {"name": "j", "task": TASK, "recipe": {}, "evaluate": {}, "targets": {}}


def team(session: Session, name: str = "default") -> Team:
    """Return the team of a name, made if need be."""
    found = session.scalar(select(Team).where(Team.name == name))
    if found is None:
        found = Team(name=name)
        session.add(found)
        session.flush()
    return found


def ready(session: Session, owner: Team) -> tuple[Model, Dataset]:
    """Store a model and a dataset that jobs can name; neither has a file."""
    model = Model(team_id=owner.id, name="m", state="ready")
    dataset = Dataset(team_id=owner.id, name="d", state="ready", task=TASK, data={})
    session.add_all([model, dataset])
    session.flush()
    return model, dataset


def submitted(session: Session, team_name: str = "default", **values: Any) -> Job:
    owner = team(session, team_name)
    model, dataset = ready(session, owner)
    return jobs.submit(session, Job(team_id=owner.id, model_id=model.id, dataset_id=dataset.id, **{**ASKED, **values}))


def do(act: Callable[..., T], *arguments: Any, **options: Any) -> T:
    """Do one thing in a transaction of this process's own database."""
    with writing() as session:
        return act(session, *arguments, **options)


def claimed(lease: float = 60) -> fencing.Claim:
    claim = do(jobs.claim, "w", lease)
    assert claim is not None
    return claim
