"""The protocol of jobs as a state machine: hypothesis draws what callers, workers and the keeper do, in any order.

Beside the database goes a model in plain Python (world.py has both). After each step plain SQL must show what the model says;
a write whose fence is old must be refused and leave every row as it was. Workers that lost their jobs keep their claims here,
and go on writing with them. CI runs the same examples each time; for others, and more, name a number:

    LATHE_TEST_EXAMPLES=2000 python -m pytest tests/app/jobs/test_protocol.py
"""

import os
from functools import partial
from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, settings, strategies as st
from hypothesis.stateful import Bundle, consumes, invariant, multiple, rule, run_state_machine_as_test

from app.core.errors import NotFound, WrongState
from app.core.failures import describe_failure
from app.jobs import fencing, jobs, stage_results
from app.store.models import Job
from compression.schema.stages import STAGES
from tests.conftest import Database
from tests.support.protocol_world import CAP, TEAMS, Machine, Told, World
from tests.support.rows import ASKED
from tests.support.unmeasured import unmeasured

LONG = 3600
TERMINAL = {"succeeded", "failed", "cancelled"}
WORKERS = ("w1", "w2", "w3")
EXAMPLES = os.environ.get("LATHE_TEST_EXAMPLES")
SETTINGS = settings(
    max_examples=int(EXAMPLES or 50),
    stateful_step_count=40,
    derandomize=EXAMPLES is None,
    database=None,
    deadline=None,
    suppress_health_check=list(HealthCheck),
)
FILES = [{"path": "x", "size": 1, "sha256": "0" * 64}]


