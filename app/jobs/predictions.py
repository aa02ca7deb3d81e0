"""Predictions by a finished job's models: all state transitions, as plain functions. Only this module writes their state.

queued → running → succeeded | failed. A worker of the lane `checks` predicts in a confined child; the API only writes and
reads.
"""

from typing import Any

from sqlalchemy import ColumnElement, func, or_, select, update
from sqlalchemy.orm import Session

from app.core.errors import InvalidRequest, NotFound, NothingToTry, ReportNotReady, TooManyTries
from app.core.failures import describe_failure
from app.jobs import jobs
from app.store import resources
from app.store.broker import CHECKS, wake_after_commit
from app.store.clock import now
from app.store.models import QUEUED, RUNNING, Artifact, Dataset, Job, Metric, Prediction, Team
from compression.schema.prediction_request import FILES, INPUTS, Question, asked_for, unfit_input
from compression.schema.tasks import TASKS
from compression.schema.validation import DataFacts

MOST_WAITING, MOST_A_MINUTE = 4, 30
"""Predictions of a team that may wait, and that it may request per minute: the same workers check others' uploads."""
MAX_ATTEMPTS = 2


def create(session: Session, team: str, job_id: str, part: str, question: Question) -> Prediction:
    """Store a request to predict. Raises NotFound, ReportNotReady, NothingToTry, InvalidRequest, TooManyTries."""
    job = jobs.get(session, team, job_id)
    if job.report is None:
        raise ReportNotReady(f"{job_id} is {job.state}")
    names = [one.name for one in job.parts]
    if part not in (names or [""]):
        cause = f"the job has no part {part!r}; there are: {', '.join(names)}" if names else "the job has one dataset, no parts"
        raise InvalidRequest(cause, param="part")
    dataset = session.get_one(Dataset, find_dataset(job, part))
    _check(session, team, dataset, question)
    # Locked: simultaneous requests would not see each other.
    session.execute(select(Team.id).where(Team.id == team).with_for_update(key_share=True))
    recent = select(func.count()).select_from(Prediction).where(Prediction.team_id == team, Prediction.created_at > now(-60))
    waiting = (
        select(func.count()).select_from(Prediction).where(Prediction.team_id == team, Prediction.state.in_((QUEUED, RUNNING)))
    )
    if (session.scalar(waiting) or 0) >= MOST_WAITING or (session.scalar(recent) or 0) >= MOST_A_MINUTE:
        raise TooManyTries(f"{MOST_WAITING} predictions at once and {MOST_A_MINUTE} per minute are allowed")
    row = Prediction(team_id=team, job_id=job.id, part=part, asked=question.model_dump(mode="json", exclude_none=True))
    session.add(row)
    session.flush()
    session.refresh(row)
    wake_after_commit(session, CHECKS)
    return row


def find_dataset(job: Job, part: str) -> str:
    """Return the id of the dataset of a part's models."""
    return next((one.dataset_id for one in job.parts if one.name == part), job.dataset_id)


def _check(session: Session, team: str, dataset: Dataset, question: Question) -> None:
    """Check a request against the inputs of the task."""
    task: Any = dataset.task
    wanted = asked_for(task, paired=bool((dataset.data.get("columns") or {}).get("text_pair")))
    if not wanted:
        whom = "language models" if TASKS[task].generates else task
        raise NothingToTry(f"predictions are not available for {whom}")
    given = {name for name in INPUTS if getattr(question, name) is not None}
    if question.row is not None:
        if given:
            raise InvalidRequest("give either a row of the data or its inputs", param="row")
        resources.get(session, Dataset, team, dataset.id, param="row")
        rows = DataFacts.model_validate(dataset.facts).rows
        if question.row >= rows.get(question.split, 0):
            there = ", ".join(f"{name} ({count} rows)" for name, count in rows.items() if name != "unlabelled")
            raise InvalidRequest(f"{question.split} has no row {question.row}; the data has: {there}", param="row")
        return
    if (param := unfit_input(task, wanted, given)) is not None:
        raise InvalidRequest(f"{task} is asked by {' and '.join(wanted)}, or by the number of a row", param=param)


