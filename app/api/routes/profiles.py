"""/v1/artifacts/{id}/profiles and /v1/profiles: what artifacts cost on devices; and what devices send about it."""

import asyncio
from typing import Annotated, Self

from fastapi import APIRouter, Header, Query, Request, Response
from pydantic import Field, model_validator
from sqlalchemy.orm import Session

from app.accounts import audit
from app.api.dependencies import CallerDep, MeasurerDep, OnceDep, ReadDep, SessionDep, SettingsDep, WriterDep
from app.api.long_poll import change_poller, parse_wait
from app.api.openapi import problems
from app.api.paging import PageSize, PageToken, answer_page
from app.api.profile_items import ProfileItem, profile_items
from app.core.errors import LeaseLost, QuotaExceeded, WrongState
from app.core.schemas import TEXT, Body, Id, Page
from app.jobs import profiles
from app.store import models
from app.store.db import reading
from compression.schema.profile import Profile, ProfileFailure, ProfileRequest

router = APIRouter(prefix="/v1", tags=["profiles"])


class ProfileCreate(ProfileRequest):
    """What to measure, and on which device."""

    device: Annotated[str, Field(min_length=1, max_length=100, pattern=TEXT, description="Name or id of a device.")]

    @property
    def request(self) -> ProfileRequest:
        """The request without the device."""
        return ProfileRequest(**self.model_dump(exclude={"device"}))


class ProfileOut(ProfileItem):
    """A profile and, once it is done, all that was measured."""

    result: Profile | None


class Fence(Body):
    """Which claim a device speaks of."""

    fence: Annotated[int, Field(ge=1, le=2**53, description="Of the claim's answer.")]


class ProfileResult(Fence):
    """What a device found: a profile, or why there is none."""

    profile: Profile | None = None
    failure: ProfileFailure | None = None

    @model_validator(mode="after")
    def _one(self) -> Self:
        if (self.profile is None) == (self.failure is None):
            raise ValueError("give either profile or failure")
        return self


def _out(session: Session, row: models.Profile) -> ProfileOut:
    return ProfileOut(**dict(profile_items(session, [row])[0]), result=row.result)


@router.post("/artifacts/{artifact_id}/profiles", status_code=202, response_model=ProfileOut, responses=problems(QuotaExceeded))
def create(artifact_id: str, body: ProfileCreate, session: SessionDep, caller: WriterDep, once: OnceDep) -> Response:
    """Request a profile of an artifact. The device measures it when it next asks for work."""

    def make() -> ProfileOut:
        row = profiles.create(session, caller.team, caller.key, artifact_id, body.device, body.request)
        return _out(session, row)

    return once(session, caller, body, 202, make)


@router.get("/artifacts/{artifact_id}/profiles", response_model=Page[ProfileItem])
def list_of_artifact(
    artifact_id: str,
    request: Request,
    response: Response,
    session: ReadDep,
    caller: CallerDep,
    page_size: PageSize = 50,
    page_token: PageToken = None,
) -> Page[ProfileItem]:
    """List an artifact's profiles, newest first."""
    profiles.get_artifact(session, caller.team, artifact_id)
    rows, token = profiles.list_profiles(session, caller.team, page_size, page_token, artifact_id=artifact_id)
    return answer_page(profile_items(session, rows), token, request, response)


@router.get("/profiles", response_model=Page[ProfileItem])
def list_(
    request: Request,
    response: Response,
    session: ReadDep,
    caller: CallerDep,
    job: Annotated[Id | None, Query(description="Id of a job.")] = None,
    device: Annotated[Id | None, Query(description="Id of a device.")] = None,
    page_size: PageSize = 50,
    page_token: PageToken = None,
) -> Page[ProfileItem]:
    """List the team's profiles, newest first."""
    wanted = {"job_id": job, "device_id": device}
    rows, token = profiles.list_profiles(session, caller.team, page_size, page_token, **wanted)
    return answer_page(profile_items(session, rows), token, request, response)


def _read(team: str, profile_id: str) -> ProfileOut:
    with reading() as session:
        return _out(session, profiles.get(session, team, profile_id))


@router.get("/profiles/{profile_id}", response_model=ProfileOut)
async def show(profile_id: str, caller: CallerDep, prefer: Annotated[str | None, Header()] = None) -> ProfileOut:
    """Show a profile. `Prefer: wait=30` answers when its state changed, or after 30 seconds."""
    found = await asyncio.to_thread(_read, caller.team, profile_id)
    seconds = parse_wait(prefer)
    if seconds and found.state not in profiles.ENDED:
        await change_poller.changed("profile", profile_id, found.state, seconds)
        found = await asyncio.to_thread(_read, caller.team, profile_id)
    return found


@router.delete("/profiles/{profile_id}", status_code=204, response_class=Response, responses=problems(WrongState))
def delete(profile_id: str, session: SessionDep, caller: WriterDep) -> None:
    """Delete a profile that waits, so that the device never measures it, or one that has ended."""
    profiles.delete(session, caller.team, profile_id)


# For devices. A caller whose key is of no registered device holds no profile, so it gets 404.


@router.post("/profiles/{profile_id}/heartbeat", status_code=204, response_class=Response, responses=problems(LeaseLost))
def heartbeat(
    profile_id: str, body: Fence, request: Request, session: SessionDep, caller: MeasurerDep, settings: SettingsDep
) -> None:
    """For the device: extend the lease while it measures."""
    audit.mark_read_only(request)
    profiles.renew(session, caller.device or "", profile_id, body.fence, settings.lease_seconds)


@router.post("/profiles/{profile_id}/release", status_code=204, response_class=Response, responses=problems(LeaseLost))
def release(profile_id: str, body: Fence, session: SessionDep, caller: MeasurerDep) -> None:
    """For the device: return a profile to the queue, because the device stops."""
    profiles.release(session, caller.device or "", profile_id, body.fence)


@router.post("/profiles/{profile_id}/result", response_model=ProfileOut, responses=problems(LeaseLost))
def result(profile_id: str, body: ProfileResult, request: Request, session: SessionDep, caller: MeasurerDep) -> ProfileOut:
    """For the device: send what it measured, once. A second result of the same claim is answered as the first."""
    outcome = body.profile or body.failure
    assert outcome is not None  # noqa: S101 (ProfileResult has one)
    row, changed = profiles.finish(session, caller.device or "", profile_id, body.fence, outcome)
    if not changed:
        audit.mark_read_only(request)
    return _out(session, row)
