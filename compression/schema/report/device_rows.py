"""What devices measured of a job's shipped artifacts. Torch-free.

The worker adds it to the report once the engine has finished: engines have no network.
"""

from typing import Annotated, Literal

from pydantic import Field

from compression.schema.config import Config
from compression.schema.profile import ProfileFailure
from compression.schema.profile_figures import ProfileFigures
from compression.schema.report.written import plain


class DeviceRow(Config):
    """One shipped artifact on one device of evaluate.devices. Of figures, error and reason it has one."""

    device: Annotated[str, Field(description="Its name.")]
    artifact: str
    state: Literal["done", "failed", "not_measured"]
    """failed: the device tried, and `error` says what went wrong. not_measured: it did not, for `reason`."""
    profile: Annotated[str | None, Field(description="Id of the profile, where one was requested.")] = None
    figures: ProfileFigures | None = None
    error: ProfileFailure | None = None
    reason: str | None = None

    @property
    def latency_ms(self) -> float | None:
        """Return what a target of latency is compared with: a pass, or a language model's further token."""
        return None if self.figures is None else self.figures.decode_ms or self.figures.median_ms

    @property
    def text(self) -> str:
        """Return the row as a line for people."""
        place = f"{self.device}: {self.artifact}"
        if self.figures is not None:
            found, asked = self.figures, self.figures.request
            shape = f"batch {asked.batch}" + (f" × {asked.length} tokens" if asked.length else "")
            token = f", {plain(found.decode_ms)} ms a further token" if found.decode_ms else ""
            times = f"{plain(found.median_ms)} ms, 95th percentile {plain(found.p95_ms)} ms{token}"
            return f"{place} {times} ({shape}, {found.runtime})"
        if self.error is not None:
            return f"{place} failed ({self.error.code}): {self.error.detail} {self.error.remedy}".rstrip()
        return f"{place} not measured: {self.reason}"
