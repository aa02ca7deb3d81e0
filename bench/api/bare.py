"""A bare FastAPI handler with one query, for `uvicorn bench.api.bare:app`: what polling a job is held against.

It has what FastAPI's own tutorial has, and no key, no team, no problem documents, no log: a session a request, one SELECT of
one row with the columns that a job shows, and its JSON.
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
    """One session a request."""
    with Session(engine) as session:
        yield session


@app.get("/jobs/{job_id}")
def show(job_id: str, session: Annotated[Session, Depends(get_session)]) -> dict[str, Any]:
    """Read one row."""
    return dict(session.execute(select(*COLUMNS).where(Job.id == job_id)).mappings().one())
