"""Remedies: which change of the recipe the figures speak for, reckoned from the rows. Torch-free, pure.

The reckoning is coarse on purpose, and each remedy says what it assumed: a size falls with a power of what is left of each
axis, an epoch of distillation brings back the same share of what is still missing, what a cut costs for good grows with the
square of its ratio.
"""

import math
from collections.abc import Iterator, Sequence
from typing import Any

from compression.planning import baseline
from compression.planning.on_disk import untrained
from compression.schema.recipe.base import MOST_EPOCHS, Task
from compression.schema.recipe.distill import Distill
from compression.schema.recipe.presets import LANGUAGE
from compression.schema.recipe.prune import AxisRatios, Prune
from compression.schema.recipe.quantize import Qat, Quantize
from compression.schema.recipe.recipe import MOST_MINUTES, Recipe, Targets
from compression.schema.report.measurements import Remedy, Row, Score, Stage

LEAST_RATIO, MOST_RATIO = 0.01, 0.8
"""Below the one nothing is cut, beyond the other too little is left of a small encoder to be worth a proposal."""
MOST_MORE = 3
"""So many times the epochs are proposed at most; where more were needed, the cut was too deep."""
WIDEST = 99.9999
"""Per cent: a percentile nearer to 100 is the observer min-max."""
POWER = 1.5
"""How a size falls with what is left of each axis, where no cut has shown it: 1 if one side of a matrix shrinks, 2 if both."""


def offered(
    row: Row,
    before: Sequence[Row],
    recipe: Recipe,
    targets: Targets,
    missed: Sequence[str],
    *,
    is_worse: bool,
    limit: str | None,
    task: Task | None = None,
    streamed: bool = False,
) -> tuple[Remedy, ...]:
    """List what would mend the targets that a row misses, where no later stage of the recipe is there to do it.

    Ranges that outliers break are no later stage's to mend, so what would is offered with every row that has some.

    before: the rows of earlier stages, the baseline first; is_worse: an earlier row is better at no cost; limit: the limit of
    training that was reached, if one was; task: stages that are left out are offered as they suit it; streamed: memory does not
    hold the model, so nothing is offered that would train it.
    """
    later = to_come(recipe, before)
    if not before:
        return () if later else tuple(baseline.baseline_remedies(row, row, recipe))
    rows = {each.stage: each for each in (*before, row)}
    found: list[Remedy] = []
    if row.stage == "quantized" and "retention" in missed:
        found += _live_with_integers(rows, recipe, targets)
    if is_worse:
        found += _undo(row, recipe)
    sizes = [name for name in missed if name != "retention"]
    if sizes and not {"quantized", "pruned"} & set(later):
        found += _smaller(row, rows, recipe, targets, sizes, _cut_of(task, streamed=streamed))
    if not {"pruned", "distilled"} & set(later):
        first = list(baseline.baseline_remedies(row, rows["baseline"], recipe))
        found += first
        if ("retention" in missed or first) and limit:
            found += _trained_longer(recipe, rows, limit)
        elif "retention" in missed and not first:
            found += _better(row, rows, recipe, targets, LANGUAGE.distill if task == "causal-lm" else None)
    found += _tamed(row, recipe)
    if streamed:
        found = [remedy for remedy in found if _stays_untrained(recipe, remedy)]
    return tuple({remedy.key: remedy for remedy in reversed(found)}.values())[::-1]


def to_come(recipe: Recipe, before: Sequence[Row]) -> list[Stage]:
    """List the stages of a recipe that follow on the one after `before`, the rows of earlier stages, the baseline first."""
    wanted: dict[Stage, object] = {"quantized": recipe.quantize, "pruned": recipe.prune, "distilled": recipe.distill}
    return ["baseline", *(stage for stage, settings in wanted.items() if settings is not None)][len(before) + 1 :]


def _cut_of(task: Task | None, *, streamed: bool) -> Prune | None:
    """Return the cut that suits a task, if that is not all widths alike; solving what it leaves takes the whole model."""
    if task != "causal-lm" or LANGUAGE.prune is None:
        return None
    return LANGUAGE.prune.model_copy(update={"reconstruct": False}) if streamed else LANGUAGE.prune


def _stays_untrained(recipe: Recipe, remedy: Remedy) -> bool:
    """Say whether a recipe still goes from file to file with a remedy in it."""
    changed = recipe.model_dump(mode="json")
    *way, last = remedy.key.removeprefix("recipe.").split(".")
    place = changed
    for part in way:
        place = place[part]
    place[last] = remedy.proposed
    return untrained(Recipe.model_validate(changed))


