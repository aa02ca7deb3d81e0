"""Whose turn it is: priority within a team, shares between teams, and what a claim looks at to know."""

import datetime as dt
import re
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack

import pytest
from sqlalchemy import Engine, event, select, text, update
from sqlalchemy.orm import Session

from app.jobs import fair_share, fencing, jobs, queue_forecast
from app.jobs.capacity import Capacity
from app.ops import fleet
from app.store import quotas
from app.store.clock import now
from app.store.models import Job, Team, TeamDay
from tests.app.conftest import NewJob, SessionMaker
from tests.app.jobs.test_jobs import LEASE, must_take, take
from tests.support.rows import submitted


def order(transaction: SessionMaker, number: int) -> list[str]:
    return [must_take(transaction, f"w{n}").job.id for n in range(number)]


def set_team(transaction: SessionMaker, name: str, **values: object) -> None:
    with transaction() as session:
        session.execute(update(Team).where(Team.name == name).values(**values))


def test_priority_counts_within_a_team_only(transaction: SessionMaker, new_job: NewJob) -> None:
    mine = [new_job("modest") for _ in range(2)]
    theirs = [new_job("loud", priority=10) for _ in range(3)]
    urgent = new_job("modest", priority=1)
    # Turns go from team to team, that of the older job first; in each team, the highest priority first.
    assert order(transaction, 6) == [theirs[0].id, urgent.id, mine[0].id, theirs[1].id, mine[1].id, theirs[2].id]


def test_a_team_of_twice_the_weight_has_twice_the_jobs_at_work(transaction: SessionMaker, new_job: NewJob) -> None:
    for _ in range(9):
        new_job("one"), new_job("two")
    set_team(transaction, "two", weight=2.0)
    with transaction() as session:
        names = dict(session.execute(select(Team.id, Team.name)).all())
    taken = [names[must_take(transaction, f"w{n}").job.team_id] for n in range(9)]
    assert (taken.count("one"), taken.count("two")) == (3, 6)


def test_a_team_that_had_the_worker_lately_goes_second(transaction: SessionMaker, new_job: NewJob) -> None:
    new_job("had")
    claim = must_take(transaction)
    with transaction() as session:
        session.execute(update(Job).where(Job.id == claim.job.id).values(claimed_at=now(-3600)))
        jobs.finish(session, claim, {}, [])
    older, younger = new_job("had"), new_job("had not")
    assert order(transaction, 2) == [younger.id, older.id]


