"""What a cut has removed, as the report tells it: by axis, by group and by layer."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from compression.models.adapters.structure import PruningPlan
from compression.models.architectures.pruning_groups import axis_and_layer, units_left, width_of
from compression.models.architectures.shapes import Ratios
from compression.pruning.scores import ImportanceScores
from compression.schema.recipe.prune import Prune
from compression.schema.report.measurements import Shape

ALWAYS_TOLD = ("hidden", "heads", "ffn")  #: axes that a report lists even if they were not pruned, for models that have them


def taken(before: Shape, after: Shape, settings: Prune, ratios: Ratios) -> dict[str, Any]:
    """Return each axis's width before and after, the ratio that was asked (for a target, found) and the one that was removed.
    For the vocabulary `asked` is null if the texts alone decide. If each group has a width of its own, an axis has the same of
    each of its groups. mean: whether the width is the mean of layers that have their own.
    """

    def one(axis: str, asked: float | None) -> dict[str, Any]:
        had, has = width_of(before, axis), width_of(after, axis)
        mean = {"mean": True} if axis == "ffn" and after.ffns is not None else {}
        return {axis: {"before": had, "after": has, "asked": asked, "taken": (had - has) / had} | mean | groups(axis)}

    def groups(axis: str) -> dict[str, Any]:
        own = {key: had for key, had in (before.widths or {}).items() if axis_and_layer(key)[0] == axis}
        each = {key: (had, (after.widths or {})[key]) for key, had in own.items()}
        found = {key: {"before": had, "after": has, "taken": (had - has) / had} for key, (had, has) in each.items()}
        return {"groups": found} if found else {}

    found: dict[str, Any] = {}
    for axis, ratio in ratios.items():
        if axis in settings.axes or (axis in ALWAYS_TOLD and width_of(before, axis)):
            found |= one(axis, ratio)
    if "ffn" in found:
        found["ffn"]["multiple"] = settings.multiple
    if "vocabulary" in settings.axes:
        found |= one("vocabulary", settings.vocabulary_ratio if settings.vocabulary_ratio < 1 else None)
    return found


def with_errors(
    told: dict[str, Any], before: Shape, after: Shape, errors: Mapping[str, float], layers: Sequence[int] | None = None
) -> dict[str, Any]:
    """Return what `taken` tells, with each group's width and predicted error where error tables have chosen. layers: the
    numbers of those that stay; None: all.
    """
    for key, error in errors.items():
        axis = axis_and_layer(key)[0]
        had, has = units_left(before, key), units_left(after, key, layers)
        group = {"before": had, "after": has, "taken": (had - has) / had, "error": error}
        told[axis]["groups"] = {**told[axis].get("groups", {}), key: group}
    return told


def each_layer(names: Iterable[str], scores: ImportanceScores, plan: PruningPlan) -> dict[str, Any]:
    """Return of each layer its influence, its time in milliseconds (None if it was not timed) and whether it was removed."""
    assert scores.influence is not None, "they are scored if the recipe cuts them"  # noqa: S101
    influence, times = scores.influence.tolist(), scores.milliseconds
    milliseconds = [None] * len(influence) if times is None else times.tolist()
    return {
        name: {"influence": lost, "milliseconds": spent, "removed": plan.layers is not None and number not in plan.layers}
        for number, (name, lost, spent) in enumerate(zip(names, influence, milliseconds, strict=True))
    }
