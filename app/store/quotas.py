"""Quotas: what a team may use of the service, how much it uses, and the problem it gets beyond that.

The settings have the defaults (LATHE_QUOTA_…); a team's row has its own: `python -m app.quotas TEAM jobs_waiting=50 weight=2`.
"""

import datetime as dt
from typing import Annotated, Literal, get_args

from pydantic import BaseModel, Field
from sqlalchemy import ColumnElement, case, func, literal, or_, select, update
from sqlalchemy.orm import Session

from app.core.errors import BytesQuotaExceeded, Problem, QuotaExceeded
from app.core.event_streams import count_streams
from app.core.settings import get_settings
from app.store.clock import UtcTime, now, seconds_between
from app.store.db import reading
from app.store.models import QUEUED, RUNNING, Artifact, Checkpoint, Dataset, File, Job, Model, Profile, Team, TeamDay
from app.store.reservations import reserved_bytes
from compression.schema.tables_files import TABLES

Name = Literal[
    "jobs_waiting", "jobs_running", "worker_hours", "bytes_stored", "bytes_arriving", "files", "streams", "profiles_waiting"
]
NAMES: tuple[Name, ...] = get_args(Name)
WEIGHT = "weight"


class Quota(BaseModel):
    """One limit of a team, and how much of it is used."""

    name: Name
    limit: int
    used: float
    frees: Annotated[str, Field(description="What makes room again.")]
    frees_at: Annotated[dt.datetime | None, Field(description="When that happens by itself; null if it needs action.")] = None


class QuotasOut(BaseModel):
    """The limits of the caller's team, and how much of each is used."""

    weight: Annotated[float, Field(description="The team's share of the workers, relative to other teams' weights.")]
    items: list[Quota]


FREES: dict[Name, str] = {
    "jobs_waiting": "a place becomes free when a job starts or is cancelled",
    "jobs_running": "jobs beyond it wait until one of the team ends",
    "worker_hours": "hours restart each month (UTC); those of an attempt at a job count in the month in which it ends",
    "bytes_stored": "delete models, datasets or jobs",
    "bytes_arriving": "uploads free theirs when they end or receive nothing for a minute",
    "files": "delete models or datasets",
    "streams": "close a stream",
    "profiles_waiting": "a place becomes free when a device begins one; removing a device fails those that wait for it",
}


def default_limit(name: Name) -> int:
    """Return the limit of a team without its own."""
    return int(getattr(get_settings(), f"quota_{name}"))


def limit_expression(name: Name) -> ColumnElement[int]:
    """Return a team's limit as a SQL expression over teams."""
    return func.coalesce(Team.quotas[name].as_integer(), default_limit(name))


def _limit(team: Team, name: Name) -> int:
    return int((team.quotas or {}).get(name, default_limit(name)))


def _row(session: Session, team: str, *, hold: bool = True) -> tuple[Team, dt.datetime]:
    """Return a team's row and the time; lock it until the commit: only one of two requests gets the last of something."""
    query = select(Team, now()).where(Team.id == team).execution_options(populate_existing=True)
    row, moment = session.execute(query.with_for_update(key_share=True, of=Team) if hold else query).one()
    return row, moment


def _month(moment: dt.datetime) -> tuple[dt.datetime, dt.datetime]:
    """Return the start of a time's month, and of the next month."""
    begun = moment.replace(day=1, hour=0, minute=0, second=0, microsecond=0)
    return begun, (begun + dt.timedelta(days=32)).replace(day=1)


def worker_seconds() -> ColumnElement[float]:
    """Return a job's worker seconds until now, as a SQL expression over jobs: of its attempts, not of waits between them."""
    begun = func.coalesce(Job.claimed_at, Job.started_at)
    runs = (Job.state == RUNNING) & (begun < now())
    return Job.worker_seconds + case((runs, seconds_between(begun, now())), else_=0.0)


def _hours(session: Session, team: Team, since: dt.datetime) -> float:
    """Return the worker hours of attempts that ended since then, and of running ones, counted from then at the earliest."""
    begun = literal(since, UtcTime())
    queries = [select(func.sum(TeamDay.seconds)).where(TeamDay.team_id == team.id, TeamDay.day >= begun)]
    if team.running:
        claimed = func.coalesce(Job.claimed_at, Job.started_at)
        started = case((claimed < begun, begun), else_=claimed)
        going = func.sum(seconds_between(started, now()))
        queries.append(select(going).where(Job.team_id == team.id, Job.state == RUNNING))
    return sum(float(session.scalar(query) or 0.0) for query in queries) / 3600


def _stored(session: Session, team: str) -> int:
    promised = [
        select(func.sum(kind.bytes)).where(kind.team_id == team, kind.deleted_at.is_(None)) for kind in (Model, Dataset)
    ]
    made = select(func.sum(File.size)).join(Artifact, Artifact.id == File.artifact_id).join(Job, Job.id == Artifact.job_id)
    # Error tables stay with their jobs; other checkpoints go when a job ends.
    tables = (Checkpoint.stage == TABLES) | Checkpoint.stage.startswith(f"{TABLES}.")
    files = session.scalars(select(Checkpoint.files).join(Job, Job.id == Checkpoint.job_id).where(Job.team_id == team, tables))
    kept = sum(int(file["size"]) for some in files for file in some)
    return kept + sum(int(session.scalar(query) or 0) for query in (*promised, made.where(Job.team_id == team)))


