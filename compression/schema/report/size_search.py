"""The sizes that a recipe with `auto` tried, what each kept, and which one it took. Torch-free."""

from typing import Annotated, Literal

from pydantic import Field

from compression.schema.config import Config
from compression.schema.report.measurements import Shape

UNITS = {"parameters": "parameters", "latency": "predicted milliseconds"}
"""What a size's cost is a share of, by the search's objective."""


class KeptAfter(Config):
    """What a training had kept after so many steps."""

    steps: Annotated[int, Field(ge=0, description="Optimizer steps.")]
    kept: Annotated[float, Field(description="Share of the original's score on validation, by the engine's own model.")]


class SizeTried(Config):
    """A size that was cut and distilled, shortly or fully."""

    kind: Literal["short", "full"]
    share: Annotated[float, Field(description="The most parameters (or milliseconds) that were allowed, of the whole model's.")]
    shape: Annotated[Shape, Field(description="Of a network also with the groups of the residual blocks that go.")]
    layers: Annotated[tuple[int, ...], Field(description="Numbers of the layers, or residual blocks, that stay.")]
    parameters: int
    cost: Annotated[float, Field(description="Parameters, or predicted milliseconds, as share of the whole model's.")]
    error: Annotated[float, Field(description="Predicted by the error tables, summed over the layers.")]
    steps: Annotated[int, Field(description="Optimizer steps of its distillation.")]
    epochs: Annotated[int, Field(description="Passes over its rows.")]
    general_epochs: Annotated[int, Field(description="Of the general phase before it; short distillations have none.")] = 0
    curve: tuple[KeptAfter, ...] = ()
    """On validation, epoch by epoch; empty if it is not done."""
    score: Annotated[float | None, Field(description="The task's metric on validation, of the best epoch.")] = None
    kept: Annotated[float | None, Field(description="Share of the original's score, of the best epoch.")] = None
    kept_error: Annotated[float | None, Field(description="Standard error of `kept`, of the rows' paired differences.")] = None
    expected: Annotated[float | None, Field(description="What a full distillation is expected to keep; null: is one.")] = None
    seconds: Annotated[float | None, Field(description="Of its training, with the teacher's answers.")] = None
    judging_seconds: Annotated[float | None, Field(description="Of a pass over validation, with its score.")] = None
    error_seconds: Annotated[float | None, Field(description="Of `kept_error`.")] = None
    chosen: Annotated[bool, Field(description="Whether this is the model that the job goes on with.")] = False

    def text(self, of_what: str) -> str:
        """Return the size and what came of it as one line. of_what: what its cost is a share of."""
        how = "short" if self.kind == "short" else "full"
        size = f"{self.parameters:,} parameters, {100 * self.cost:.1f} % {of_what}"
        what = f"{size} ({self.shape.short}), error {self.error:.3g}"
        if self.kept is None:
            return f"{how}: {what}: not distilled"
        kept = f"keeps {100 * self.kept:.2f} ± {100 * (self.kept_error or 0):.2f} % after {self.steps:,} steps"
        expected = f", {100 * self.expected:.2f} % expected of a full one" if self.expected is not None else ""
        return f"{how}: {what}: {kept}{expected}{', chosen' if self.chosen else ''}"


class SizeSearch(Config):
    """The search for the smallest, or fastest, model that keeps the target."""

    retention: Annotated[float, Field(description="The target: share of the original's score on validation.")]
    objective: Literal["parameters", "latency"]
    budget_minutes: Annotated[float, Field(description="Of the dataset.")]
    minutes: Annotated[float, Field(description="Of the job on this dataset, when this was written.")]
    original: Annotated[float, Field(description="The original's score on validation, by the engine's own model.")]
    whole: Annotated[int, Field(description="Parameters of the original.")]
    ship_seconds: Annotated[float, Field(description="Assumed for each export and measurement that follows.")] = 0.0
    weights: dict[str, float] = Field(default_factory=dict)
    """What the errors of groups and layers count, as corrected by outcome."""
    gain: Annotated[float, Field(description="What is lost falls with steps to minus this power, by the curves so far.")] = 0.0
    tried: tuple[SizeTried, ...] = ()
    why: Annotated[str, Field(description="Why the chosen size was, and what it would take to meet a missed target.")] = ""

    @property
    def lines(self) -> tuple[str, ...]:
        """Return the sizes, and why one was chosen, as lines."""
        return (*(one.text(self.of_what) for one in self.tried), self.why)

    @property
    def of_what(self) -> str:
        """Return what the sizes' costs are shares of, for people."""
        return "of the original" if self.objective == "parameters" else f"of the original's {UNITS[self.objective]}"
