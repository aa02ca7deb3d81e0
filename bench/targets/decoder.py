"""SmolLM2 with 30 % fewer parameters: the preset `language` against widths by the solver, and by `auto`, on the same tokens.

All train on the same articles of WikiText's validation file for the same epochs, and their files answer the same windows of
test, once. `language` is what the service did before there were tables. `auto` looks for the smallest size that keeps 99 %
within the same limit; no size does, so what it ships is the mildest that the limit allows.
"""

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from scipy.stats import t

from bench import engine
from bench.account.job import digest_of
from bench.examples import model_folder
from bench.language import __main__ as language, wikitext
from bench.targets.steps import Clock, Facts, Place, Step, head, line, records_of, told
from compression.modalities.text.scoring.perplexity import WindowLosses, added_loss, figures
from compression.schema.job_spec import Data
from compression.schema.recipe.presets import merged
from compression.schema.recipe.recipe import Evaluate, Recipe
from compression.schema.report.measurements import Row, Score, Shape

REMOVED, EPOCHS = 0.30, 1
TEXT = Path("text", "wikitext2_valid.txt")
_SOLVED = {"search": "solver", "ratio": 0.4, "axes": ["hidden", "heads", "ffn"], "reconstruct": False}
SIDES: dict[str, dict[str, Any]] = {
    "language": {"prune": {"search": None}},
    "solver": {"prune": _SOLVED},
    "auto": {"prune": _SOLVED, "auto": {"budget_minutes": 60.0, "steps": 24}},
}
"""Changes of the preset. The solver's cut solves weights itself, so it needs no least squares after it. An epoch has 49 steps,
of which a short distillation takes half.
"""
FIRST = "language"  #: the side whose original, and its integers, the others take over
RETENTION = 0.99  #: that `auto` is told to keep
FIELDS = ("tokens", "bytes", "loss", "right")


@dataclass(frozen=True)
class Plan:
    """What all sides do alike. removed: the share of the parameters; changes: of the preset."""

    epochs: int = EPOCHS
    removed: float = REMOVED
    changes: Mapping[str, Any] = field(default_factory=lambda: {"prune": {"multiple": 8}, "artifacts": ()})
    length: int = 128  #: of the passes that are timed

    def at(self, side: str) -> Recipe:
        """Return a side's recipe."""
        recipe = Recipe.model_validate(merged(language.recipe_of(self.epochs, None, 0), self.changes))
        own = {**SIDES[side], "prune": {"target_params": self.removed, **SIDES[side]["prune"]}}
        return Recipe.model_validate(merged(recipe, own))


PLAN = Plan()


def steps(place: Place, plan: Plan = PLAN) -> Iterator[Step]:
    """Yield a step for each side."""
    model, text = model_folder("smollm2", place.examples), place.data / TEXT
    digest = hashlib.sha256(text.read_bytes()).hexdigest()[:16]
    folder = (place.folder / f"data/wikitext-{digest}").resolve()
    wikitext.write(text, folder)
    for side in SIDES:
        recipe = plan.at(side)
        about = {"model": digest_of(model), "text": digest, "recipe": recipe.model_dump(mode="json")}
        every = tuple(_folder(place, one) for one in SIDES) if side == [*SIDES][-1] else ()
        yield Step(side, about, partial(_cut, place, model, folder, recipe, side, plan.length), every)


def _folder(place: Place, side: str) -> Path:
    """Return the folder of a side's run."""
    return place.folder / "decoder" / side


def _cut(place: Place, model: Path, folder: Path, recipe: Recipe, side: str, length: int, clock: Clock) -> Facts:
    """Run a side's job; score the original's file and the last stage's on test."""
    data = Data(format="jsonl", splits={name: (str(folder / f"{name}.jsonl"),) for name in ("train", "validation", "test")})
    spec: dict[str, Any] = {"task": "causal-lm", "model": str(model), "data": data, "recipe": recipe}
    spec |= {"evaluate": Evaluate(tokens=10**9, length=length), "threads": place.threads}
    spec |= {"targets": {"retention": RETENTION}} if recipe.auto is not None else {}
    first = _folder(place, FIRST)
    after = first if side != FIRST and (first / "done.json").is_file() else None
    run = engine.run(_folder(place, side), spec, keep={"onnx"}, after=after, minutes=clock.left())
    whole = run if after is None else engine.Run(first, run.report, {}, 0.0)  # what is taken over is not written again
    original, last = run.report.rows[0], run.report.rows[-1]
    found: Facts = {"shape": last.shape.model_dump(mode="json"), "seconds": run.seconds}
    found |= {"parameters": {"before": original.parameters.total, "after": last.parameters.total}}
    found |= {"tokens": run.report.splits["train"].tokens, "validation": score_of(last)}
    found["sizes"] = run.report.sizes.model_dump(mode="json") if run.report.sizes is not None else None
    found["stages"] = {row.stage: {"notes": row.notes, "validation": score_of(row)} for row in run.report.rows}
    for name, artifact in (("before", whole.artifact(original.artifact)), ("after", run.artifact(last.artifact))):
        losses = language.as_shipped(artifact, folder, recipe.train.max_length)
        found[name] = {each: getattr(losses, each).tolist() for each in FIELDS}
    return found


def score_of(row: Row) -> float | None:
    """Return a row's perplexity on validation; None if it was not scored."""
    return row.validation.value if isinstance(row.validation, Score) else None


def losses_of(record: Mapping[str, Any], name: str) -> WindowLosses:
    """Return the losses of a record's file on the texts of test. name: before or after."""
    return WindowLosses(*(np.array(record[name][each]) for each in FIELDS))


def table(records: Path) -> str:
    """Return the records as a line a side, and what they come to."""
    found = dict(records_of(records))
    lines = head("side", "parameters", "shape", "tokens taught", "loss on test, nats a token", "original")
    for side, record in found.items():
        count, (after, before) = record["parameters"], (figures(losses_of(record, name)).loss for name in ("after", "before"))
        size = f"{count['after'] / 1e6:.1f} M ({count['after'] / count['before'] - 1:+.1%})"
        taught = record["tokens"] * record["about"]["recipe"]["distill"]["epochs"]
        losses = (f"{after.value:.4f} ± {after.standard_error or 0:.4f}", f"{before.value:.4f}")
        lines.append(line(side, size, Shape.model_validate(record["shape"]).short, f"{taught:,}", *losses))
    others = [side for side in SIDES if side in found and side != FIRST]
    lines += ["", *(_apart(found, side) for side in others)] if others and FIRST in found else []
    return "\n".join(lines)


def _apart(found: Mapping[str, Mapping[str, Any]], side: str) -> str:
    """Return how far a side's loss is from the preset's, paired by text."""
    preset, own = (losses_of(found[one], "after") for one in (FIRST, side))
    gap, texts = added_loss(preset, own), len(preset.tokens)
    reach = float(t.ppf(0.975, texts - 1)) * (gap.standard_error or 0.0)
    below = "cannot tell" if abs(gap.value) <= reach else told(holds=gap.value < 0)
    whole = f"{gap.value:+.4f} [{gap.value - reach:+.4f}, {gap.value + reach:+.4f}] nats a token"
    return f"Loss of `{side}` less that of `{FIRST}`, of {texts} texts: {whole} (below: {below})."