class Protocol(Machine):
    """Callers, workers and the keeper, and what must hold whatever they do."""

    known = Bundle("known")
    claims = Bundle("claims")

    # Callers.

    @rule(target=known, team=st.sampled_from(TEAMS), priority=st.integers(0, 2), deadline=st.booleans())
    def submit(self, team: str, priority: int, deadline: bool) -> str:
        team_id, model, dataset = self.world.owners[team]
        asked = {**ASKED, "priority": priority, "deadline_seconds": LONG if deadline else None}
        with self.session() as session:
            stored = jobs.submit(session, Job(team_id=team_id, model_id=model, dataset_id=dataset, **asked))
        self.told[stored.id] = Told(stored.id, team, priority, deadline)
        return stored.id

    @rule(job=known)
    def cancel(self, job: str) -> None:
        told = self.told[job]
        expected = NotFound if told.deleted else WrongState if told.state in {"succeeded", "failed"} else None
        if expected:
            self.refused(expected, lambda session: jobs.cancel(session, self.world.owners[told.team][0], job))
            return
        with self.session() as session:
            jobs.cancel(session, self.world.owners[told.team][0], job)
        if told.state == "queued":
            told.end("cancelled")
        elif told.state == "running" and not told.asked:
            told.asked = True
            told.events.append("cancel_requested")

    @rule(target=known, job=known)
    def retry(self, job: str) -> Any:
        told = self.told[job]
        if told.deleted or told.state not in TERMINAL:
            expected = NotFound if told.deleted else WrongState
            self.refused(expected, lambda session: jobs.retry(session, self.world.owners[told.team][0], job))
            return multiple()
        with self.session() as session:
            again = jobs.retry(session, self.world.owners[told.team][0], job)
        self.told[again.id] = Told(again.id, told.team, told.priority, told.deadline)
        return again.id

    @rule(job=known)
    def remove(self, job: str) -> None:
        told = self.told[job]
        if told.deleted or told.state not in TERMINAL:
            expected = NotFound if told.deleted else WrongState
            self.refused(expected, lambda session: jobs.delete_job(session, self.world.owners[told.team][0], job))
            return
        with self.session() as session:
            jobs.delete_job(session, self.world.owners[told.team][0], job)
        told.deleted = True
        told.saved.clear()

    # Workers.

    @rule(target=claims, worker=st.sampled_from(WORKERS))
    def claim(self, worker: str) -> Any:
        """A wake-up; as many may come as like to."""
        runnable = [job for job in self.told.values() if job.state == "queued" and not job.waits and not job.late]
        busy = {team: sum(job.state == "running" for job in self.told.values() if job.team == team) for team in TEAMS}
        used = dict(self.read("SELECT team_id, SUM(seconds) FROM team_days GROUP BY team_id"))
        recent = {team: used.get(self.world.owners[team][0], 0.0) for team in TEAMS}
        lines = [[job for job in runnable if job.team == team] for team in TEAMS]
        first = [min(line, key=lambda job: (-job.priority, job.id)) for line in lines if line]
        runnable = sorted(first, key=lambda job: (busy[job.team], recent[job.team], job.id))
        with self.session() as session:
            got = jobs.claim(session, worker, LONG)
        assert (got.job.id if got else None) == (runnable[0].id if runnable else None)
        if got is None:
            return multiple()
        job = runnable[0]
        job.state, job.worker, job.fence, job.dead = "running", worker, job.fence + 1, False
        job.events.append("claimed")
        assert got.fence == job.fence
        return got

    @rule(worker=st.sampled_from(WORKERS))
    def come_back(self, worker: str) -> None:
        """A worker's process starts anew: what it held, it holds no more."""
        held = [job for job in self.told.values() if job.state == "running" and job.worker == worker]
        with self.session() as session:
            taken = jobs.requeue_orphans(session, worker, max_failures=CAP, backoff_seconds=0)
        assert sorted(taken) == sorted(job.id for job in held)
        for job in held:
            job.set_back(backoff=0)

    @rule(claim=claims)
    def heartbeat(self, claim: fencing.Claim) -> None:
        beats: list[jobs.Heartbeat] = []

        def then(job: Told) -> None:
            job.dead = False
            assert (beats[0].cancel, beats[0].overdue) == (job.asked, job.late)

        self.write(claim, lambda session: beats.append(jobs.heartbeat(session, claim, LONG, progress={"step": 1})), then)

    @rule(claim=claims, number=st.integers(1, 2))
    def record(self, claim: fencing.Claim, number: int) -> None:
        self.write_once(claim, f"r{number}", "log", partial(jobs.record_event, kind="log", data={}))

    @rule(claim=claims, number=st.integers(1, 2))
    def training_saved(self, claim: fencing.Claim, number: int) -> None:
        act = partial(stage_results.record_training, prefix="p", files=FILES, data={})
        self.write_once(claim, f"t{number}", "training_saved", act, lambda job: job.saved.add("training"))

    @rule(claim=claims, stage=st.sampled_from(STAGES))
    def stage_finished(self, claim: fencing.Claim, stage: str) -> None:
        def then(job: Told) -> None:
            job.stages.add(stage)
            job.saved = {*job.saved, stage} - {"training"}

        act = partial(stage_results.record_stage, row=unmeasured(stage), prefix="p", checkpoint=FILES, artifacts=[])
        self.write_once(claim, f"s{stage}", "stage_finished", act, then)

    @rule(claim=claims)
    def finish(self, claim: fencing.Claim) -> None:
        job = self.told[claim.job.id]
        made = (job.state, job.fence) == ("succeeded", claim.fence)
        act = partial(jobs.finish, claim=claim, report={"by": claim.fence}, artifacts=[])
        self.write(claim, act, lambda job: job.end("succeeded"), made=made)

    @rule(claim=claims)
    def fail(self, claim: fencing.Claim) -> None:
        act = partial(jobs.fail, claim=claim, error=describe_failure("worker_error"))
        self.write(claim, act, lambda job: job.end("failed"))

    @rule(claim=claims)
    def cancelled(self, claim: fencing.Claim) -> None:
        self.write(claim, lambda session: jobs.mark_cancelled(session, claim), lambda job: job.end("cancelled"))

    @rule(claim=claims)
    def release(self, claim: fencing.Claim) -> None:
        def then(job: Told) -> None:
            job.dead = False
            if job.asked:
                job.end("cancelled")
                return
            job.state, job.worker = "queued", None
            job.events.append("released")

        self.write(claim, lambda session: jobs.release(session, claim), then)

    @rule(claim=claims, backoff=st.sampled_from([0, LONG]))
    def setback(self, claim: fencing.Claim, backoff: int) -> None:
        again = {"error": describe_failure("engine_crashed"), "max_failures": CAP, "backoff_seconds": backoff}
        act = partial(jobs.retry_or_fail, claim=claim, **again)
        self.write(claim, act, lambda job: job.set_back(backoff=backoff))

    @rule(claim=consumes(claims))
    def forget(self, claim: fencing.Claim) -> None:
        """A worker is gone for good: it writes no more, not even late."""

    # Time, and the keeper.

    @rule(job=known)
    def lease_runs_out(self, job: str) -> None:
        if self.told[job].state == "running":
            self.sql("lease_until", job)
            self.told[job].dead = True

    @rule(job=known)
    def back_off_ends(self, job: str) -> None:
        if self.told[job].waits:
            self.sql("not_before", job)
            self.told[job].waits = False

    @rule(job=known)
    def deadline_passes(self, job: str) -> None:
        if self.told[job].deadline and self.told[job].state not in TERMINAL:
            self.sql("deadline_at", job)
            self.told[job].late = True

    @rule(backoff=st.sampled_from([0, LONG]))
    def reap(self, backoff: int) -> None:
        dead = [job for job in self.told.values() if job.state == "running" and job.dead]
        with self.session() as session:
            reaped = jobs.requeue_expired(session, max_failures=CAP, backoff_seconds=backoff)
        assert sorted(reaped) == sorted(job.id for job in dead)
        for job in dead:
            job.set_back(backoff=backoff)

    @rule()
    def expire(self) -> None:
        late = [job for job in self.told.values() if job.state == "queued" and job.late]
        with self.session() as session:
            assert sorted(jobs.fail_overdue(session)) == sorted(job.id for job in late)
        for job in late:
            job.end("failed")

    # What must hold.

    @invariant()
    def rows_are_as_told(self) -> None:
        """No job is lost, none is made of nothing, and each is where the model has it."""
        found = self.read("SELECT id, state, fence, attempt, failures, worker_id, event_seq, deleted_at FROM jobs ORDER BY id")
        assert [(r[0], *r[1:5]) for r in found] == [
            (job.id, job.state, job.fence, job.fence, job.failures) for _, job in sorted(self.told.items())
        ]
        for job_id, state, _, _, failures, worker, seq, deleted in found:
            job = self.told[job_id]
            assert failures <= CAP
            assert seq == len(job.events)
            assert (deleted is not None) == job.deleted
            if state in {"queued", "running"}:
                assert worker == job.worker

    @invariant()
    def teams_count_their_jobs(self) -> None:
        """Triggers keep count of what waits and what runs, whichever way a job went."""
        held = {self.world.owners[team][0]: team for team in TEAMS}
        for owner, queued, running in self.read("SELECT id, queued, running FROM teams"):
            states = [job.state for job in self.told.values() if job.team == held.get(owner)]
            assert (queued, running) == (states.count("queued"), states.count("running"))

    @invariant()
    def events_are_as_told(self) -> None:
        """1 … n, each once; one terminal event where there is an outcome, and none before."""
        told = [(job.id, seq, kind) for _, job in sorted(self.told.items()) for seq, kind in enumerate(job.events, start=1)]
        assert self.read("SELECT job_id, seq, type FROM events ORDER BY job_id, seq") == told
        for job in self.told.values():
            assert [kind for kind in job.events if kind in TERMINAL] == ([job.state] if job.state in TERMINAL else [])

    @invariant()
    def stages_are_as_told(self) -> None:
        """Metrics and checkpoints are those that holders wrote, each once."""
        for table, kept in (("metrics", "stages"), ("checkpoints", "saved")):
            told = sorted((job.id, stage) for job in self.told.values() for stage in getattr(job, kept))
            assert sorted(self.read(f"SELECT job_id, stage FROM {table}")) == told

    @invariant()
    def outcomes_stay(self) -> None:
        """State, error, report and metrics of a job that is over are what they were when it ended."""
        over = "('succeeded', 'failed', 'cancelled')"
        ends = self.read(f"SELECT id, state, error, report, finished_at FROM jobs WHERE state IN {over}")
        rows = self.read(f"SELECT m.* FROM metrics m JOIN jobs j ON j.id = m.job_id WHERE j.state IN {over} ORDER BY 1, 2")
        for job_id, *outcome in ends:
            job, now = self.told[job_id], (outcome, [r for r in rows if r[0] == job_id])
            assert outcome[-1] is not None
            job.final = job.final or now
            assert now == job.final


def test_whatever_happens_in_whatever_order_a_job_keeps_its_promises(database: Database, tmp_path: Path) -> None:
    world = World(database, tmp_path)
    try:
        run_state_machine_as_test(partial(Protocol, world), settings=SETTINGS)  # type: ignore[arg-type]  # any callable will do
    finally:
        world.engine.dispose()
