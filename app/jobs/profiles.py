"""Profiles: what an artifact costs on a device. Requested by a team, measured by the device over HTTP, each exactly once.

    queued → running → done | failed        running → queued when the device is silent or hands it back

Each transition is one conditional UPDATE, as of jobs. Each claim raises the fence, and a device's answer must carry it.
"""

from typing import Any

from sqlalchemy import ColumnElement, Select, delete as deleting, func, select, update
from sqlalchemy.orm import Session, undefer

from app.core.errors import InvalidRequest, LeaseLost, NotFound, Problem, WrongState
from app.core.ids import new_id
from app.jobs import own_profiles
from app.jobs.predictions import find_dataset
from app.store import quotas
from app.store.clock import now
from app.store.keyset import newest_page
from app.store.models import QUEUED, RUNNING, Artifact, Dataset, Device, Job, Model, Profile
from compression.schema import profile as contract
from compression.schema.profile_figures import ProfileFigures
from compression.schema.tasks import TASKS

DONE, FAILED = "done", "failed"
ENDED = (DONE, FAILED)
MAX_ATTEMPTS = 2
"""Claims of a profile: a device that stopped twice over it will stop again."""
HANDED_BACK = "The device handed it back after the job had ended."
SILENT = "The device stopped answering over it, and the job has ended."


# For callers.


def get_device(session: Session, team: str, device_id: str) -> Device:
    """Return one of the team's devices. Raises NotFound."""
    mine = select(Device).where(Device.id == device_id, Device.team_id == team, Device.deleted_at.is_(None))
    found = session.scalar(mine)
    if found is None:
        raise NotFound(f"no device {device_id}")
    return found


def list_devices(
    session: Session, team: str, size: int, token: str | None, only: str | None = None
) -> tuple[list[Device], str | None]:
    """Return a page of the team's devices, newest first, or of the `only` one; and the next page's token."""
    query = select(Device).where(Device.team_id == team, Device.deleted_at.is_(None))
    return newest_page(session, query if only is None else query.where(Device.id == only), Device.id, size, token)


def count_waiting(session: Session, devices: list[str]) -> dict[str, int]:
    """Return how many profiles wait for each device that has any."""
    query = select(Profile.device_id, func.count()).where(Profile.device_id.in_(devices), Profile.state == QUEUED)
    return dict(session.execute(query.group_by(Profile.device_id)).tuples().all())


def list_device_names(session: Session, team: str) -> list[str]:
    """Return the names of all the team's devices."""
    return list(session.scalars(select(Device.name).where(Device.team_id == team, Device.deleted_at.is_(None))))


def device_names(session: Session, ids: set[str]) -> dict[str, str]:
    """Return the names of devices, including removed ones."""
    return dict(session.execute(select(Device.id, Device.name).where(Device.id.in_(ids))).tuples().all())


def get_artifact(session: Session, team: str, artifact_id: str, device: str | None = None) -> Artifact:
    """Return one of the team's artifacts; for a device, one that it measures now. Raises NotFound."""
    mine = (Artifact.id == artifact_id, Job.team_id == team, Job.deleted_at.is_(None), *given_to(device))
    found = session.scalar(select(Artifact).join(Job, Job.id == Artifact.job_id).where(*mine))
    if found is None:
        raise NotFound(f"no artifact {artifact_id}")
    return found


def given_to(device: str | None) -> tuple[ColumnElement[bool], ...]:
    """Return the conditions that a device may read an artifact; none for callers who are no registered device."""
    if device is None:
        return ()
    return (Artifact.id.in_(select(Profile.artifact_id).where(Profile.device_id == device, Profile.state == RUNNING)),)


def create(
    session: Session,
    team: str,
    key_id: str,
    artifact_id: str,
    device: str,
    request: contract.ProfileRequest,
    *,
    profile_id: str | None = None,
) -> Profile:
    """Store a request to profile an artifact on a device, named by id or name. profile_id: null makes a new one.

    Raises NotFound, InvalidRequest with the field, QuotaExceeded.
    """
    artifact = get_artifact(session, team, artifact_id)
    named = (Device.id == device) | (Device.name == device)
    # Shared lock: a device that is removed at the same time either is gone here, or fails this profile too.
    mine = select(Device).where(named, Device.team_id == team, Device.deleted_at.is_(None)).with_for_update(read=True)
    found = session.scalars(mine).first()
    if found is None:
        raise InvalidRequest(f"no device {device!r}", param="device", remedy="GET /v1/devices lists the team's devices.")
    _check_size(session, artifact, request)
    quotas.admit_profile(session, team)
    row = Profile(
        id=profile_id or new_id("prf"),
        team_id=team,
        job_id=artifact.job_id,
        artifact_id=artifact.id,
        device_id=found.id,
        key_id=key_id,
        request=request.model_dump(mode="json"),
    )
    session.add(row)
    session.flush()
    session.refresh(row)
    return row


