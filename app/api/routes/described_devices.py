"""/v1/described-devices: devices that are known by their data sheets alone."""

from fastapi import APIRouter

from app.api.dependencies import CallerDep
from app.core.schemas import Page
from compression.schema.described_devices import DescribedDevice, described_devices

router = APIRouter(prefix="/v1/described-devices", tags=["devices"])


@router.get("", response_model=Page[DescribedDevice])
def described(_caller: CallerDep) -> Page[DescribedDevice]:
    """List devices that are known by their data sheets alone. They bound a latency in forecasts; none was measured."""
    return Page(items=list(described_devices().values()), next_page_token=None)