def _live_with_integers(rows: dict[Stage, Row], recipe: Recipe, targets: Targets) -> Iterator[Remedy]:
    if recipe.quantize is None:
        return
    first, row = rows["baseline"].judged_score, rows["quantized"].judged_score
    if not isinstance(first, Score) or not isinstance(row, Score):
        return
    lost, may_go = first.worth - row.worth, _may_go(first, targets)
    if lost <= row.worth_error:
        return  # as likely chance as rounding
    took = f"{lost:.4f} nats a token" if first.lower_is_better else f"{lost:.4f} of {first.value:.4f}"
    why = f"Quantization took {took}, where {may_go:.4f} may go"
    yield from _used_to_it(recipe.quantize.qat, why)


def _used_to_it(qat: Qat | None, why: str) -> Iterator[Remedy]:
    """Offer training with the integers, or more of it where a recipe may ask for more."""
    if qat is None or not qat.epochs:
        now = None if qat is None else qat.model_dump()
        why = f"{why}, and no training got used to it."
        yield Remedy(key="recipe.quantize.qat", now=now, proposed=Qat().model_dump(), why=why)
    elif qat.quantized < MOST_EPOCHS:
        yield Remedy(
            key="recipe.quantize.qat.quantized",
            now=qat.quantized,
            proposed=min(max(2 * qat.quantized, 1), MOST_EPOCHS),
            why=f"{why}, after {qat.epochs} epochs of which {qat.quantized} were fully quantized.",
        )


def _may_go(score: Score, targets: Targets) -> float:
    """Say how much of a score's worth the target lets go: a share of it; of a perplexity, whose ratio it is, nats."""
    return -math.log(targets.retention) if score.lower_is_better else (1 - targets.retention) * score.value


def _tamed(row: Row, recipe: Recipe) -> Iterator[Remedy]:
    """Offer what tames ranges that outliers break: smoothing where a layer before takes it, a clipped range, more training."""
    settings = recipe.quantize
    layers = [layer for each in (row, *row.parts.values()) for layer in each.ranges]
    broken = sorted((layer for layer in layers if layer.broken), key=lambda layer: -layer.ratio)
    if settings is None or not broken:
        return
    worst = broken[0]
    why = (
        f"{len(broken)} of {len(layers)} layers have a range that is broken by outliers, worst {worst.layer}: its largest "
        f"|activation| is {worst.ratio:.0f} times what 99 % of them keep below"
    )
    smoothable = [layer for layer in broken if layer.smooths_into is not None]
    if smoothable and settings.smoothing != "search":
        into = f"{len(smoothable)} of them can hand outliers on ({smoothable[0].layer} to {smoothable[0].smooths_into})"
        yield Remedy(key="recipe.quantize.smoothing", now=settings.smoothing, proposed="search", why=f"{why}; {into}.")
    if settings.scheme == "static-int8":
        yield from _clipped(settings, max(layer.beyond for layer in broken), why)
    yield from _used_to_it(settings.qat, why)


def _clipped(settings: Quantize, beyond: float, why: str) -> Iterator[Remedy]:
    """Offer the percentile that leaves out what lies beyond 4 times the usual. beyond: its share in the layer that has most.

    A percentile leaves out as much on either side, and the outliers may all lie on one.
    """
    percent = min(math.floor(1e6 * (1 - 2 * beyond)) / 1e4, WIDEST)
    why = f"{why}; {beyond:.4%} of a layer's values are outliers"
    if settings.observer != "percentile":
        yield Remedy(
            key="recipe.quantize",
            now=settings.model_dump(mode="json"),
            proposed=settings.model_copy(update={"observer": "percentile", "percentile": percent}).model_dump(mode="json"),
            why=f"{why}, and the observer {settings.observer} minds them.",
        )
    elif percent < settings.percentile:
        yield Remedy(key="recipe.quantize.percentile", now=settings.percentile, proposed=percent, why=f"{why}.")


def _undo(row: Row, recipe: Recipe) -> Iterator[Remedy]:
    if row.stage == "distilled" and recipe.distill is not None:
        rate = recipe.distill.rate
        yield Remedy(
            key="recipe.distill.rate",
            now=rate,
            proposed=rate / 2,
            why="Distillation lost score that was not lost in training: smaller steps stay nearer to where it began.",
        )
    elif row.stage in ("quantized", "pruned"):
        key = "quantize" if row.stage == "quantized" else "prune"
        yield Remedy(
            key=f"recipe.{key}",
            now=getattr(recipe, key).model_dump(mode="json"),
            proposed=None,
            why=f"The stage cost score and brought neither bytes ({row.size.bytes:,}) nor speed ({_times(row)}).",
        )


