"""Described devices: machines that are known by their data sheets alone, which bound a latency and measure none. Torch-free.

Each is a file of data/devices/, whose name is the device's. A figure that its maker does not state is null.
"""

import json
from functools import cache
from importlib.resources import files
from typing import Annotated

from pydantic import Field

from compression.schema.config import Config

Rate = Annotated[float, Field(gt=0)]


class DescribedDevice(Config):
    """What a data sheet states of a device. Nothing here was measured."""

    name: Annotated[str, Field(description="What a target of latency names it by.")]
    title: str
    fp32_flops: Annotated[Rate | None, Field(description="Peak operations a second in float32.")]
    tf32_flops: Annotated[Rate | None, Field(description="The same in TF32, without sparsity.")]
    half_flops: Annotated[Rate | None, Field(description="The same in bfloat16 or float16, without sparsity.")]
    int8_ops: Annotated[Rate | None, Field(description="The same of 8-bit integers, without sparsity.")]
    bandwidth: Annotated[Rate | None, Field(description="Bytes a second of its memory.")]
    memory_bytes: Annotated[Rate | None, Field(description="Largest memory that it is sold with.")]
    cache_bytes: Annotated[Rate | None, Field(description="Its processor's caches: weights may stay there between passes.")]
    power_watts: Annotated[Rate | None, Field(description="Highest power that it is specified for.")]
    source: Annotated[str, Field(description="Title of the data sheet, with its version or date.")]


@cache
def described_devices() -> dict[str, DescribedDevice]:
    """Return all described devices by name."""
    folder = files("compression.schema") / "data" / "devices"
    found = sorted((entry for entry in folder.iterdir() if entry.name.endswith(".json")), key=lambda entry: entry.name)
    named = {entry.name.removesuffix(".json"): json.loads(entry.read_bytes()) for entry in found}
    return {name: DescribedDevice(name=name, **facts) for name, facts in named.items()}


def described_device(name: str) -> DescribedDevice | None:
    """Return the described device of a name, in any case; None if there is none."""
    return described_devices().get(name.lower())
