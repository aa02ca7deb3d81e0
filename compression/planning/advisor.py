"""Remedies: the changes of the recipe that a row's figures suggest. Torch-free, pure.

The estimates are coarse: a size falls with a power of the share of each axis that is left, an epoch of distillation recovers
the same share of the score still missing, and the permanent cost of a cut grows with the square of its ratio.
"""

import math
from collections.abc import Callable, Iterator
from functools import reduce
from operator import getitem
from typing import Any

from pydantic import ValidationError

from compression.planning.auto_remedies import of_sizes
from compression.planning.on_disk import untrained
from compression.planning.remedy_case import Case, needed
from compression.planning.remedy_figures import epochs_for, ratio_for
from compression.planning.target_remedies import aim_higher, keeps_meaning
from compression.schema.recipe.base import MOST_EPOCHS
from compression.schema.recipe.distill import Distill
from compression.schema.recipe.presets import LANGUAGE, usual
from compression.schema.recipe.prune import AxisRatios, Prune
from compression.schema.recipe.quantize import Qat, Quantize
from compression.schema.recipe.recipe import MOST_MINUTES, Recipe, Targets
from compression.schema.report.measurements import Remedy, Row, Score
from compression.schema.report.targets import TARGETS, spoken
from compression.schema.schemes import SCHEMES
from compression.schema.stages import BASELINE, DISTILLED, POINTS, PRUNED, QUANTIZED

LEAST_RATIO, MOST_RATIO = 0.01, 0.8
"""Below the first a cut removes nothing; above the second too little is left of a small encoder to be worth proposing."""
MOST_MORE = 3
"""At most this many times the epochs are proposed; if more were needed, the cut was too deep."""
WIDEST = 99.9999
"""In percent: a percentile closer to 100 equals the observer min-max."""


COLLAPSED, LEAST_COLLAPSE = 10.0, 0.05
"""Times the loss that a retention target allows, from which the score is lost: no size or speed makes up for it. Less than the
second is no collapse, however little the target allows."""


def has_collapsed(row: Row, targets: Targets) -> bool:
    """Return whether a row lost COLLAPSED times the score that the target of retention allows, and LEAST_COLLAPSE of it."""
    kept = row.ratios.judged_retention
    return kept is not None and 1 - kept > max(COLLAPSED * (1 - targets.retention), LEAST_COLLAPSE)


def offered(case: Case) -> tuple[Remedy, ...]:
    """Return the remedies for missed targets that no later stage fixes, and for input ranges that outliers break."""
    if not case.before:
        return () if case.later else tuple(case.preparing)
    if case.row.stage not in (QUANTIZED, PRUNED) and case.later & {*POINTS}:
        return ()  # offered once, for the recommended size
    found = [remedy for applies, propose in RULES if applies(case) for remedy in propose(case)]
    found = [one for one in of_sizes(case.recipe, found, missed=case.keeps_too_little) if keeps_meaning(case, one)]
    found = [remedy for remedy in found if _may_be_sent(case, remedy)]
    return tuple({remedy.key: remedy for remedy in reversed(found)}.values())[::-1]


def _may_be_sent(case: Case, remedy: Remedy) -> bool:
    """Return whether there is such a recipe with a remedy applied, and whether it still runs from file to file if it did."""
    changed = case.recipe.model_dump(mode="json")
    *path, last = remedy.key.removeprefix("recipe.").split(".")
    reduce(getitem, path, changed)[last] = remedy.proposed
    try:
        recipe = Recipe.model_validate(changed)
    except ValidationError:
        return False
    return untrained(recipe) or not case.streamed


def _may_go(score: Score, targets: Targets) -> float:
    """Return the loss of worth that the targets allow: a share of the score, or nats of a perplexity."""
    wanted = needed(score, targets)
    return math.log(wanted) + score.worth if score.lower_is_better else score.value - wanted


def _train_with_integers(case: Case) -> Iterator[Remedy]:
    """Offer quantization-aware training if quantization cost more than chance explains."""
    if case.recipe.quantize is None:
        return
    first, row = case.rows[BASELINE].judged_score, case.rows[QUANTIZED].judged_score
    if not isinstance(first, Score) or not isinstance(row, Score):
        return
    lost, may_go = first.worth - row.worth, _may_go(first, case.targets)
    if lost > row.worth_error:
        took = f"{lost:.4f} nats a token" if first.lower_is_better else f"{lost:.4f} of {first.value:.4f}"
        yield from _more_qat(case, f"Quantization took {took}, and {may_go:.4f} may go")


def _more_qat(case: Case, why: str) -> Iterator[Remedy]:
    """Offer quantization-aware training, or more of it if the recipe's range allows more."""
    qat = case.recipe.quantize.qat if case.recipe.quantize is not None else None
    if qat is None or not qat.epochs:
        yield case.change("quantize.qat", Qat(), f"{why}, and no training got used to it.")
    elif qat.quantized < MOST_EPOCHS:
        proposed = min(max(2 * qat.quantized, 1), MOST_EPOCHS)
        why = f"{why}, after {qat.epochs} epochs of which {qat.quantized} were fully quantized."
        yield case.change("quantize.qat.quantized", proposed, why)