@pytest.mark.parametrize("last", ["finished", "failed", "cancelled in the queue"])
def test_hours_are_those_of_attempts_and_not_of_the_waits_between_them(
    last: str, transaction: SessionMaker, new_job: NewJob, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = dt.timedelta(days=15)
    monkeypatch.setattr(quotas, "_month", lambda moment: (moment - whole, moment + whole))  # no new one begins in between
    job = new_job("a")

    def used() -> tuple[float, float]:
        with transaction() as session:
            hours = {one.name: one.used for one in quotas.list_quotas(session, job.team_id).items}["worker_hours"]
            minutes = fleet.usage(session, job.team_id, 30).items[0].worker_minutes
            return hours, round(minutes / 60, 2)

    def attempt(hours: float) -> fencing.Claim:
        claim = must_take(transaction)
        with transaction() as session:
            long_ago = now(-86400)  # it waited since then
            session.execute(update(Job).where(Job.id == job.id).values(claimed_at=now(-3600 * hours), started_at=long_ago))
        return claim

    first = attempt(1.0)
    assert used() == (1.0, 1.0)
    with transaction() as session:
        jobs.release(session, first)
    assert used() == (1.0, 1.0)  # a job that waits again keeps what it used
    second = attempt(0.5)
    assert used() == (1.5, 1.5)
    with transaction() as session:
        if last == "finished":
            jobs.finish(session, second, {}, [])
        elif last == "failed":
            jobs.retry_or_fail(session, second, {"code": "worker_lost"}, max_failures=1, backoff_seconds=0)
        else:
            jobs.release(session, second)
            jobs.cancel(session, job.team_id, job.id)
    assert used() == (1.5, 1.5)
    with transaction() as session:
        assert session.scalars(select(TeamDay.seconds)).all() == [pytest.approx(5400, abs=30)]


def test_a_team_has_no_more_at_work_than_it_may(transaction: SessionMaker, new_job: NewJob) -> None:
    first, second = new_job("small"), new_job("small")
    set_team(transaction, "small", quotas={"jobs_running": 1})
    claim = must_take(transaction)
    assert claim.job.id == first.id
    assert take(transaction) is None
    with transaction() as session:
        assert not jobs.has_waiting_job(session)  # or an idle worker would ring for it all the time
        place = queue_forecast.find_position(session, session.get_one(Job, second.id))
        assert place.waits_for in ("quota", "worker")
        jobs.finish(session, claim, {}, [])
    assert must_take(transaction).job.id == second.id


def test_all_of_one_teams_jobs_go_to_workers_that_ask_at_once(transaction: SessionMaker, new_job: NewJob) -> None:
    wanted = {new_job("alone").id for _ in range(12)}
    with ThreadPoolExecutor(12) as pool:
        claims = list(pool.map(lambda n: take(transaction, f"w{n}"), range(12)))
    assert {claim.job.id for claim in claims if claim} == wanted


def test_a_claim_waits_for_a_job_in_hand(engine: Engine, transaction: SessionMaker, new_job: NewJob) -> None:
    if engine.dialect.name == "sqlite":
        pytest.skip("on SQLite one writes at a time")
    first, second = new_job("alone"), new_job("alone")
    with ThreadPoolExecutor(1) as pool, ExitStack() as held:
        session = held.enter_context(transaction())
        claim = jobs.claim(session, "w1", LEASE)
        waiting = pool.submit(take, transaction, "w2")
        with pytest.raises(TimeoutError):
            waiting.result(0.5)  # its team's first job is in hand: what is next, nobody knows until that is over
        held.close()
        other = waiting.result(60)
    assert [claim.job.id, other.job.id] == [first.id, second.id]


def test_workers_of_two_kinds_take_no_more_than_a_team_may_have(
    engine: Engine, transaction: SessionMaker, new_job: NewJob
) -> None:
    if engine.dialect.name == "sqlite":
        pytest.skip("on SQLite one writes at a time")
    first, second = new_job("small", device="cpu"), new_job("small", device="cuda")
    other = new_job("large", device="cuda", priority=-1)
    set_team(transaction, "small", quotas={"jobs_running": 1})
    kinds: dict[str, Capacity] = {"cpu": Capacity("cpu"), "card": Capacity("cuda")}

    def ask(kind: str) -> str | None:
        with transaction() as session:
            claim = jobs.claim(session, kind, LEASE, kinds[kind])
        return claim.job.id if claim is not None else None

    with ThreadPoolExecutor(1) as pool, ExitStack() as held:
        session = held.enter_context(transaction())
        claim = jobs.claim(session, "cpu", LEASE, kinds["cpu"])
        asked = pool.submit(ask, "card")  # sees no job of the team at work
        with pytest.raises(TimeoutError):
            asked.result(0.5)
        held.close()
        assert asked.result(60) == other.id
    assert claim is not None
    assert claim.job.id == first.id
    assert ask("card") is None
    with transaction() as session:
        assert ("small", 1, 1) in counted(session)
        jobs.finish(session, claim, {}, [])
    assert ask("card") == second.id


def counted(session: Session) -> list[tuple[str, int, int]]:
    rows = session.execute(select(Team.name, Team.queued, Team.running).order_by(Team.name))
    return [(row.name, row.queued, row.running) for row in rows if row.name != "default"]


def test_teams_count_their_jobs_however_rows_are_written(transaction: SessionMaker, new_job: NewJob) -> None:
    made = [new_job("a"), new_job("a"), new_job("b")]
    with transaction() as session:
        assert counted(session) == [("a", 2, 0), ("b", 1, 0)]
    claim = must_take(transaction)
    with transaction() as session:
        assert counted(session) == [("a", 1, 1), ("b", 1, 0)]
        jobs.release(session, claim)
        jobs.cancel(session, made[2].team_id, made[2].id)
    with transaction() as session:
        assert counted(session) == [("a", 2, 0), ("b", 0, 0)]
        session.execute(text("DELETE FROM events"))
        session.execute(text("DELETE FROM jobs"))  # as nobody does but by hand
    with transaction() as session:
        assert counted(session) == [("a", 0, 0), ("b", 0, 0)]


def test_places_are_those_in_which_jobs_are_claimed(transaction: SessionMaker, new_job: NewJob) -> None:
    new_job("b"), new_job("b")
    take(transaction)  # b has one at work
    made = [new_job(team, priority=int(priority)) for team, priority in zip("aabbcabbca", "0301000200", strict=True)]
    set_team(transaction, "c", weight=2.0)
    with transaction() as session:
        waiting = session.scalars(select(Job).where(Job.state == "queued").order_by(Job.id)).all()
        places = queue_forecast.find_positions(session, waiting)
        told = sorted((place.position, job) for job, place in places.items())
    assert len(told) == len(made) + 1
    assert [position for position, _ in told] == list(range(1, len(told) + 1))
    assert order(transaction, len(told)) == [job for _, job in told]


def plan(engine: Engine, ask: Callable[[Session], object]) -> str:
    """What PostgreSQL does for each statement of `ask`."""
    found: list[tuple[str, object]] = []
    with Session(engine) as session:
        event.listen(engine, "before_cursor_execute", lambda _c, _k, statement, given, *_: found.append((statement, given)))
        ask(session)
        session.rollback()
    shown = []
    with engine.connect() as connection:
        raw = connection.connection.cursor()
        raw.execute("SET enable_seqscan = on")
        for statement, given in found:
            if re.match(r"(SELECT|WITH|UPDATE)", statement):
                raw.execute("EXPLAIN (ANALYZE, COSTS OFF, TIMING OFF, SUMMARY OFF) " + statement, given)
                shown += [row[0] for row in raw.fetchall()]
        connection.rollback()
    return "\n".join(shown)


def test_a_claim_and_a_place_look_at_no_whole_queue(engine: Engine, transaction: SessionMaker) -> None:
    if engine.dialect.name == "sqlite":
        pytest.skip("the plan is told as PostgreSQL tells it")
    with transaction() as session:
        for team in range(20):
            job = submitted(session, f"t{team}")
            same = "team_id, name, labels, task, model_id, dataset_id, recipe, evaluate, targets, state, created_at"
            copies = (
                f"INSERT INTO jobs (id, {same}, priority, version, event_seq, attempt, fence, failures)"
                f" SELECT id || '_' || lpad(n::text, 4, '0'), {same}, n % 3, 1, 0, 0, 0, 0"
                " FROM jobs, generate_series(1, 200) n WHERE id = :job"
            )
            session.execute(text(copies), {"job": job.id})
    with transaction() as session:
        last = session.scalars(select(Job).where(Job.state == "queued").order_by(Job.id.desc())).first()
        assert last is not None
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.execute(text("VACUUM ANALYZE"))
    claim = fair_share.next_job().with_for_update(skip_locked=True, of=fair_share.ChosenJob)
    asked: dict[str, Callable[[Session], object]] = {
        "claim": lambda session: session.scalar(claim),
        "place": lambda session: queue_forecast.find_position(session, last),
    }
    for what, ask in asked.items():
        shown = plan(engine, ask)
        rows = [int(float(found)) * int(loops) for found, loops in re.findall(r"rows=([\d.]+) loops=(\d+)", shown)]
        assert max(rows) < 1000, f"{what} looks at many of 4,020 waiting jobs:\n{shown}"
        assert "Seq Scan on jobs" not in shown, f"{what}:\n{shown}"


def test_the_owner_of_the_database_changes_weight_and_limits(transaction: SessionMaker, new_job: NewJob) -> None:
    new_job("a")
    with transaction() as session:
        found = quotas.change_quotas(session, "a", {"weight": 3, "jobs_waiting": 5})
        assert (found.weight, {one.name: one.limit for one in found.items}["jobs_waiting"]) == (3, 5)
        again = quotas.change_quotas(session, "a", {"jobs_waiting": None})
        assert {one.name: one.limit for one in again.items}["jobs_waiting"] == quotas.default_limit("jobs_waiting")
        for wrong in ({"weight": 0}, {"jobs": 1}, {"streams": -1}, {"streams": 1.5}):
            with pytest.raises(ValueError, match=r"limit|weight"):
                quotas.change_quotas(session, "a", dict(wrong))