def admit_job(session: Session, team_id: str) -> None:
    """Admit a job of a team. What jobs under way store may exceed its bytes. Raises QuotaExceeded, BytesQuotaExceeded."""
    team, moment = _row(session, team_id)
    most = _limit(team, "jobs_waiting")
    if team.queued >= most:
        raise _refusal(QuotaExceeded, f"{team.queued} jobs of the team wait", "jobs_waiting", most, team.queued)
    begun, following = _month(moment)
    hours, most = _hours(session, team, begun), _limit(team, "worker_hours")
    if hours >= most:
        used = f"the team used {hours:.1f} worker hours this month"
        raise _refusal(QuotaExceeded, used, "worker_hours", most, round(hours, 1), following)
    kept, most = _stored(session, team_id), _limit(team, "bytes_stored")
    if kept >= most:
        used = f"{kept} bytes are stored or declared, and a job stores more"
        raise _refusal(BytesQuotaExceeded, used, "bytes_stored", most, kept)


def _profiles(session: Session, team: str) -> int:
    query = select(func.count()).select_from(Profile).where(Profile.team_id == team, Profile.state == QUEUED)
    return session.scalar(query) or 0


def admit_profile(session: Session, team_id: str) -> None:
    """Admit one more profile of a team. Raises QuotaExceeded."""
    team = _row(session, team_id)[0]
    waiting, most = _profiles(session, team_id), _limit(team, "profiles_waiting")
    if waiting >= most:
        raise _refusal(QuotaExceeded, f"{waiting} profiles of the team wait", "profiles_waiting", most, waiting)


def _files(session: Session, team: str) -> int:
    counts = (
        select(func.sum(kind.file_count)).where(kind.team_id == team, kind.deleted_at.is_(None)) for kind in (Model, Dataset)
    )
    return sum(int(session.scalar(query) or 0) for query in counts)


def admit_upload(session: Session, team_id: str, files: int, promised: int) -> None:
    """Admit so many more declared files and bytes of a team. Raises QuotaExceeded, BytesQuotaExceeded."""
    team = _row(session, team_id)[0]
    named, most = _files(session, team_id), _limit(team, "files")
    if named + files > most:
        used = f"models and datasets have {named} files, and {files} more are requested"
        raise _refusal(QuotaExceeded, used, "files", most, named)
    kept, most = _stored(session, team_id), _limit(team, "bytes_stored")
    if kept + promised > most:
        used = f"{kept} bytes are stored or declared, and {promised} more are requested"
        raise _refusal(BytesQuotaExceeded, used, "bytes_stored", most, kept)


def admit_arriving(session: Session, team_id: str, coming: int) -> None:
    """Admit so many more incoming bytes of a team. Raises BytesQuotaExceeded."""
    team = _row(session, team_id)[0]
    under_way, most = reserved_bytes(session, team_id), _limit(team, "bytes_arriving")
    if under_way + coming > most:
        used = f"{under_way} bytes are being uploaded, and {coming} more are requested"
        raise _refusal(BytesQuotaExceeded, used, "bytes_arriving", most, under_way)


def _refusal(kind: type[Problem], used: str, name: Name, limit: int, amount: float, at: dt.datetime | None = None) -> Problem:
    frees = FREES[name] if limit else "only the operator can raise the limit"
    one = Quota(name=name, limit=limit, used=amount, frees=frees, frees_at=at if limit else None)
    remedy = f"{frees[0].upper()}{frees[1:]}. GET /v1/quotas shows all limits, which the operator can raise."
    return kind(f"{used}; the team's limit is {limit}", remedy=remedy, facts={"quota": one.model_dump(mode="json")})


def streams_limit(team_id: str) -> int:
    """Return how many streams a team may have open."""
    with reading() as session:
        return _limit(session.get_one(Team, team_id), "streams")


def list_quotas(session: Session, team_id: str) -> QuotasOut:
    """Return all limits of a team, and how much of each is used."""
    team, moment = _row(session, team_id, hold=False)
    begun, following = _month(moment)
    used: dict[Name, float] = {
        "jobs_waiting": team.queued,
        "jobs_running": team.running,
        "worker_hours": round(_hours(session, team, begun), 2),
        "bytes_stored": _stored(session, team_id),
        "bytes_arriving": reserved_bytes(session, team_id),
        "files": _files(session, team_id),
        "streams": count_streams(team_id),
        "profiles_waiting": _profiles(session, team_id),
    }
    frees = {"worker_hours": following}
    items = [Quota(name=n, limit=_limit(team, n), used=used[n], frees=FREES[n], frees_at=frees.get(n)) for n in NAMES]
    return QuotasOut(weight=team.weight, items=items)


def change_quotas(session: Session, name_or_id: str, changes: dict[str, float | None]) -> QuotasOut:
    """Set a team's own limits, or with None restore the defaults; `weight` too. Raises ValueError for unknown names."""
    team = session.scalar(select(Team).where(or_(Team.id == name_or_id, Team.name == name_or_id)))
    if team is None:
        raise ValueError(f"no team {name_or_id!r}")
    if unknown := set(changes) - {*NAMES, WEIGHT}:
        raise ValueError(f"no limit {min(unknown)!r}; there are {', '.join((*NAMES, WEIGHT))}")
    weight = changes.pop(WEIGHT, team.weight)
    weight = 1.0 if weight is None else weight
    if weight <= 0 or any(value is not None and (value < 0 or value % 1) for value in changes.values()):
        raise ValueError("a weight is above 0; a limit is a whole number, 0 or more")
    own = {name: value for name, value in {**(team.quotas or {}), **changes}.items() if value is not None}
    kept = {name: int(value) for name, value in own.items()}
    session.execute(update(Team).where(Team.id == team.id).values(weight=weight, quotas=kept or None))
    session.expire_all()
    return list_quotas(session, team.id)
