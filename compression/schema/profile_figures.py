"""The figures of a profile that lists show: what is left without raw samples and layers. Torch-free."""

from collections.abc import Sequence
from typing import Annotated

from pydantic import Field

from compression.schema.config import Config
from compression.schema.profile import Energy, LayerTime, Load, MemoryRange, NotNegative, Positive, Profile, ProfileRequest
from compression.schema.report.measurements import NotMeasured

MOST_OPERATORS = 40
"""Types of operators that are kept, the slowest first."""
MOST_NAMES = 3


class OperatorTime(Config):
    """All layers of one type."""

    type: Annotated[str, Field(description="The operator, as the runtime names it.")]
    count: int
    ms: Annotated[NotNegative, Field(description="Of all of them in one pass.")]
    slowest: Annotated[tuple[str, ...], Field(description=f"Names of the slowest layers, at most {MOST_NAMES}.")]


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
    operators: Annotated[tuple[OperatorTime, ...], Field(max_length=MOST_OPERATORS)] = ()
    """Time by type, the slowest first; empty if the runtime does not tell, and in older profiles."""

    @classmethod
    def of(cls, profile: Profile) -> "ProfileFigures":
        """Return a profile's figures."""
        same = {name: getattr(profile, name) for name in ("request", "runtime", "load", "rows_per_second", "memory", "energy")}
        decode = profile.decoding.median_ms if profile.decoding else None
        layers = () if isinstance(profile.layers, NotMeasured) else operator_times(profile.layers)
        return cls(
            median_ms=profile.latency.median_ms, p95_ms=profile.latency.p95_ms, decode_ms=decode, operators=layers, **same
        )


def operator_times(layers: Sequence[LayerTime]) -> tuple[OperatorTime, ...]:
    """Sum the times of layers by type; return the slowest types first, at most MOST_OPERATORS."""
    by_type: dict[str, list[LayerTime]] = {}
    for layer in sorted(layers, key=lambda layer: -layer.ms):
        by_type.setdefault(layer.type, []).append(layer)
    found = [
        OperatorTime(
            type=kind,
            count=len(own),
            ms=sum(layer.ms for layer in own),
            slowest=tuple(layer.name for layer in own[:MOST_NAMES]),
        )
        for kind, own in by_type.items()
    ]
    return tuple(sorted(found, key=lambda one: -one.ms)[:MOST_OPERATORS])
