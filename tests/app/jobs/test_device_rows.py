"""Rows of a report that devices measure: requested once however often a worker begins, read, and given up in time."""

import pytest
from sqlalchemy import select, update
from sqlalchemy.orm import Session

from app.accounts import devices
from app.jobs import device_rows, fencing, jobs, own_profiles, profiles
from app.store.clock import now
from app.store.models import Artifact, Device, Job, Profile, Team
from compression.schema import profile as contract
from compression.schema.profile import ProfileFailure, ProfileRequest
from compression.schema.recipe.recipe import JobEvaluate
from compression.schema.report.device_rows import DeviceRow
from tests.app.conftest import SessionMaker
from tests.support.profiles import measured
from tests.support.rows import submitted

ASKED = JobEvaluate(devices=("pi", "gone"), batch=2, length=64, threads=3)


def begun(session: Session) -> tuple[fencing.Claim, Device]:
    """A running job with an artifact, in a team with one device."""
    submitted(session)
    claim = jobs.claim(session, "w", 30)
    assert claim is not None
    device = Device(team_id=claim.job.team_id, name="pi")
    session.add_all([Artifact(job_id=claim.job.id, fence=1, name="small", facts={"stage": "quantized"}), device])
    session.flush()
    return claim, device


def request(session: Session, claim: fencing.Claim) -> list[DeviceRow | device_rows.Waiting]:
    return device_rows.request_rows(session, claim, ("small",), ASKED, sequences=True)


def stored(session: Session) -> list[Profile]:
    return list(session.scalars(select(Profile).order_by(Profile.id)))


def test_a_profile_is_requested_once_and_its_figures_are_the_row(transaction: SessionMaker) -> None:
    with transaction() as session:
        claim, device = begun(session)
        waiting, gone = request(session, claim)
        assert gone == DeviceRow(device="gone", artifact="small", state="not_measured", reason="The device was removed.")
        assert isinstance(waiting, device_rows.Waiting)
    with transaction() as session:
        assert request(session, claim)[0] == waiting  # another attempt finds it
        (row,) = stored(session)
        assert row.id == waiting.profile == own_profiles.own_id(row.artifact_id, device.id)
        assert row.request == ProfileRequest(batch=2, length=64, threads=3).model_dump(mode="json")
        assert device_rows.read_row(session, waiting, 900) is None
        given = profiles.claim(session, device.id, 30)
        assert given is not None
        assert device_rows.read_row(session, waiting, 900) is None
        profiles.finish(session, device.id, row.id, given.fence, contract.Profile.model_validate(measured(row.request)))
    with transaction() as session:
        found = device_rows.read_row(session, waiting, 900)
        assert found is not None
        assert (found.state, found.latency_ms, found.profile) == ("done", 2.0, waiting.profile)
        assert found.text.startswith("pi: small 2 ms, 95th percentile 2.5 ms (batch 2 × 64 tokens, onnxruntime")


def test_a_failure_a_silence_and_a_removed_device_are_rows_with_their_reason(transaction: SessionMaker) -> None:
    with transaction() as session:
        claim, device = begun(session)
        waiting = request(session, claim)[0]
        assert isinstance(waiting, device_rows.Waiting)
        session.execute(update(Profile).values(created_at=now(-10)))
        assert device_rows.read_row(session, waiting, 900) is None
        late = device_rows.read_row(session, waiting, 9)
        assert late is not None
        assert (late.state, late.reason) == ("not_measured", "The device did not take it within 9 s.")
        given = profiles.claim(session, device.id, 30)
        assert given is not None
        slow = device_rows.read_row(session, waiting, 9)
        assert slow is not None
        assert slow.text == "pi: small not measured: The device did not end within 9 s."
        failure = ProfileFailure(code="unsupported", detail="no LSTM.", remedy="Take another format.")
        profiles.finish(session, device.id, given.id, given.fence, failure)
        failed = device_rows.read_row(session, waiting, 9)
        assert failed is not None
        assert (failed.state, failed.text) == ("failed", "pi: small failed (unsupported): no LSTM. Take another format.")
    with transaction() as session:
        session.execute(update(Profile).values(state="queued", error=None))
        devices.remove(session, claim.job.team_id, device.id)
        removed = device_rows.read_row(session, waiting, 900)
        assert removed is not None
        assert (removed.state, removed.reason) == ("not_measured", "The device was removed.")