def get(session: Session, team: str, job_id: str, try_id: str) -> Prediction:
    """Return one of the team's predictions. Raises NotFound."""
    row = session.scalar(
        select(Prediction).where(Prediction.id == try_id, Prediction.job_id == job_id, Prediction.team_id == team)
    )
    if row is None:
        raise NotFound(f"no try {try_id} of {job_id}")
    return row


def artifact_names(session: Session, row: Prediction) -> tuple[str, str]:
    """Return the names of the two artifacts: the baseline's, and the one that the report recommends. Raises NotFound."""
    job = session.get_one(Job, row.job_id)
    first = session.scalar(select(Metric.row).where(Metric.job_id == job.id, Metric.stage == "baseline"))
    if job.report is None or first is None:
        raise NotFound(f"{job.id} has no baseline and no headline")
    if not row.part:
        return str(first["artifact"]), str(job.report["headline"])
    return str(first["parts"][row.part]["artifact"]), str(job.report["headlines"][row.part])


def artifacts(session: Session, row: Prediction) -> list[Artifact]:
    """Return the two artifacts, the baseline first. Raises NotFound if one was deleted."""
    found = {one.name: one for one in session.scalars(select(Artifact).where(Artifact.job_id == row.job_id))}
    wanted = artifact_names(session, row)
    if missing := [name for name in wanted if name not in found]:
        raise NotFound(f"{row.job_id} has no artifact {missing[0]}")
    return [found[name] for name in wanted]


# For workers.


def _due() -> ColumnElement[bool]:
    return or_(Prediction.state == QUEUED, (Prediction.state == RUNNING) & (Prediction.lease_until < now()))


def has_waiting_prediction(session: Session) -> bool:
    """Return whether a prediction waits for a worker."""
    return session.scalar(select(Prediction.id).where(_due()).limit(1)) is not None


def claim(session: Session, lease_seconds: float) -> Prediction | None:
    """Claim the oldest prediction; None if there is none. One that lost several workers fails and is not tried again."""
    wanted = select(Prediction.id).where(_due()).order_by(Prediction.id).limit(1).with_for_update(skip_locked=True)
    row = session.scalar(
        update(Prediction)
        .where(Prediction.id == wanted.scalar_subquery())
        .values(state=RUNNING, attempt=Prediction.attempt + 1, lease_until=now(lease_seconds))
        .returning(Prediction)
        .execution_options(synchronize_session=False, populate_existing=True)
    )
    if row is not None and row.attempt > MAX_ATTEMPTS:
        finish(session, row, error=describe_failure("answer_failed", f"{MAX_ATTEMPTS} workers were lost over it."))
        return claim(session, lease_seconds)
    return row


def renew(session: Session, row: Prediction, lease_seconds: float) -> bool:
    """Extend the lease while files are fetched; return False if another attempt has taken over, or the row is gone."""
    mine = update(Prediction).where(Prediction.id == row.id, Prediction.state == RUNNING, Prediction.attempt == row.attempt)
    renewed = mine.values(lease_until=now(lease_seconds)).returning(Prediction.id)
    return session.scalar(renewed.execution_options(synchronize_session=False)) is not None


def finish(
    session: Session, row: Prediction, *, result: dict[str, Any] | None = None, error: dict[str, Any] | None = None
) -> bool:
    """Write the result or the error; return False if another attempt has taken over, or the row is gone.

    The row forgets the files that were asked about.
    """
    asked = {name: value for name, value in row.asked.items() if name not in FILES}
    state = "failed" if error else "succeeded"
    done = session.execute(
        update(Prediction)
        .where(Prediction.id == row.id, Prediction.state == RUNNING, Prediction.attempt == row.attempt)
        .values(state=state, asked=asked, result=result, error=error, finished_at=now(), lease_until=None)
        .returning(Prediction.id)
        .execution_options(synchronize_session=False)
    )
    return done.scalar() is not None
