"""Rows of a job's report that devices measure: the worker requests their profiles, and reads what became of them."""

from collections.abc import Sequence
from dataclasses import dataclass

from sqlalchemy import select
from sqlalchemy.orm import Session

from app.core.errors import InvalidRequest, QuotaExceeded
from app.jobs import profiles
from app.jobs.fencing import Claim, StaleFence, held_under
from app.jobs.own_profiles import own_id
from app.store.clock import now, seconds_between
from app.store.models import Artifact, Device, Job, Profile
from compression.schema.profile import ProfileFailure, ProfileRequest
from compression.schema.recipe.recipe import JobEvaluate
from compression.schema.report.device_rows import DeviceRow


@dataclass(frozen=True)
class Waiting:
    """A row that a device has still to measure."""

    device: str
    artifact: str
    profile: str


def request_rows(
    session: Session, claim: Claim, names: Sequence[str], evaluate: JobEvaluate, *, sequences: bool
) -> list[DeviceRow | Waiting]:
    """Request a profile of each artifact, by name, on each of evaluate's devices, unless it was requested before.

    sequences: whether rows have a length. Raises StaleFence. A device that is gone, and one more profile than the team may have
    waiting, are rows that were not measured.
    """
    mine = select(Job).where(Job.id == claim.job.id, *held_under(claim.fence)).with_for_update()
    job = session.scalar(mine)
    if job is None:
        raise StaleFence(claim.job.id)
    length = evaluate.length if sequences else None
    request = ProfileRequest(batch=evaluate.batch, length=length, threads=evaluate.threads)
    found = session.scalars(select(Artifact).where(Artifact.job_id == job.id, Artifact.name.in_(names))).all()
    ids = {artifact.name: artifact.id for artifact in found}
    return [_request(session, job, device, name, ids[name], request) for device in evaluate.devices for name in names]


def _request(
    session: Session, job: Job, device: str, artifact: str, artifact_id: str, request: ProfileRequest
) -> DeviceRow | Waiting:
    query = select(Device.id).where(Device.team_id == job.team_id, Device.name == device, Device.deleted_at.is_(None))
    device_id = session.scalar(query)
    if device_id is None:
        return DeviceRow(device=device, artifact=artifact, state="not_measured", reason="The device was removed.")
    profile = own_id(artifact_id, device_id)
    if session.get(Profile, profile) is None:
        try:
            profiles.create(session, job.team_id, job.key_id or "", artifact_id, device_id, request, profile_id=profile)
        except (InvalidRequest, QuotaExceeded) as error:
            return DeviceRow(device=device, artifact=artifact, state="not_measured", reason=error.cause)
    return Waiting(device, artifact, profile)


def read_row(session: Session, waiting: Waiting, seconds: float, *, overdue: bool = False) -> DeviceRow | None:
    """Return the row that a device has measured, or why there is none once `seconds` have passed since it was requested.

    overdue: whether the job's deadline has passed, which ends the wait as well.
    """
    about = {"device": waiting.device, "artifact": waiting.artifact, "profile": waiting.profile}
    query = select(Profile, seconds_between(Profile.created_at, now())).where(Profile.id == waiting.profile)
    found = session.execute(query.execution_options(populate_existing=True)).one_or_none()
    if found is None:
        return DeviceRow(**about, state="not_measured", reason="Its profile was deleted.")
    row, age = found
    if row.state == profiles.DONE:
        return DeviceRow(**about, state="done", figures=row.figures)
    if row.state == profiles.FAILED:
        error = ProfileFailure.model_validate(row.error)
        if error.code == "device_lost":
            return DeviceRow(**about, state="not_measured", reason=error.detail)
        return DeviceRow(**about, state="failed", error=error)
    if age <= seconds and not overdue:
        return None
    doing = "did not take it" if row.state == "queued" else "did not end"
    limit = "before the job's deadline" if age <= seconds else f"within {seconds:g} s"
    return DeviceRow(**about, state="not_measured", reason=f"The device {doing} {limit}.")
