"""Devices of a team: machines that measure artifacts, each with keys of scope `device` that are its own."""

from sqlalchemy import update
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from app.accounts import keys
from app.core.errors import InvalidRequest, NameTaken
from app.jobs import profiles
from app.store.clock import now
from app.store.models import DEVICE, ApiKey, Device
from compression.schema.recipe.recipe import WORKER


def register(session: Session, team: str, name: str, made_by: str) -> tuple[Device, str]:
    """Create a device and its key, which is shown only this once. Raises NameTaken, InvalidRequest for the name `worker`."""
    if name == WORKER:
        cause = f"in targets.latency_ms, {WORKER} is the machine that does the job"
        raise InvalidRequest(cause, param="name", remedy="Choose another name.")
    device = Device(team_id=team, name=name)
    session.add(device)
    try:
        session.flush()
    except IntegrityError as error:
        raise NameTaken(
            f"there is a device {name!r}", param="name", remedy="Choose another name, or remove that device."
        ) from error
    session.refresh(device)
    return device, keys.create_key(session, team, name, DEVICE, made_by=made_by, device=device.id)[1]


def remove(session: Session, team: str, device_id: str) -> None:
    """End a device and its keys; what it has not measured yet fails. Raises NotFound."""
    device = profiles.get_device(session, team, device_id)
    device.deleted_at = now()
    session.execute(update(ApiKey).where(ApiKey.device_id == device_id, keys.is_active()).values(revoked_at=now()))
    profiles.fail_of_device(session, device_id)
