"""What the account asks for and reports, and the targets of a job that asks for the same."""

from dataclasses import dataclass

from compression.schema.recipe.presets import PUBLISHED
from compression.schema.recipe.recipe import Targets

LATENCY_DEVICE = "A100-80GB"
"""The A100 of the account by its name among the described devices; which of the two it had is not told."""
LATENCY_CARD = "A100"
"""What both are called in the name that a card tells of itself."""
LATENCY = {"value": 120.0, "device": LATENCY_DEVICE}
TARGETS = Targets.model_validate({"parameters": 1.5e9, "latency_ms": LATENCY, "score": 74.3})
"""Its targets, which are absolute. What a job compares with its baseline are its results: the defaults of `Targets`."""


@dataclass(frozen=True)
class Figure:
    """One figure of the account, as text. target: what was asked; None: nothing was."""

    name: str
    target: str | None
    before: str
    after: str
    change: str


FIGURES = (
    Figure("parameters", "≤ 1.5 B", "2.13 B", "1.48 B", "−30.5 %"),
    Figure("latency on an A100", "≤ 120 ms", "185 ms", "128 ms", "−30.8 %"),
    Figure("size", None, "8.5 GB", "2.3 GB", "−72.9 %"),
    Figure("score", "top-1 ≥ 74.3 %", "GLUE 84.2", "GLUE 83.5", "99.2 % kept"),
)
"""Before and after as published; 185 ms follows from 128 ms and −30.8 %. Its own result misses the latency that it asks for."""
REDUCTION = PUBLISHED["target_params"]
"""Share of the parameters that goes."""
SHAPES = {"1.5b": "r1-distill-qwen-1.5b", "2.1b": "account-2.1b"}
"""Names of shapes in bench/gpu_plan/shapes.py."""
