"""Fair share: which team's job is claimed next.

Priority counts within a team. Between teams, the one with the fewest running jobs per weight goes first; then the one with the
fewest worker hours per weight since yesterday; then the one whose first job is oldest. Triggers count each team's waiting jobs,
and an index has its first one, so that a claim costs the same however long the queues are.
"""

from dataclasses import dataclass
from typing import Any

from sqlalchemy import ColumnElement, Select, func, or_, select
from sqlalchemy.orm import Session, aliased

from app.jobs.capacity import Capacity
from app.store.clock import now
from app.store.models import QUEUED, Job, Team, TeamDay
from app.store.quotas import limit_expression

RECENT_SECONDS = 2 * 24 * 3600.0
"""Days that began within so long (today and yesterday) count against a team."""
ChosenJob = aliased(Job, name="chosen")
"""The next job, in `next_job`: the row that a claim locks."""
_First = aliased(Job, name="first")


def _due(first: Any) -> tuple[ColumnElement[bool], ...]:
    return (
        first.state == QUEUED,
        first.cancel_requested_at.is_(None),
        or_(first.not_before.is_(None), first.not_before <= now()),
        or_(first.deadline_at.is_(None), first.deadline_at > now()),
    )


def _recent() -> ColumnElement[Any]:
    """Worker seconds of a team's jobs that ended since yesterday, per weight."""
    used = func.coalesce(func.sum(TeamDay.seconds), 0.0)
    mine = (TeamDay.team_id == Team.id, TeamDay.day > now(-RECENT_SECONDS))
    return select(used).where(*mine).correlate(Team).scalar_subquery() / Team.weight


def next_job(capacity: Capacity | None = None) -> Select[str]:
    """Return the query for the next job of a worker with this capacity; None: of one that takes any."""
    mine = (_First.team_id == Team.id, *_due(_First), *(capacity.conditions(_First) if capacity is not None else ()))
    first = select(_First.id).where(*mine).order_by(_First.priority.desc(), _First.id).limit(1).correlate(Team)
    teams = (
        select(first.scalar_subquery().label("job"), (Team.running / Team.weight).label("share"), _recent().label("recent"))
        .where(Team.queued > 0, Team.running < limit_expression("jobs_running"))
        .cte("teams_waiting")
    )
    return (
        select(ChosenJob.id)
        .join(teams, teams.c.job == ChosenJob.id)
        .order_by(teams.c.share, teams.c.recent, ChosenJob.id)
        .limit(1)
        .correlate(None)
    )


def hold_place(session: Session, job_id: str) -> bool:
    """Lock the row of a chosen job's team; return whether the team may still have one more running job.

    Workers of different kinds choose different jobs of a team at once: neither waits for the other's job, and each has seen
    the count of before.
    """
    free = (Job.id == job_id, Job.state == QUEUED, Team.running < limit_expression("jobs_running"))
    place = select(Team.id).join(Job, Job.team_id == Team.id).where(*free)
    return session.scalar(place.with_for_update(key_share=True, of=Team)) is not None


@dataclass(frozen=True)
class TeamQueue:
    """A team's waiting jobs, and what decides its order among teams."""

    team: str
    queued: int
    running: int
    weight: float
    recent: float
    """Worker seconds that it used since yesterday, per weight."""
    full: bool
    """Whether it has as many running jobs as it may."""

    def share(self, ahead: int) -> float:
        """Return its share after so many of its waiting jobs have been claimed."""
        return (self.running + ahead) / self.weight

    def before(self, share: float) -> tuple[int, bool]:
        """Return how many of its waiting jobs surely precede that share, and whether the next one has the same share."""
        exact = share * self.weight - self.running
        whole = max(0, round(exact))
        if abs(whole - exact) > 1e-9:  # no share of this team equals that one
            return min(self.queued, max(0, int(exact) + (exact > 0))), False
        return min(self.queued, whole), whole < self.queued


def waiting_teams(session: Session) -> dict[str, TeamQueue]:
    """Return the queues of all teams with waiting jobs, by team."""
    full = Team.running >= limit_expression("jobs_running")
    query = select(Team.id, Team.queued, Team.running, Team.weight, _recent(), full).where(Team.queued > 0)
    return {row[0]: TeamQueue(*row) for row in session.execute(query)}


def ranks(session: Session, team: str, ids: list[str]) -> dict[str, int]:
    """Return how many jobs of their own team precede each of these jobs."""
    number = func.row_number().over(order_by=(Job.priority.desc(), Job.id)).label("number")
    line = select(Job.id, number).where(Job.team_id == team, Job.state == QUEUED).subquery()
    return {row.id: row.number - 1 for row in session.execute(select(line).where(line.c.id.in_(ids)))}


def nth_jobs(session: Session, wanted: dict[int, set[str]]) -> dict[tuple[str, int], str]:
    """Return the id of each team's nth waiting job (from 0). wanted: n → teams."""
    found = {}
    for number, teams in wanted.items():
        mine = (_First.team_id == Team.id, _First.state == QUEUED)
        nth = select(_First.id).where(*mine).order_by(_First.priority.desc(), _First.id).offset(number).limit(1).correlate(Team)
        rows = session.execute(select(Team.id, nth.scalar_subquery()).where(Team.id.in_(sorted(teams))))
        found.update({(row[0], number): row[1] for row in rows if row[1] is not None})
    return found
