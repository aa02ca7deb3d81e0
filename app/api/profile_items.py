"""Profiles as lists and the job's page show them."""

import datetime as dt
from collections.abc import Sequence
from typing import Annotated, Literal

from pydantic import Field
from sqlalchemy.orm import Session

from app.core.schemas import Out
from app.jobs import profile_remedies, profiles
from app.store import models
from compression.schema.profile import ProfileFailure, ProfileRequest
from compression.schema.profile_figures import ProfileFigures
from compression.schema.profile_remedies import ProfileRemedy


class ProfileItem(Out):
    """A profile in lists: its state, and its figures once it is done."""

    id: str
    job: str
    artifact: str
    device: str
    device_name: str
    request: ProfileRequest
    state: Literal["queued", "running", "done", "failed"]
    attempt: Annotated[int, Field(description="Claims by the device; the second that it does not end is the last.")]
    figures: ProfileFigures | None
    error: ProfileFailure | None
    remedies: Annotated[tuple[ProfileRemedy, ...], Field(description="What to try, once it has ended.")]
    created_at: dt.datetime
    finished_at: dt.datetime | None


def profile_items(session: Session, rows: Sequence[models.Profile]) -> list[ProfileItem]:
    """Return the public fields of profiles, without their whole results."""
    names = profiles.device_names(session, {row.device_id for row in rows})
    remedies = profile_remedies.find_remedies(session, rows)
    same = ("id", "request", "state", "attempt", "figures", "error", "created_at", "finished_at")
    return [
        ProfileItem(
            job=row.job_id,
            artifact=row.artifact_id,
            device=row.device_id,
            device_name=names[row.device_id],
            remedies=remedies.get(row.id, ()),
            **{name: getattr(row, name) for name in same},
        )
        for row in rows
    ]