def _smaller(
    row: Row, rows: dict[Stage, Row], recipe: Recipe, targets: Targets, missed: Sequence[str], suited: Prune | None
) -> Iterator[Remedy]:
    """Offer integers where there are none, and a deeper cut, or where there is none a first one: `suited`, if there is such."""
    if recipe.quantize is None and set(missed) & {"size_reduction", "speed_up"}:
        yield Remedy(
            key="recipe.quantize",
            now=None,
            proposed=Quantize().model_dump(mode="json"),
            why=f"The weights are {row.size.dtype}, {row.size.bytes:,} bytes: int8 takes about a quarter of float32's.",
        )
    whole = rows.get("quantized", rows["baseline"])
    ratio = recipe.prune.deepest if recipe.prune is not None else None
    if recipe.prune is not None and (recipe.prune.has_target or not ratio):
        yield from _further(row, recipe.prune, targets, missed)
        return
    needed: dict[str, float] = {}
    for name in missed:
        start, now, wanted = _left(whole, name), _left(row, name), _wanted(targets, name)
        if start is not None and now is not None:
            needed[name] = ratio_for(start, now, wanted, ratio)
    if not needed:
        return
    hardest = max(needed, key=lambda name: needed[name])
    proposed = min(math.ceil(100 * needed[hardest]) / 100, MOST_RATIO)
    if proposed <= (ratio or 0):
        return
    why = f"{_told(row, missed, targets)}; {hardest.replace('_', ' ')} needs a ratio of about {needed[hardest]:.2f}"
    if needed[hardest] > MOST_RATIO:
        why += f", more than a cut of widths alone should take: {MOST_RATIO} comes as near as it can"
    if recipe.prune is None and suited is not None:
        why = f"{_told(row, missed, targets)}, and nothing was cut; this is the cut of the preset language."
        yield Remedy(key="recipe.prune", now=None, proposed=_only_set(suited), why=why)
    elif recipe.prune is None:
        yield Remedy(key="recipe.prune", now=None, proposed={"ratio": proposed}, why=f"{why}.")
    else:
        yield _ratio(recipe.prune, proposed, f"{why}.")


def _only_set(settings: Prune) -> dict[str, Any]:
    return settings.model_dump(mode="json", exclude_defaults=True, exclude_none=True)


def _ratio(prune: Prune, deepest: float, why: str) -> Remedy:
    """Propose a ratio; where each axis has its own, all in the proportion that they have now."""
    if not isinstance(prune.ratio, AxisRatios):
        return Remedy(key="recipe.prune.ratio", now=prune.ratio, proposed=deepest, why=why)
    factor = deepest / prune.deepest
    now = prune.ratio.model_dump(mode="json", exclude_none=True)
    changed = {axis: max(round(share * factor, 3), 0.001) for axis, share in now.items() if axis != "vocabulary"}
    return Remedy(key="recipe.prune.ratio", now=now, proposed={**now, **changed}, why=why)


def _further(row: Row, prune: Prune, targets: Targets, missed: Sequence[str]) -> Iterator[Remedy]:
    """Where the ratio follows from a target that was aimed too low, propose the one that the job is held against."""
    why = f"{_told(row, missed, targets)}; the cut was aimed at another target."
    asked, fewer = prune.target_params, targets.parameter_reduction
    if "parameter_reduction" in missed and asked is not None and fewer > 0 and not fewer <= asked < 1:
        yield Remedy(key="recipe.prune.target_params", now=asked, proposed=fewer, why=why)
    latency, faster = prune.target_latency, targets.speed_up
    if "speed_up" in missed and latency is not None and max(latency.speed_up or 1, 1) < faster:
        now = latency.model_dump(mode="json", exclude_none=True)
        yield Remedy(key="recipe.prune.target_latency", now=now, proposed={"speed_up": faster}, why=why)


def ratio_for(start: float, now: float, wanted: float, ratio: float | None) -> float:
    """Reckon the ratio at which a size falls to `wanted`: size = start · (1 − ratio)^power.

    start, now, wanted: shares of the baseline's, before the cut, after it at `ratio`, and as the target asks. The power is what
    the cut has shown, within 0.5 and 2.5, or POWER where there was none or it showed nothing. Returns at least 0, below 1.
    """
    power = POWER
    if ratio is not None and 0 < now < start:
        power = min(max(math.log(now / start) / math.log(1 - ratio), 0.5), 2.5)
    return max(1 - math.pow(wanted / start, 1 / power), 0.0)


def _left(row: Row, name: str) -> float | None:
    value: float | None = getattr(row.ratios, name)
    if value is None:
        return None
    return 1 / value if name == "speed_up" else 1 - value


def _wanted(targets: Targets, name: str) -> float:
    value: float = getattr(targets, name)
    return float(1 / value if name == "speed_up" else 1 - value)


def _told(row: Row, names: Sequence[str], targets: Targets) -> str:
    return ", ".join(
        f"{name.replace('_', ' ')} is {getattr(row.ratios, name):.3f}, not {getattr(targets, name):g}"
        for name in names
        if getattr(row.ratios, name) is not None
    )


