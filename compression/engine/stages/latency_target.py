"""Finds the mildest cut that meets the recipe's target latency, timing shapes in the target runtime."""

from collections.abc import Generator

from compression.engine.context import StageContext
from compression.engine.stages.apply_cut import remade
from compression.models.adapters.registry import adapter_of
from compression.models.architectures.families import ARCHITECTURE_SPECS
from compression.models.architectures.shapes import MOST_RATIO, Ratios, candidates
from compression.pruning.scores import ImportanceScores
from compression.schema.events import Event, Log
from compression.schema.recipe.prune import Prune, TargetLatency
from compression.schema.report.measurements import Latency, Shape


def ratio_for_latency(
    context: StageContext, settings: Prune, target: TargetLatency, scores: ImportanceScores
) -> Generator[Event, None, tuple[Ratios, Shape]]:
    """Return the ratios and the shape of the mildest cut that is fast enough, by binary search; noted if even the deepest is
    too slow.

    Weights are random: latency does not depend on them, so no units have to be chosen or trained to measure it. It does depend
    on which layers go, which the scores say. Raises Pause, and RuntimeError if this machine cannot measure.
    """
    config = context.model.config
    whole = adapter_of(context.model).shape_of(config)
    found = list(candidates(ARCHITECTURE_SPECS[config.model_type], whole, settings, adapter_of(context.model).network(config)))
    timed: dict[int, str] = {}
    low, high = 0, len(found)
    while low < high:
        context.check_pause()
        middle = (low + high) // 2
        shape = found[middle][1]
        ms, times = _measured(context, shape, scores)
        is_fast = times >= target.speed_up if target.speed_up is not None else ms <= (target.milliseconds or 0.0)
        low, high = (low, middle) if is_fast else (middle + 1, high)
        timed[middle] = f"{shape.short}: {ms:.2f} ms, {times:.2f} times"
        yield Log(message=f"Timed for target_latency: {timed[middle]}.")
        yield from context.tracker.emit_boundary("cut", done=False)
    asked = f"{target.speed_up:g} times as fast" if target.speed_up is not None else f"{target.milliseconds:g} ms"
    context.notes.append(
        f"target_latency ({asked}) was looked for among {len(found)} shapes; timed with drawn weights: "
        f"{'; '.join(timed[place] for place in sorted(timed))}."
    )
    if high == len(found):
        deepest = f"the deepest cut of {', '.join(settings.axes)} (ratio {MOST_RATIO:g})"
        cause = f"target_latency is out of reach: {deepest} is too slow"
        context.notes.append(f"{cause}. It was taken, for it comes nearest.")
        yield Log(level="warning", message=f"{cause}; it is taken.")
    return found[min(high, len(found) - 1)]


def _measured(context: StageContext, shape: Shape, scores: ImportanceScores) -> tuple[float, float]:
    """Return the median latency of a shape in milliseconds, and how many times as fast as the baseline that is."""
    family = adapter_of(context.model)
    layers = scores.choose(family, shape).layers
    found = context.timed(remade(context, context.model, lambda model: family.drawn(model, shape, layers)))
    if not isinstance(found, Latency):
        raise RuntimeError(f"a shape could not be timed: {found.not_measured}")
    return found.median_ms, found.baseline_median_ms / found.median_ms
