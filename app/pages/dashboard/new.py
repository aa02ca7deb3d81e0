"""The page of a new job: model, data, recipe and forecast."""

from collections import Counter
from datetime import UTC
from typing import Any

from fastapi import APIRouter, Request, Response
from sqlalchemy import select
from sqlalchemy.orm import Session

from app.api.dependencies import ReadDep
from app.pages.dashboard.views import PageRoute, VisitorDep, render
from app.store.models import Dataset, Model
from app.store.resources import MOST_FILES, READY
from compression.schema.job_spec import Columns
from compression.schema.recipe.presets import PRESETS
from compression.schema.specs import FOLDER
from compression.schema.tasks import FORMATS, MODALITIES, suffixes_of

router = APIRouter(include_in_schema=False, route_class=PageRoute)
MOST = 200


def ready(session: Session, kind: type[Model] | type[Dataset], team: str) -> list[tuple[str, str, Any, str]]:
    """List ready models or datasets, newest first: id, name, facts, and what tells those of one name apart."""
    columns = select(kind.id, kind.name, kind.facts, kind.created_at)
    query = columns.where(kind.team_id == team, kind.state == READY, kind.deleted_at.is_(None))
    rows = session.execute(query.order_by(kind.id.desc()).limit(MOST)).all()
    names = Counter(row.name for row in rows)
    mark = " · {:%Y-%m-%d %H:%M} UTC, {}"
    return [
        (row.id, row.name, row.facts, mark.format(row.created_at.astimezone(UTC), row.id) if names[row.name] > 1 else "")
        for row in rows
    ]


@router.get("/new")
def new(request: Request, session: ReadDep, visitor: VisitorDep, model: str = "", data: str = "") -> Response:
    """Show the form. A script of the page adds the recipe's fields from the schema at /v1/recipes."""
    return render(
        request,
        "new.html",
        visitor,
        here="new",
        models=ready(session, Model, visitor.team),
        datasets=ready(session, Dataset, visitor.team),
        wanted={"model": model, "data": data},
        presets={name: summary for name, (_, summary) in PRESETS.items()},
        tasks=[(modality.name, task) for modality in MODALITIES.values() for task in modality.tasks],
        columns={name: field.default for name, field in Columns.model_fields.items()},
        suffixes={name: suffixes_of(name) for name in FORMATS},
        by_class=FOLDER,
        most_files=MOST_FILES,
    )
