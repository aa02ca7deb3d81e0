"""Rows of a job that went well or badly, and what is said of them."""

import math
from typing import Any

from compression.planning.verdicts import judged
from compression.schema.recipe.recipe import Recipe, Targets
from compression.schema.report.measurements import Remedy, Row, Score, StageVerdict
from compression.schema.report.ratios import ratios
from tests.client.figures import row

TARGETS = Targets()
"""−30.5 % parameters, −72.9 % bytes, 1.445 times faster, 99.2 % kept: of 80 % that is 79.36 %."""
RECIPE = Recipe()
BASELINE = row("baseline", 20_000_000, 80_000_000, 16.0, 0.8)
QUANTIZED = row("quantized", 20_000_000, 20_000_000, 8.0, 0.798)


def pruned(score: float = 0.6, *, ms: float = 6.4, **changes: Any) -> Row:
    return row("pruned", 13_000_000, 14_000_000, ms, score, **changes)


def distilled(score: float = 0.798, *, size: int = 14_000_000, ms: float = 6.4, **changes: Any) -> Row:
    return row("distilled", 13_000_000, size, ms, score, **changes)


def perplexity_of(value: float, error: float, rows: int, chance: float) -> Score:
    metrics = {"perplexity": value, "loss": math.log(value), "next_token_accuracy": 0.4}
    figures = {"metrics": metrics, "value_at_batch_32": value, "rows": rows, "rows_changed_by_batching": 0, "chance": chance}
    return Score(metric="perplexity", value=value, lower_is_better=True, standard_error=error, **figures)


def scored(plain: Row, score: Score, first: Row, before: Score) -> Row:
    """Give a row another score, and the ratios to a first row that has another too."""
    found = ratios((first.parameters, first.size, before), (plain.parameters, plain.size, score), plain.latency)
    return plain.model_copy(update={"score": score, "ratios": found})


def verdict(recipe: Recipe, *rows: Row, targets: Targets = TARGETS, **more: Any) -> StageVerdict:
    *before, last = rows
    return judged(last, before, recipe, targets, **more).verdict


def offered(recipe: Recipe, *rows: Row, **more: Any) -> dict[str, Remedy]:
    return {remedy.key: remedy for remedy in verdict(recipe, *rows, **more).remedies}