@pytest.mark.parametrize("end", ["cancelled", "failed", "cancelled while it waits for a worker", "late while it waits"])
def test_what_no_device_has_begun_ends_with_a_job_that_ends_early(transaction: SessionMaker, end: str) -> None:
    with transaction() as session:
        claim, _ = begun(session)
        request(session, claim)
        artifact = session.scalars(select(Artifact.id)).one()
        theirs = profiles.create(session, claim.job.team_id, "k", artifact, "pi", ProfileRequest())
    with transaction() as session:
        if end == "cancelled":
            jobs.mark_cancelled(session, claim)
        elif end == "failed":
            jobs.fail(session, claim, {"code": "x"})
        else:
            jobs.release(session, claim)
            assert {row.state for row in stored(session)} == {"queued"}  # for the next worker
            if end == "late while it waits":
                session.execute(update(Job).values(deadline_at=now(-1)))
                assert jobs.fail_overdue(session) == [claim.job.id]
            else:
                jobs.cancel(session, claim.job.team_id, claim.job.id)
    with transaction() as session:
        states = {row.id: row.state for row in stored(session)}
        assert states.pop(theirs.id) == "queued"
        assert list(states.values()) == ["failed"]
        with pytest.raises(fencing.StaleFence):
            request(session, claim)


def test_a_team_with_too_many_profiles_waiting_gets_the_row_without_a_figure(transaction: SessionMaker) -> None:
    with transaction() as session:
        claim, _ = begun(session)
        session.execute(update(Team).values(quotas={"profiles_waiting": 0}))
        row = request(session, claim)[0]
        assert isinstance(row, DeviceRow)
        assert row.state == "not_measured"
        assert "profiles of the team wait" in (row.reason or "")
        assert stored(session) == []


@pytest.mark.parametrize("end", ["never begun", "handed back", "silent"])
def test_what_is_left_when_a_job_has_ended_fails_and_what_people_requested_waits(transaction: SessionMaker, end: str) -> None:
    with transaction() as session:
        claim, device = begun(session)
        waiting = request(session, claim)[0]
        artifact = session.scalars(select(Artifact.id)).one()
        theirs = profiles.create(session, claim.job.team_id, "k", artifact, "pi", ProfileRequest())
        given = [] if end == "never begun" else [profiles.claim(session, device.id, 30) for _ in range(2)]
    with transaction() as session:
        jobs.finish(session, claim, {}, [])
    with transaction() as session:
        for one in given:
            assert one is not None
            if end == "handed back":
                profiles.release(session, device.id, one.id, one.fence)
        if end == "silent":
            session.execute(update(Profile).values(lease_until=now(-1)))
            assert set(profiles.requeue_expired(session)) == {row.id for row in stored(session)}
    details = {
        "never begun": "The job has ended, and no device had begun it.",
        "handed back": profiles.HANDED_BACK,
        "silent": profiles.SILENT,
    }
    with transaction() as session:
        found = {row.id: row for row in stored(session)}
        assert found.pop(theirs.id).state == "queued"
        (own,) = found.values()
        assert isinstance(waiting, device_rows.Waiting)
        assert own.error is not None
        assert (own.id, own.state, own.error["detail"], own.lease_until) == (waiting.profile, "failed", details[end], None)


def test_a_job_that_goes_on_keeps_its_profile_that_a_device_hands_back(transaction: SessionMaker) -> None:
    with transaction() as session:
        claim, device = begun(session)
        request(session, claim)
        given = profiles.claim(session, device.id, 30)
        assert given is not None
        profiles.release(session, device.id, given.id, given.fence)
    with transaction() as session:
        assert [(row.state, row.attempt, row.error) for row in stored(session)] == [("queued", 0, None)]