def _check_size(session: Session, artifact: Artifact, request: contract.ProfileRequest) -> None:
    """Check length and resolution against the model of the artifact. Raises InvalidRequest."""
    job = session.get_one(Job, artifact.job_id)
    task = session.get_one(Dataset, find_dataset(job, artifact.facts.get("part") or "")).task
    sequences = TASKS[task].sequences
    if request.length is not None and not sequences:
        raise InvalidRequest(f"a row of {task} has no length", param="length")
    if request.resolution is not None and sequences:
        raise InvalidRequest(f"a row of {task} has no resolution", param="resolution")
    shipped = job.student if job.student and artifact.facts["stage"] == "distilled" else job.model_id
    most = (session.get_one(Model, shipped).facts or {}).get("max_positions")
    if request.length is not None and most is not None and request.length > most:
        raise InvalidRequest(f"the model reads {most} tokens at most, not {request.length}", param="length")


def get(session: Session, team: str, profile_id: str) -> Profile:
    """Return one of the team's profiles with its whole result. Raises NotFound."""
    query = select(Profile).options(undefer(Profile.result)).where(Profile.id == profile_id, Profile.team_id == team)
    found = session.scalar(query)
    if found is None:
        raise NotFound(f"no profile {profile_id}")
    return found


def delete(session: Session, team: str, profile_id: str) -> None:
    """Delete a profile that waits or has ended. Raises NotFound, WrongState if the device measures it."""
    mine = (Profile.id == profile_id, Profile.team_id == team)
    gone = deleting(Profile).where(*mine, Profile.state != RUNNING).returning(Profile.id)
    if session.scalar(gone.execution_options(synchronize_session=False)) is not None:
        return
    if session.scalar(select(Profile.id).where(*mine)) is None:
        raise NotFound(f"no profile {profile_id}")
    remedy = "Wait until it is done; a device that `lathe device run` stops on hands it back."
    raise WrongState(f"{profile_id} is measured now", remedy=remedy)


def list_profiles(
    session: Session, team: str, size: int, token: str | None, **wanted: str | None
) -> tuple[list[Profile], str | None]:
    """Return a page of the team's profiles, newest first, with these values of the columns; and the next page's token."""
    query: Select[Profile] = select(Profile).where(Profile.team_id == team)
    query = query.where(*(getattr(Profile, name) == value for name, value in wanted.items() if value is not None))
    return newest_page(session, query, Profile.id, size, token)


# For devices.


def hear(session: Session, device_id: str) -> None:
    """Record that a device has asked for something."""
    session.execute(update(Device).where(Device.id == device_id).values(last_heard=now()))


def claim(session: Session, device_id: str, lease_seconds: float) -> Profile | None:
    """Claim the oldest profile that waits for a device; None if there is none."""
    mine = select(Profile.id).where(Profile.device_id == device_id, Profile.state == QUEUED)
    first = mine.order_by(Profile.id).limit(1).with_for_update(skip_locked=True)
    hear(session, device_id)
    values = {"attempt": Profile.attempt + 1, "fence": Profile.fence + 1, "lease_until": now(lease_seconds)}
    return session.scalar(
        update(Profile)
        .where(Profile.id == first.scalar_subquery(), Profile.state == QUEUED)
        .values(state=RUNNING, **values)
        .returning(Profile)
        .execution_options(synchronize_session=False, populate_existing=True)
    )


def _update_held(session: Session, device_id: str, profile_id: str, claimed: int, **values: Any) -> None:
    """Update a profile of the claim with this fence. Raises NotFound, LeaseLost.

    If its lease has ended and nobody claimed it since, it is still that claim's.
    """
    mine = (Profile.id == profile_id, Profile.device_id == device_id)
    held = update(Profile).where(*mine, Profile.state.in_((QUEUED, RUNNING)), Profile.fence == claimed)
    changed = held.values(**values).returning(Profile.id).execution_options(synchronize_session=False)
    if session.scalar(changed) is None:
        raise _lost(session.scalar(select(Profile.state).where(*mine)), profile_id)


def _lost(state: str | None, profile_id: str) -> Problem:
    """Return the problem of a device that does not hold a profile. state: None if it was never given to the device."""
    if state is None:
        return NotFound(f"no profile {profile_id}")
    return LeaseLost(f"{profile_id} is {state}, and no longer with this claim")


