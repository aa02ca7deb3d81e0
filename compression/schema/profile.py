"""A profile: what one artifact costs on one device. Torch-free.

The service stores what is asked (`ProfileRequest`), the device's process measures it, and the answer is a `Profile` or a
`ProfileFailure`.
"""

import shlex
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from compression.schema.config import Config
from compression.schema.report.measurements import NotMeasured

MOST_SAMPLES = 10_000
"""Raw latencies that a profile keeps."""
MOST_LAYERS = 20_000

Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
NotNegative = Annotated[float, Field(ge=0, allow_inf_nan=False)]


class ProfileRequest(Config):
    """What to measure. `length` is of text, `resolution` of images; the artifact's own where neither is given."""

    batch: Annotated[int, Field(ge=1, le=4096, description="Rows of one pass.")] = 1
    length: Annotated[int | None, Field(ge=1, le=1_000_000, description="Tokens of a row.")] = None
    resolution: Annotated[int | None, Field(ge=1, le=8192, description="Side of a square image in pixels.")] = None
    seconds: Annotated[float, Field(gt=0, le=600, description="Time that passes are timed, and energy is read, for.")] = 10.0
    threads: Annotated[int, Field(ge=1, le=256, description="Threads of the runtime.")] = 1

    @model_validator(mode="after")
    def _one_size(self) -> Self:
        if self.length is not None and self.resolution is not None:
            raise ValueError("length is of text and resolution of images: give one")
        return self

    def command(self, artifact: str, device: str) -> str:
        """Return the command that asks for it. artifact: an id; device: its name."""
        given = {name: str(value) for name, value in self if value is not None} | {"seconds": f"{self.seconds:g}"}
        asked = " ".join(f"--{name} {value}" for name, value in given.items())
        return f"lathe profile {artifact} --device {shlex.quote(device)} {asked}"


class ProfileSpec(Config):
    """The input of `python -m compression profile`. A relative folder starts at the spec's own."""

    version: Literal[1] = 1
    folder: Annotated[str, Field(description="Of the artifact as it was downloaded, with its manifest.json, or the one above.")]
    kind: Annotated[str | None, Field(description="The artifact's format; null: what its manifest says.")] = None
    request: ProfileRequest = ProfileRequest()


class DeviceFacts(Config):
    """What a device's process found out about its machine."""

    machine: Annotated[str, Field(max_length=200, description="Architecture and system, for example 'x86_64 Linux'.")]
    processor: Annotated[str | None, Field(max_length=200, description="The processor's name; null where unknown.")] = None
    cores: Annotated[int, Field(ge=1, description="Cores that the process may use.")]
    memory_bytes: Annotated[int | None, Field(ge=1)] = None
    runtimes: Annotated[dict[str, str], Field(max_length=50, description="Versions of the runtimes it has, by name.")]
    sensor: Annotated[str | NotMeasured, Field(description="What its energy is read from, or why it cannot be.")]


class ProfiledLatency(Config):
    """Time of one pass over the batch, after warm-up. Milliseconds."""

    median_ms: Positive
    p95_ms: Positive
    samples_ms: Annotated[list[Positive], Field(min_length=1, max_length=MOST_SAMPLES)]
    """In order of measurement; of more passes than fit, evenly spaced ones. Median and percentile are of all."""


class Load(Config):
    """Time from importing the runtime to the first answer, each in a fresh process. Milliseconds."""

    first_ms: Annotated[Positive, Field(description="Of the first opening, with no file in the cache if the system allows.")]
    warm_ms: Annotated[Positive, Field(description="Median of later openings, with the files in the system's cache.")]


class MemoryRange(Config):
    """Resident memory of the measuring process while it times. Bytes."""

    min_bytes: Annotated[int, Field(ge=0)]
    max_bytes: Annotated[int, Field(ge=0)]


class LayerTime(Config):
    """One layer of the runtime's own graph."""

    name: Annotated[str, Field(max_length=500)]
    type: Annotated[str, Field(max_length=200, description="The operator, as the runtime names it.")]
    ms: Annotated[NotNegative, Field(description="Mean time in one pass.")]


class Energy(Config):
    """Energy above idle. The idle power is measured just before, over a window as long."""

    joules_per_row: NotNegative
    watts: Annotated[NotNegative, Field(description="Mean power while it computes, less idle.")]
    idle_watts: NotNegative
    window_seconds: Annotated[Positive, Field(description="Length of each of the two windows.")]
    error_watts: Annotated[NotNegative, Field(description="Standard error of `watts`, from the windows' parts.")]
    source: Annotated[str, Field(max_length=200, description="Counter that was read, for example 'RAPL package-0'.")]


class Profile(Config):
    """What an artifact costs on a device. A figure that cannot be had has the reason in its place."""

    request: Annotated[ProfileRequest, Field(description="What was asked, with its length or resolution filled in.")]
    runtime: Annotated[str, Field(max_length=200, description="Runtime and version, for example 'openvino 2026.4.0 CPU'.")]
    device: DeviceFacts
    load: Load
    latency: ProfiledLatency
    rows_per_second: Annotated[Positive, Field(description="Rows, images (frames) or prompts a second, over the whole window.")]
    memory: MemoryRange | NotMeasured
    decoding: Annotated[ProfiledLatency | None, Field(description="Of a further token of each row; else null.")] = None
    layers: Annotated[list[LayerTime], Field(max_length=MOST_LAYERS)] | NotMeasured
    energy: Energy | NotMeasured


FailureCode = Literal["out_of_memory", "unsupported", "version_mismatch", "device_lost", "bad_artifact", "failed"]
"""`unsupported`: an operator, type or format that the device's runtime lacks. `device_lost`: it stopped answering."""


class ProfileFailure(Config):
    """Why a device could not profile an artifact. Typed, so that who asked can act on it."""

    code: FailureCode
    detail: Annotated[str, Field(max_length=4000)]
    remedy: Annotated[str, Field(max_length=4000)]
    subject: Annotated[str | None, Field(max_length=500, exclude_if=lambda value: value is None)] = None
    """The operator, input or version at fault; null if it is not known."""
    request: Annotated[ProfileRequest | None, Field(exclude_if=lambda value: value is None)] = None
    """The same request with a size that the artifact takes; null if its sizes are not at fault."""
