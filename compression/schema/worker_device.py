"""What a worker knows of the device that its engines compute on: a probe's request, and what it found. Torch-free."""

from typing import Annotated, Any, Literal

from pydantic import Field, ValidationError

from compression.schema.config import Config

DeviceKind = Literal["cpu", "cuda"]
WantedDevice = Literal["any", "cpu", "cuda"]
"""What a job may ask for."""
DEVICE_PATTERN = r"^(cpu|(auto|cuda)(:[0-9]{1,3})?|cuda:[0-9]{1,3}(,[0-9]{1,3}){1,63})$"
"""What a worker may be told to compute on."""


class ProbeSpec(Config):
    """The input of `python -m compression probe`."""

    kind: DeviceKind
    measure: bool = True
    """Whether rates are measured, besides what works."""
    threads: Annotated[int | None, Field(ge=1, le=1024, description="Of a CPU; all cores where null.")] = None


class DeviceRates(Config):
    """Best rates of large matrix products, in floating-point (int8: integer) operations per second; null: it does not work."""

    float32: float | None = None
    """Without TF32."""
    tf32: float | None = None
    bfloat16: float | None = None
    float16: float | None = None
    int8: float | None = None
    """Products of 8-bit integers, summed in 32 bits (torch._int_mm)."""
    bytes: float | None = None
    """Bytes read and written per second by a copy within the device's memory."""


class WorkerDevice(Config):
    """A worker's device, in its row under `facts.device`."""

    kind: DeviceKind
    name: str
    memory_bytes: int
    """Of the card, of several the smallest; of a CPU, of the machine or its container."""
    cards: int = 1
    """Cards that the worker has; the other facts are of the first."""
    capability: str | None = None
    """Compute capability of a card, as 8.0."""
    driver: str | None = None
    """Version of the card's kernel driver."""
    runtime: str | None = None
    """Version of CUDA that torch was built with."""
    dtypes: tuple[str, ...] | None = None
    """In which products came out right; null: nobody has tried yet."""
    rates: DeviceRates | None = None
    """null: not measured yet."""
    scores: tuple[str, ...] = ()
    """Formats of artifacts that are scored on the card."""
    lost: str | None = None
    """Why the device does not work now; its worker takes no jobs until a probe finds it again."""

    def summary(self) -> str:
        """Return its figures in one line for people; memory of cards alone, because a CPU's is the worker's."""
        parts = [f"{self.memory_bytes / 1e9:.1f} GB"] if self.kind == "cuda" else []
        parts += [f"compute capability {self.capability}"] if self.capability else []
        parts += [f"driver {self.driver}"] if self.driver else []
        if self.rates is not None:
            each = ((name, getattr(self.rates, name)) for name in PRODUCTS)
            rates = [f"{name} {rate / 1e12:.3g}" for name, rate in each if rate is not None]
            parts += [f"tera-operations/s: {', '.join(rates)}"] if rates else []
            parts += [f"copies {self.rates.bytes / 1e9:.3g} GB/s"] if self.rates.bytes is not None else []
        return "; ".join(parts)


PRODUCTS = ("float32", "tf32", "bfloat16", "float16", "int8")
"""The formats of `DeviceRates`, in the order in which they are shown."""


def read_device(facts: dict[str, Any]) -> WorkerDevice | None:
    """Return the device of a worker's facts; None if the worker is of a version that reports it otherwise."""
    try:
        return WorkerDevice.model_validate(facts.get("device"))
    except ValidationError:
        return None