def _undo(case: Case) -> Iterator[Remedy]:
    """Offer a job without the stage, or distillation with a lower learning rate."""
    if case.row.stage == DISTILLED and case.recipe.distill is not None:
        why = "Distillation lost score that was not lost in training: smaller steps stay nearer to where it began."
        yield case.change("distill.rate", case.recipe.distill.rate / 2, why)
    elif case.row.stage in (QUANTIZED, PRUNED):
        faster = case.row.ratios.speed_up
        speed = "not measured" if faster is None else f"{faster:.2f} times the baseline"
        why = f"The stage cost score and brought neither bytes ({case.row.size.bytes:,}) nor speed ({speed})."
        yield case.change("quantize" if case.row.stage == QUANTIZED else "prune", None, why)


def _quantize(case: Case) -> Iterator[Remedy]:
    size = case.row.size
    why = f"The weights are {size.dtype}, {size.bytes:,} bytes: int8 takes about a quarter of float32's."
    yield case.change("quantize", usual(case.task).quantize or Quantize(), why)


def _cut(case: Case) -> Iterator[Remedy]:
    """Offer the ratio that meets the hardest target; if nothing was cut, the cut that suits the task."""
    if case.held == "student":
        return
    prune = case.recipe.prune
    ratio = prune.deepest if prune is not None else None
    if prune is not None and (prune.has_target or not ratio):
        yield from aim_higher(case, prune)
        return
    whole, ratios = case.rows.get(QUANTIZED, case.rows[BASELINE]), dict[str, float]()
    for kind in (TARGETS[name] for name in case.too_large):
        start, now = kind.value(whole), kind.value(case.row)
        if kind.left is not None and start is not None and now is not None:
            left = [kind.left(value) for value in (start, now, kind.bound(case.targets))]
            ratios[kind.name] = ratio_for(left[0], left[1], left[2], ratio)
    hardest = max(ratios, key=lambda name: ratios[name], default="")
    proposed = min(math.ceil(100 * ratios.get(hardest, 0)) / 100, MOST_RATIO)
    if not ratios or proposed <= (ratio or 0):
        return
    why = f"{case.sizes}; {spoken(hardest)} needs a ratio of about {ratios[hardest]:.2f}"
    if ratios[hardest] > MOST_RATIO:
        why += f", more than a cut of widths alone should take: {MOST_RATIO} comes as near as it can"
    if prune is not None:
        yield case.change("prune.ratio", _deepened(prune, proposed), f"{why}.")
    elif case.generates and LANGUAGE.prune is not None:
        # The least-squares reconstruction after the cut needs the whole model.
        suited = LANGUAGE.prune.model_copy(update={"reconstruct": False}) if case.streamed else LANGUAGE.prune
        keys = suited.model_dump(mode="json", exclude_defaults=True, exclude_none=True)
        yield case.change("prune", keys, f"{case.sizes}, and nothing was cut; this is the cut of the preset language.")
    else:
        yield case.change("prune", {"ratio": proposed}, f"{why}.")


def _deepened(prune: Prune, deepest: float) -> Any:
    """Return the new ratio; if each axis has its own, scale all of them in their present proportion."""
    if not isinstance(prune.ratio, AxisRatios):
        return deepest
    now, factor = prune.ratio.model_dump(mode="json", exclude_none=True), deepest / prune.deepest
    return now | {axis: max(round(share * factor, 3), 0.001) for axis, share in now.items() if axis != "vocabulary"}


def _train_longer(case: Case) -> Iterator[Remedy]:
    """Offer more of the limit that ended training: with it neither more epochs nor a milder cut could show their effect."""
    train, why = case.recipe.train, f"{case.limit} ended training before {len(case.before)} stages had all their epochs."
    if train.max_minutes is None or "max_minutes" not in (case.limit or ""):
        yield case.change("train.max_steps", 2 * (train.max_steps or 1), why)
    elif train.max_minutes < MOST_MINUTES:
        yield case.change("train.max_minutes", min(2 * train.max_minutes, MOST_MINUTES), why)


def _ask_a_teacher(case: Case) -> Iterator[Remedy]:
    suited = LANGUAGE.distill if case.generates else usual(case.task).distill
    yield case.change("distill", suited or Distill(), f"{case.gap}, and no teacher was used.")


def _teach_longer(case: Case, wanted: int, why: str) -> Iterator[Remedy]:
    """Offer `wanted` epochs of distillation, or the maximum of a recipe, if that is more than before."""
    proposed = min(wanted, MOST_EPOCHS)
    if case.recipe.distill is not None and proposed > case.recipe.distill.epochs:
        yield case.change("distill.epochs", proposed, why)


