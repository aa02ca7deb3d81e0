"""The figures of a profile that lists show: what is left without raw samples and layers. Torch-free."""

from typing import Annotated

from pydantic import Field

from compression.schema.config import Config
from compression.schema.profile import Energy, Load, MemoryRange, Positive, Profile, ProfileRequest
from compression.schema.report.measurements import NotMeasured


class ProfileFigures(Config):
    """A profile in short."""

    request: Annotated[ProfileRequest, Field(description="What was asked, with its length or resolution filled in.")]
    runtime: str
    load: Load
    median_ms: Annotated[Positive, Field(description="Of one pass over the batch.")]
    p95_ms: Positive
    rows_per_second: Positive
    decode_ms: Annotated[Positive | None, Field(description="Median of a further token of each row, of language models.")] = (
        None
    )
    memory: MemoryRange | NotMeasured
    energy: Energy | NotMeasured

    @classmethod
    def of(cls, profile: Profile) -> "ProfileFigures":
        """Return a profile's figures."""
        same = {name: getattr(profile, name) for name in ("request", "runtime", "load", "rows_per_second", "memory", "energy")}
        decode = profile.decoding.median_ms if profile.decoding else None
        return cls(median_ms=profile.latency.median_ms, p95_ms=profile.latency.p95_ms, decode_ms=decode, **same)
