"""What the service answers about devices and profiles, as typed objects."""

from datetime import datetime

from client.types import Answer, Artifact
from compression.schema.profile import DeviceFacts, Profile as Measured, ProfileRequest
from compression.schema.profile_figures import ProfileFigures
from compression.schema.profile_remedies import ProfileRemedy


class Device(Answer):
    """A machine that measures artifacts."""

    id: str
    name: str
    facts: DeviceFacts | None = None
    """Of its last profile."""
    waiting: int = 0
    last_heard: datetime | None = None
    created_at: datetime | None = None
    mine: bool = False
    """Whether the request came with the device's own key."""


class NewDevice(Device):
    """A new device, in the only answer that shows its key."""

    key: str


class DeviceTable(Answer):
    """What a device table holds for. Its times: `Lathe.device_table(ID)`."""

    id: str
    processor: str
    instructions: str = ""
    threads: int = 1
    """Threads of the runtimes."""
    runtimes: dict[str, str]
    """Versions by name."""
    rows: int = 0
    exclusive: bool = True
    worker: str | None = None
    measured_at: datetime | None = None


class Failure(Answer):
    """Why a device could not profile an artifact."""

    code: str
    detail: str = ""
    remedy: str = ""


class Profile(Answer):
    """A profile: requested, measured, or failed. Lists leave out `result`."""

    id: str
    job: str
    artifact: str
    device: str
    device_name: str = ""
    request: ProfileRequest
    state: str
    attempt: int = 0
    figures: ProfileFigures | None = None
    result: Measured | None = None
    error: Failure | None = None
    remedies: tuple[ProfileRemedy, ...] = ()
    created_at: datetime | None = None
    finished_at: datetime | None = None

    @property
    def ended(self) -> bool:
        """Whether it was measured, or never will be."""
        return self.state in ("done", "failed")


class Claim(Answer):
    """A profile that a device is to measure."""

    profile: str
    fence: int
    lease_seconds: float
    request: ProfileRequest
    artifact: Artifact
