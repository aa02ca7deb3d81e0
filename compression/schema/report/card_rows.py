"""What a job's original and its shipped model cost on the GPU that it trained on, by runtime. Torch-free."""

from typing import Annotated

from pydantic import Field

from compression.schema.config import Config
from compression.schema.report.written import plain
from compression.schema.stages import Stage


class CardState(Config):
    """A GPU's clocks and limits at one moment, as NVML tells them."""

    sm_mhz: Annotated[int | None, Field(description="Clock of its processors.")] = None
    memory_mhz: int | None = None
    power_limit_watts: float | None = None
    temperature_celsius: int | None = None
    missing: Annotated[str | None, Field(description="Why figures are null.")] = None

    @property
    def text(self) -> str:
        """Return the state as text."""
        units = {"MHz": self.sm_mhz, "MHz of memory": self.memory_mhz, "W at most": self.power_limit_watts}
        units["°C"] = self.temperature_celsius
        known = [f"{value:g} {unit}" for unit, value in units.items() if value is not None]
        return ", ".join([*known, *([f"unknown: {self.missing}"] if self.missing is not None else [])])


class CardFigures(Config):
    """One shape's figures. Of a language model a pass is a prompt, and `decode` one further token of each row."""

    batch: int
    length: Annotated[int, Field(description="Tokens of each row; 0 if rows have none.")]
    median_ms: Annotated[float, Field(description="Of a pass.")]
    p95_ms: float
    runs: int
    rows_per_second: float
    prefill_per_second: Annotated[float | None, Field(description="Tokens of prompts, all rows together.")] = None
    decode_ms: float | None = None
    decode_per_second: Annotated[float | None, Field(description="Further tokens, all rows together.")] = None
    peak_bytes: Annotated[int | None, Field(description="Most memory of the GPU in PyTorch; null of other runtimes.")] = None


class CardRow(Config):
    """One model in one runtime: its figures, and the reason if there are none, or none of larger batches."""

    stage: Annotated[Stage, Field(description="That the model is of; the original is the baseline.")]
    runtime: Annotated[str, Field(description="For example: PyTorch bfloat16.")]
    version: str | None = None
    timed_by: Annotated[str | None, Field(description="device events, or the host's clock around a synchronized pass.")] = None
    figures: tuple[CardFigures, ...] = ()
    not_measured: str | None = None
    exclusive: Annotated[bool, Field(description="Whether no other job was timed on this host meanwhile.")] = True

    @property
    def text(self) -> str:
        """Return the row as a line for people."""
        place = f"{self.stage} in {self.runtime}{'' if self.exclusive else ' (while another job was perhaps timed)'}"
        if not self.figures:
            return f"{place} not measured: {self.not_measured}"
        more = f"; larger batches not measured: {self.not_measured}" if self.not_measured is not None else ""
        return f"{place}: {'; '.join(map(_figures, self.figures))}{more}"


class CardReport(Config):
    """All rows, and the state of the GPU around them."""

    device: Annotated[str, Field(description="Its name.")]
    before: CardState
    after: CardState
    rows: tuple[CardRow, ...]

    @property
    def conditions(self) -> str:
        """Return the state of the GPU as text."""
        ends = [self.before.text, self.after.text]
        return f"The GPU before: {ends[0]}; after: {ends[1]}." if ends[0] != ends[1] else f"The GPU: {ends[0]}."


def _figures(found: CardFigures) -> str:
    shape = f"batch {found.batch}" + (f" × {found.length} tokens" if found.length else "")
    parts = [f"{shape} {plain(found.median_ms)} ms", f"{found.rows_per_second:,.0f} rows a second"]
    if found.decode_ms is not None:
        parts.append(f"{plain(found.decode_ms)} ms a further token")
    if found.peak_bytes is not None:
        parts.append(f"{found.peak_bytes / 1e9:.2f} GB")
    return ", ".join(parts)
