"""A minimal FastAPI handler with one query, the baseline for polling a job: `uvicorn bench.api.minimal_app:app`.

It is FastAPI's own tutorial: one session per request, one SELECT of one row with a job's columns, and its JSON. It has no keys,
no teams, no problem documents and no log.
"""

import os
from collections.abc import Iterator
from typing import Annotated, Any

from fastapi import Depends, FastAPI
from sqlalchemy import create_engine, select
from sqlalchemy.orm import Session

from app.store.models import Job

app = FastAPI()
engine = create_engine(os.environ["LATHE_DATABASE_URL"].replace("postgresql://", "postgresql+psycopg://"))
COLUMNS = [column for column in Job.__table__.columns if column.name != "report"]


def get_session() -> Iterator[Session]:
    """Yield one session per request."""
    with Session(engine) as session:
        yield session


@app.get("/jobs/{job_id}")
def show(job_id: str, session: Annotated[Session, Depends(get_session)]) -> dict[str, Any]:
    """Read one row."""
    return dict(session.execute(select(*COLUMNS).where(Job.id == job_id)).mappings().one())
