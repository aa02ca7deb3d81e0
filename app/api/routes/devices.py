"""/v1/devices: machines that measure artifacts. An admin registers one; its key claims the profiles that wait for it."""

import asyncio
import datetime as dt
from typing import Annotated

from fastapi import APIRouter, Header, Request, Response
from pydantic import Field

from app.accounts import audit, devices
from app.accounts.auth import Caller
from app.api.dependencies import AdminDep, DeviceDep, MeasurerDep, ReadDep, SessionDep, SettingsDep
from app.api.long_poll import change_poller, parse_wait
from app.api.openapi import problems
from app.api.paging import PageSize, PageToken, answer_page
from app.api.schemas import ArtifactOut, artifact_out
from app.core.errors import NameTaken, NotFound
from app.core.schemas import TEXT, Body, Out, Page
from app.core.settings import Settings
from app.jobs import profiles
from app.store.db import writing
from app.store.models import DEVICE, Device
from compression.schema.profile import DeviceFacts, ProfileRequest

router = APIRouter(prefix="/v1/devices", tags=["devices"])


class DeviceCreate(Body):
    """A machine that will measure artifacts."""

    name: Annotated[str, Field(min_length=1, max_length=100, pattern=TEXT, description="Unique in the team.")]


class DeviceOut(Out):
    """A device; `key` is present once, in the answer that registered it."""

    id: str
    name: str
    facts: Annotated[DeviceFacts | None, Field(description="Of its last profile; null before the first.")]
    waiting: Annotated[int, Field(description="Profiles that wait for it.")]
    last_heard: Annotated[dt.datetime | None, Field(description="When it last asked for work, or said that it is at work.")]
    created_at: dt.datetime
    mine: Annotated[bool, Field(description="Whether this request came with the device's key.")]
    key: str | None = None


class ClaimOut(Out):
    """A profile to measure. Each answer about it carries `fence`, and the next comes before the lease is over."""

    profile: str
    fence: int
    lease_seconds: float
    request: ProfileRequest
    artifact: Annotated[ArtifactOut, Field(description="The device may read its files until the profile has ended.")]


def _out(row: Device, caller: Caller, waiting: int = 0, key: str | None = None) -> DeviceOut:
    same = {name: getattr(row, name) for name in ("id", "name", "facts", "last_heard", "created_at")}
    return DeviceOut(**same, waiting=waiting, mine=row.id == caller.device, key=key)


@router.post("", status_code=201, response_model=DeviceOut, responses=problems(NameTaken))
def create(body: DeviceCreate, request: Request, session: SessionDep, caller: AdminDep) -> DeviceOut:
    """Register a device, and create its key of scope `device`.

    The key is shown in this answer and never again, so this POST takes no Idempotency-Key: no replay is stored.
    """
    row, key = devices.register(session, caller.team, body.name, caller.key)
    audit.set_object(request, row.id)
    return _out(row, caller, key=key)


@router.get("", response_model=Page[DeviceOut])
def list_(
    request: Request,
    response: Response,
    session: ReadDep,
    caller: DeviceDep,
    page_size: PageSize = 50,
    page_token: PageToken = None,
) -> Page[DeviceOut]:
    """List the team's devices, newest first; to a device's key, that device alone."""
    only = (caller.device or "") if caller.scope == DEVICE else None
    rows, token = profiles.list_devices(session, caller.team, page_size, page_token, only)
    waiting = profiles.count_waiting(session, [row.id for row in rows])
    return answer_page([_out(row, caller, waiting.get(row.id, 0)) for row in rows], token, request, response)


@router.delete("/{device_id}", status_code=204, response_class=Response)
def remove(device_id: str, session: SessionDep, caller: AdminDep) -> None:
    """Remove a device and revoke its keys. What it has not measured fails with `device_lost`; its profiles stay."""
    devices.remove(session, caller.team, device_id)


def _claim(request: Request, caller: Caller, device_id: str, settings: Settings) -> ClaimOut | None:
    """Claim a profile for the caller's device. Only a claim that brings one is audited. Raises NotFound."""
    with writing() as session:
        if caller.device != device_id:
            raise NotFound(f"no device {device_id}")
        row = profiles.claim(session, device_id, settings.lease_seconds)
        if row is None:
            return None
        audit.record_success(session, request)
        artifact = artifact_out(profiles.get_artifact(session, caller.team, row.artifact_id))
        asked = ProfileRequest.model_validate(row.request)
    lease = settings.lease_seconds
    return ClaimOut(profile=row.id, fence=row.fence, lease_seconds=lease, request=asked, artifact=artifact)


@router.post("/{device_id}/claim", response_model=ClaimOut, responses={204: {"description": "Nothing waits."}})
async def claim(
    device_id: str, request: Request, caller: MeasurerDep, settings: SettingsDep, prefer: Annotated[str | None, Header()] = None
) -> Response:
    """For the device: claim the oldest profile that waits for it. `Prefer: wait=30` waits for one; 204 if there is none."""
    found = await asyncio.to_thread(_claim, request, caller, device_id, settings)
    seconds = parse_wait(prefer)
    if found is None and seconds and await change_poller.changed("device", device_id, None, seconds):
        await request.body()  # what comes after it is whether the device has hung up
        if await request.is_disconnected():
            return Response(status_code=204)
        found = await asyncio.to_thread(_claim, request, caller, device_id, settings)
    if found is None:
        return Response(status_code=204)
    return Response(found.model_dump_json(), media_type="application/json")