def _recover(case: Case) -> Iterator[Remedy]:
    """Offer a lower rate, more epochs at their pace, or a milder cut, to recover more of the cut's loss."""
    if case.recipe.auto is not None:
        return  # what was cut first and what was trained in full are two sizes, of as many epochs as there was time for
    prune, distill, epochs = case.recipe.prune, case.recipe.distill, case.recipe.distill.epochs if case.recipe.distill else 0
    if case.row.stage in POINTS:  # no row has its score between cut and training
        yield from _teach_longer(case, 2 * epochs, f"{case.gap}, after {epochs} epochs.")
        return
    stages = [case.rows[BASELINE], case.rows.get(QUANTIZED, case.rows[BASELINE]), case.rows.get(PRUNED), case.row]
    first, whole, cut, last = (row.judged_score if row is not None else None for row in stages)
    if prune is None or distill is None or not isinstance(cut, Score):
        yield from _teach_longer(case, 2 * epochs, f"{case.gap}, and nothing was cut.")
        return
    if not isinstance(first, Score) or not isinstance(whole, Score) or not isinstance(last, Score):
        return
    fall, left = whole.worth - cut.worth, whole.worth - last.worth
    may_stay = whole.worth - (first.worth - _may_go(first, case.targets))
    if may_stay <= 0:  # the score was below the target before anything was cut
        yield from _train_with_integers(case)
    if left <= 0:
        return
    if fall <= 0:
        why = f"{case.gap}: the cut took nothing, distillation took {left:.4f}."
        yield case.change("distill.rate", distill.rate / 2, why)
        return
    wanted = epochs_for(fall, left, may_stay, epochs)
    back = f"{case.gap}: {epochs} epochs brought back {1 - left / fall:.0%} of the {fall:.4f} that the cut took"
    share = math.sqrt(may_stay / left) if 0 < may_stay < left else 0.5
    milder = max(math.floor(100 * prune.deepest * share) / 100, LEAST_RATIO)
    if wanted is not None and wanted <= min(MOST_MORE * epochs, MOST_EPOCHS):
        yield from _teach_longer(case, max(wanted, epochs + 1), f"{back}; at this pace {wanted} would do.")
    elif not prune.has_target and milder < prune.deepest:
        why = "too little for more of them to do; what a cut costs for good is taken to grow with the square of its ratio."
        yield case.change("prune.ratio", _deepened(prune, milder), f"{back}, {why}")
    else:
        depth = "the depth of the cut is the target's" if prune.has_target else "no ratio is left that is milder"
        yield from _teach_longer(case, MOST_MORE * epochs, f"{back}; {depth}, so it wants more of them.")


def _tame(case: Case) -> Iterator[Remedy]:
    """Offer remedies for ranges that outliers break: smoothing into a preceding layer, a clipped range, more training."""
    settings, layers = case.recipe.quantize, [layer for each in (case.row, *case.row.parts.values()) for layer in each.ranges]
    broken = sorted((layer for layer in layers if layer.broken), key=lambda layer: -layer.ratio)
    if settings is None or not broken:
        return
    why = (
        f"{len(broken)} of {len(layers)} layers have a range that is broken by outliers, worst {broken[0].layer}: its largest "
        f"|activation| is {broken[0].ratio:.0f} times what 99 % of them keep below"
    )
    smoothable = [layer for layer in broken if layer.smooths_into is not None]
    if smoothable and settings.smoothing != "search":
        into = f"{len(smoothable)} of them can hand outliers on ({smoothable[0].layer} to {smoothable[0].smooths_into})"
        yield case.change("quantize.smoothing", "search", f"{why}; {into}.")
    if SCHEMES[settings.scheme].calibrated:
        yield from _clip(case, settings, max(layer.beyond for layer in broken), why)
    yield from _more_qat(case, why)


def _clip(case: Case, settings: Quantize, beyond: float, why: str) -> Iterator[Remedy]:
    """Offer the percentile that excludes outliers. beyond: their share; they may all lie on one side, so it counts twice."""
    percent = min(math.floor(1e6 * (1 - 2 * beyond)) / 1e4, WIDEST)
    why = f"{why}; {beyond:.4%} of a layer's values are outliers"
    if settings.observer != "percentile":
        clipped = settings.model_copy(update={"observer": "percentile", "percentile": percent})
        yield case.change("quantize", clipped, f"{why}, and the observer {settings.observer} includes them.")
    elif percent < settings.percentile:
        yield case.change("quantize.percentile", percent, f"{why}.")


RULES: tuple[tuple[Callable[[Case], object], Callable[[Case], Iterator[Remedy]]], ...] = (
    (lambda case: case.row.stage == QUANTIZED and case.misses_score, _train_with_integers),
    (lambda case: case.is_worse, _undo),
    (lambda case: case.recipe.quantize is None and case.integers_help, _quantize),
    (lambda case: case.too_large and (case.later or not has_collapsed(case.row, case.targets)), _cut),
    (lambda case: case.preparing, lambda case: iter(case.preparing)),
    (lambda case: case.limit and (case.keeps_too_little or case.preparing), _train_longer),
    (lambda case: case.gap and case.recipe.distill is None, _ask_a_teacher),
    (lambda case: case.gap and case.recipe.distill is not None, _recover),
    (lambda case: case.recipe.quantize is not None, _tame),
)
"""Conditions and the remedies that they call for, in order; of two remedies for one key the first counts."""
