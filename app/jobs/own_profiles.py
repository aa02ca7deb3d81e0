"""Profiles that a job requests by itself, for the rows of its report (evaluate.devices).

A profile's id follows from its artifact and its device, so that an attempt which goes on after a killed worker finds what that
one requested, and nothing is measured twice.
"""

import hashlib
from typing import Any

from sqlalchemy import ColumnElement, select, update
from sqlalchemy.orm import Session

from app.core.ids import ALPHABET
from app.store.clock import now
from app.store.models import QUEUED, TERMINAL, Job, Profile
from compression.schema.profile import ProfileFailure


def own_id(artifact_id: str, device_id: str) -> str:
    """Return the id of a job's own profile of an artifact on a device: it sorts as the artifact's does."""
    number = int.from_bytes(hashlib.sha256(f"{artifact_id} {device_id}".encode()).digest()[:10])
    letters = "".join(ALPHABET[number >> 5 * place & 31] for place in range(16))
    return f"prf_{artifact_id.partition('_')[2][:10]}{letters}"


def fail_queued(session: Session, job_id: str, detail: str) -> None:
    """Fail what a job requested and no device has begun. Profiles that people requested of its artifacts stay."""
    query = select(Profile.id, Profile.artifact_id, Profile.device_id).where(Profile.job_id == job_id, Profile.state == QUEUED)
    mine = [one.id for one in session.execute(query) if one.id == own_id(one.artifact_id, one.device_id)]
    if not mine:
        return
    gone = update(Profile).where(Profile.id.in_(mine), Profile.state == QUEUED).values(**failed(detail))
    session.execute(gone.execution_options(synchronize_session=False))


def find_left_over(session: Session, *wanted: ColumnElement[bool]) -> list[str]:
    """Return the ids of the profiles that meet the conditions and that a job requested which has ended.

    The jobs of all that meet them are locked: none of them ends before the caller has written what follows from the answer.
    """
    query = select(Profile.id, Profile.artifact_id, Profile.device_id, Job.state).join(Job, Job.id == Profile.job_id)
    found = session.execute(query.where(*wanted).order_by(Job.id).with_for_update(read=True, of=Job))
    return [one.id for one in found if one.state in TERMINAL and one.id == own_id(one.artifact_id, one.device_id)]


def failed(detail: str) -> dict[str, Any]:
    """Return the columns of a job's own profile that ends with its job."""
    error = ProfileFailure(code="failed", detail=detail, remedy="Request a profile of the artifact by itself.")
    return {"state": "failed", "error": error.model_dump(mode="json"), "finished_at": now(), "lease_until": None}
