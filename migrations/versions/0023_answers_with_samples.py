"""Artifacts' answers to rows of the data lie with these rows, and go with the dataset."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import sqlalchemy as sa
from alembic import op

revision = "0023"
down_revision = "0022"
branch_labels = None
depends_on = None

JOBS = sa.table("jobs", sa.column("id", sa.String), sa.column("report", sa.JSON), sa.column("samples", sa.JSON))
ARTIFACTS = sa.table("artifacts", sa.column("id", sa.String), sa.column("facts", sa.JSON))
ANSWERS = "/answers"
PAGE = 100
FINAL = "jobs_outcome_is_final"


@contextmanager
def _outcomes_open() -> Iterator[None]:
    """Let reports of finished jobs be written, which a trigger refuses otherwise."""
    connection = op.get_bind()
    if connection.dialect.name == "sqlite":
        created = connection.execute(sa.text("SELECT sql FROM sqlite_master WHERE name = :name"), {"name": FINAL}).scalar_one()
        op.execute(f"DROP TRIGGER {FINAL}")
        yield
        connection.exec_driver_sql(created)
    else:
        op.execute(f"ALTER TABLE jobs DISABLE TRIGGER {FINAL}")
        yield
        op.execute(f"ALTER TABLE jobs ENABLE TRIGGER {FINAL}")


def _pages(table: sa.TableClause, wanted: sa.ColumnElement[bool]) -> Iterator[Any]:
    last = ""
    while (
        rows := op.get_bind().execute(sa.select(table).where(table.c.id > last, wanted).order_by(table.c.id).limit(PAGE)).all()
    ):
        yield from rows
        last = rows[-1].id


def _write(table: sa.TableClause, row: Any, **values: Any) -> None:
    op.get_bind().execute(sa.update(table).where(table.c.id == row.id).values(**values))


def _is_told(column: sa.ColumnElement[Any]) -> sa.ColumnElement[bool]:
    return sa.cast(column, sa.Text).like('%"answers"%')


def upgrade() -> None:
    with _outcomes_open():
        _move_to_samples()
    for row in _pages(ARTIFACTS, _is_told(ARTIFACTS.c.facts)):
        if isinstance(row.facts, dict) and "answers" in row.facts:
            _write(ARTIFACTS, row, facts={name: value for name, value in row.facts.items() if name != "answers"})


def downgrade() -> None:
    with _outcomes_open():
        _move_to_reports()


def _move_to_samples() -> None:
    for row in _pages(JOBS, _is_told(JOBS.c.report)):
        if not isinstance(row.report, dict):
            continue
        artifacts = row.report.get("artifacts") or []
        found = {one["name"]: one["answers"] for one in artifacts if one.get("answers")}
        if found:
            report = {**row.report, "artifacts": [{**one, "answers": []} for one in artifacts]}
            # Without samples the dataset was deleted, and its rows with it.
            _write(JOBS, row, report=report, **({"samples": {**row.samples, ANSWERS: found}} if row.samples else {}))


def _move_to_reports() -> None:
    for row in _pages(JOBS, sa.cast(JOBS.c.samples, sa.Text).like(f'%"{ANSWERS}"%')):
        samples = dict(row.samples)
        found = samples.pop(ANSWERS)
        artifacts = [{**one, "answers": found.get(one["name"], [])} for one in row.report["artifacts"]]
        _write(JOBS, row, report={**row.report, "artifacts": artifacts}, samples=samples or None)