def _times(row: Row) -> str:
    return "not measured" if row.ratios.speed_up is None else f"{row.ratios.speed_up:.2f} times the baseline"


def _trained_longer(recipe: Recipe, rows: dict[Stage, Row], limit: str) -> Iterator[Remedy]:
    # Where the budget ended training, more epochs or a milder cut would be judged by training that never took place.
    minutes = recipe.train.max_minutes
    if minutes is not None and "max_minutes" in limit:
        if minutes >= MOST_MINUTES:
            return
        key, now, proposed = "max_minutes", minutes, min(2 * minutes, MOST_MINUTES)
    else:
        key, now, proposed = "max_steps", recipe.train.max_steps or 0, 2 * (recipe.train.max_steps or 1)
    yield Remedy(
        key=f"recipe.train.{key}",
        now=now,
        proposed=proposed,
        why=f"{limit} ended training before {len(rows) - 1} stages had all their epochs.",
    )


def _better(row: Row, rows: dict[Stage, Row], recipe: Recipe, targets: Targets, suited: Distill | None) -> Iterator[Remedy]:
    """Offer what keeps more of the score: a teacher where there was none, `suited` if there is such; more of it; less cut."""
    first, last = rows["baseline"].judged_score, row.judged_score
    if not isinstance(first, Score) or not isinstance(last, Score):
        return
    needed = first.worth - _may_go(first, targets)
    gap = f"{last.value:.4f} is scored where {first.at_retention(targets.retention):.4f} is needed"
    if recipe.distill is None:
        proposed = (suited or Distill()).model_dump(mode="json")
        yield Remedy(key="recipe.distill", now=None, proposed=proposed, why=f"{gap}, and no teacher was asked.")
        return
    epochs = recipe.distill.epochs
    cut = rows.get("pruned")
    if cut is None or recipe.prune is None or not isinstance(cut.judged_score, Score):
        yield from _taught_longer(recipe.distill, 2 * epochs, f"{gap}, and nothing was cut.")
        return
    whole = rows.get("quantized", rows["baseline"]).judged_score
    if not isinstance(whole, Score):
        return
    fall, left, may_stay = whole.worth - cut.judged_score.worth, whole.worth - last.worth, whole.worth - needed
    if may_stay <= 0:  # it was below the target before anything was cut
        yield from _live_with_integers(rows, recipe, targets)
    if left <= 0:
        return
    if fall <= 0:
        why = f"{gap}: the cut took nothing, distillation took {left:.4f}"
        yield Remedy(key="recipe.distill.rate", now=recipe.distill.rate, proposed=recipe.distill.rate / 2, why=f"{why}.")
        return
    wanted = epochs_for(fall, left, may_stay, epochs)
    back = f"{gap}: {epochs} epochs brought back {1 - left / fall:.0%} of the {fall:.4f} that the cut took"
    if wanted is not None and wanted <= min(MOST_MORE * epochs, MOST_EPOCHS):
        why = f"{back}; at this pace {wanted} would do."
        yield from _taught_longer(recipe.distill, max(wanted, epochs + 1), why)
        return
    ratio = recipe.prune.deepest
    share = math.sqrt(may_stay / left) if 0 < may_stay < left else 0.5
    milder = max(math.floor(100 * ratio * share) / 100, LEAST_RATIO)
    if not recipe.prune.has_target and milder < ratio:
        why = "too little for more of them to do; what a cut costs for good is taken to grow with the square of its ratio."
        yield _ratio(recipe.prune, milder, f"{back}, {why}")
        return
    depth = "the depth of the cut is the target's" if recipe.prune.has_target else "no ratio is left that is milder"
    yield from _taught_longer(recipe.distill, MOST_MORE * epochs, f"{back}; {depth}, so it wants more of them.")


def _taught_longer(settings: Distill, wanted: int, why: str) -> Iterator[Remedy]:
    """Offer so many epochs of distillation, or as many as a recipe may ask for, where that is more than it had."""
    proposed = min(wanted, MOST_EPOCHS)
    if proposed > settings.epochs:
        yield Remedy(key="recipe.distill.epochs", now=settings.epochs, proposed=proposed, why=why)


def epochs_for(fall: float, left: float, may_stay: float, epochs: int) -> int | None:
    """Reckon the epochs after which at most `may_stay` of a fall is left, if each leaves the same share of what was missing.

    fall: what the cut took; left: what was still missing after `epochs`, all in units of the score's worth. None where no
    number of epochs would do: nothing was brought back, or the model before the cut was below the target.
    """
    if not 0 < left < fall or not 0 < may_stay < fall:
        return None
    return math.ceil(epochs * math.log(may_stay / fall) / math.log(left / fall))
