"""What a profile suggests: its cause in figures, and the change, the artifact or the profile to try next. Torch-free."""

from typing import Annotated, Literal

from pydantic import Field

from compression.schema.config import Config
from compression.schema.profile import FailureCode, ProfileRequest
from compression.schema.report.measurements import Remedy

SlowCode = Literal[
    "float_products",
    "faster_form",
    "unaligned_widths",
    "unfused_operators",
    "rounding",
    "small_operators",
    "memory_traffic",
    "slow_load",
]
"""Of profiles that were taken; docs/profiles.md says when each is given."""


class ProfileRemedy(Config):
    """A remedy. It is worth a try; the result is not guaranteed. At most one of `change`, `artifact` and `request` is given."""

    code: Annotated[SlowCode | FailureCode, Field(description="Of a profile that failed: the failure's own.")]
    cause: Annotated[str, Field(description="The figures that it is computed from, or what failed.")]
    remedy: str
    change: Annotated[Remedy | None, Field(description="Of the recipe; POST /v1/jobs/{id}/retry makes it.")] = None
    artifact: Annotated[str | None, Field(description="Id of another artifact of the job, to take in its place.")] = None
    request: Annotated[ProfileRequest | None, Field(description="Of a further profile of the same artifact.")] = None
