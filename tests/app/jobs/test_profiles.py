"""Profiles of silent devices: they wait again, and after the last attempt they have failed. And what goes with an artifact."""

import pytest
from sqlalchemy import delete, update
from sqlalchemy.orm import Session

from app.core.errors import LeaseLost
from app.jobs import jobs, profile_remedies, profiles
from app.store.clock import now
from app.store.models import Artifact, Device, File, Profile
from compression.schema.profile import ProfileFailure, ProfileRequest
from tests.app.conftest import SessionMaker
from tests.support.rows import submitted

FAILURE = ProfileFailure(code="failed", detail="", remedy="")


def requested(session: Session, number: int = 1) -> tuple[Device, list[Profile]]:
    """A device for which so many profiles of one artifact wait."""
    job = submitted(session)
    artifact = Artifact(job_id=job.id, fence=1, name="int8", facts={"stage": "quantized"})
    device = Device(team_id=job.team_id, name="pi")
    session.add_all([artifact, device])
    session.flush()
    wanted = (job.team_id, "k", artifact.id, "pi", ProfileRequest())
    return device, [profiles.create(session, *wanted) for _ in range(number)]


def silence(session: Session) -> None:
    session.execute(update(Profile).where(Profile.state == "running").values(lease_until=now(-1)))


def test_a_silent_device_s_profile_waits_again_and_then_fails(transaction: SessionMaker) -> None:
    with transaction() as session:
        device, (row, other) = requested(session, 2)
    for attempt in (1, 2):
        with transaction() as session:
            claimed = profiles.claim(session, device.id, 30)
            assert claimed is not None
            assert (claimed.id, claimed.attempt, claimed.fence) == (row.id, attempt, attempt)
            assert profiles.requeue_expired(session) == []
            silence(session)
        with transaction() as session:
            assert profiles.requeue_expired(session) == [row.id]
            assert profiles.requeue_expired(session) == []
    with transaction() as session:
        found = profiles.get(session, row.team_id, row.id)
        assert found.error is not None
        assert (found.state, found.error["code"], found.lease_until) == ("failed", "device_lost", None)
        assert found.finished_at is not None
        following = profiles.claim(session, device.id, 30)
        assert following is not None
        assert following.id == other.id


def test_a_device_that_was_silent_goes_on_unless_it_has_claimed_anew(transaction: SessionMaker) -> None:
    with transaction() as session:
        device, (row,) = requested(session)
        profiles.claim(session, device.id, 30)
        silence(session)
        assert profiles.requeue_expired(session) == [row.id]
        profiles.renew(session, device.id, row.id, 1, 30)
        assert profiles.claim(session, device.id, 30) is None
        silence(session)
        profiles.requeue_expired(session)
        profiles.claim(session, device.id, 30)
        with pytest.raises(LeaseLost):
            profiles.renew(session, device.id, row.id, 1, 30)
        with pytest.raises(LeaseLost):
            profiles.finish(session, device.id, row.id, 1, FAILURE)
        silence(session)
        assert profiles.finish(session, device.id, row.id, 2, FAILURE)[0].state == "failed"


def test_profiles_go_with_their_artifact_and_with_their_job(transaction: SessionMaker) -> None:
    with transaction() as session:
        _, (row,) = requested(session)
        session.delete(session.get_one(Artifact, row.artifact_id))  # as an attempt that replaces it does
        session.flush()
        session.expunge(row)
        assert session.get(Profile, row.id) is None
        session.execute(delete(Device))
        _, (row,) = requested(session)
        claim = jobs.claim(session, "w", 60)
        while claim is not None:
            jobs.mark_cancelled(session, claim)
            claim = jobs.claim(session, "w", 60)
        jobs.delete_job(session, row.team_id, row.job_id)
        session.expunge(row)
        assert session.get(Profile, row.id) is None
        session.info.pop("wake", None)


def test_what_a_pass_reads_is_the_weights_and_not_the_whole_download() -> None:
    files = [File(path=path, size=size) for path, size in (("model.onnx", 20), ("model.onnx_data", 5), ("tokenizer.json", 17))]
    facts = {"name": "int8", "kind": "onnx", "stage": "quantized", "precision": "int8"}
    known = profile_remedies._form(Artifact(id="art_1", facts=facts, files=files), None)
    other = profile_remedies._form(Artifact(id="art_2", facts={**facts, "kind": "of a package"}, files=files), None)
    assert (known.bytes, other.bytes) == (25, 42)