def renew(session: Session, device_id: str, profile_id: str, fence: int, lease_seconds: float) -> None:
    """Extend the lease of a profile that a device measures. Raises NotFound, LeaseLost."""
    hear(session, device_id)
    _update_held(session, device_id, profile_id, fence, state=RUNNING, lease_until=now(lease_seconds))


def release(session: Session, device_id: str, profile_id: str, fence: int) -> None:
    """Return a profile to the queue because its device stops; this counts as no attempt. Raises NotFound, LeaseLost.

    One that a job requested which has ended fails instead: nothing would read it.
    """
    left = own_profiles.find_left_over(session, Profile.id == profile_id, Profile.device_id == device_id)
    changes = own_profiles.failed(HANDED_BACK) if left else {"state": QUEUED, "lease_until": None}
    # Another fence: a heartbeat that is still on its way must not take it again.
    changes |= {"attempt": Profile.attempt - 1, "fence": Profile.fence + 1}
    _update_held(session, device_id, profile_id, fence, **changes)


def finish(
    session: Session, device_id: str, profile_id: str, fence: int, outcome: contract.Profile | contract.ProfileFailure
) -> tuple[Profile, bool]:
    """Store what a device found; return the row, and whether this changed it: a repeated result of the same claim does not.

    Raises NotFound, LeaseLost, InvalidRequest if it is a profile of something else.
    """
    mine = select(Profile).options(undefer(Profile.result)).where(Profile.id == profile_id, Profile.device_id == device_id)
    row = session.scalar(mine.with_for_update())
    if row is None:
        raise NotFound(f"no profile {profile_id}")
    if row.state in ENDED and row.fence == fence:
        return row, False
    if row.state in ENDED or row.fence != fence:
        raise _lost(row.state, profile_id)
    if isinstance(outcome, contract.Profile):
        _check_request(contract.ProfileRequest.model_validate(row.request), outcome.request)
        row.state, row.result = DONE, outcome.model_dump(mode="json")
        row.figures = ProfileFigures.of(outcome).model_dump(mode="json")
        facts = outcome.device.model_dump(mode="json")
        session.execute(update(Device).where(Device.id == device_id).values(facts=facts, last_heard=now()))
    else:
        row.state, row.error = FAILED, outcome.model_dump(mode="json")
    row.finished_at, row.lease_until = now(), None
    session.flush()
    session.refresh(row)
    return row, True


def _check_request(asked: contract.ProfileRequest, measured: contract.ProfileRequest) -> None:
    """Check that a profile answers the request. Raises InvalidRequest."""
    for name, value in asked.model_dump(exclude_none=True).items():
        if getattr(measured, name) != value:
            cause = f"{name} {value} was asked for, and {getattr(measured, name)} measured"
            raise InvalidRequest(cause, param=f"profile.request.{name}")


# For the keeper, and when a device is removed.


def _failed(detail: str) -> dict[str, Any]:
    remedy = "Start `lathe device run` on the device again, and request the profile again."
    error = contract.ProfileFailure(code="device_lost", detail=detail, remedy=remedy)
    return {"state": FAILED, "error": error.model_dump(mode="json"), "finished_at": now(), "lease_until": None}


def requeue_expired(session: Session) -> list[str]:
    """Return the profiles of silent devices to the queue; return their ids.

    They fail after the last attempt, and if a job requested them which has ended.
    """
    expired = (Profile.state == RUNNING, Profile.lease_until < now())
    found = session.scalars(select(Profile.id).where(*expired)).all()
    left = own_profiles.find_left_over(session, Profile.id.in_(found)) if found else []
    silent = update(Profile).where(Profile.id.in_(found), *expired)
    silent = silent.returning(Profile.id).execution_options(synchronize_session=False)
    last = _failed(f"The device stopped answering {MAX_ATTEMPTS} times over it.")
    steps = (
        silent.where(Profile.attempt >= MAX_ATTEMPTS).values(**last),
        silent.where(Profile.id.in_(left)).values(**own_profiles.failed(SILENT)),
        silent.values(state=QUEUED, lease_until=None),
    )
    return [one for step in steps for one in session.scalars(step).all()]


def fail_of_device(session: Session, device_id: str) -> None:
    """Fail what a removed device has not measured."""
    left = update(Profile).where(Profile.device_id == device_id, Profile.state.in_((QUEUED, RUNNING)))
    session.execute(left.values(**_failed("The device was removed.")).execution_options(synchronize_session=False))
