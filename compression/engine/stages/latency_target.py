"""Finds the mildest cut that meets the recipe's target latency, timing shapes in the target runtime."""

from collections.abc import Generator

from compression.engine.context import StageContext
from compression.engine.stages.apply_cut import remade
from compression.models.adapters.registry import adapter_of
from compression.models.architectures.families import ARCHITECTURE_SPECS
from compression.models.architectures.shapes import MOST_RATIO, Ratios, candidates
from compression.schema.events import Event, Log
from compression.schema.recipe.prune import Prune, TargetLatency
from compression.schema.report.measurements import Latency, Shape


def ratio_for_latency(
    context: StageContext, settings: Prune, target: TargetLatency
) -> Generator[Event, None, tuple[Ratios, Shape]]:
    """Return the ratios and the shape of the mildest cut that is fast enough.

    The search over the candidates is binary. Weights are random: latency does not depend on them, so no units have to be
    chosen or trained to measure it. If even the deepest cut is too slow, it is applied and the row's notes say so. Raises
    Pause if a pause was requested, and RuntimeError if this machine cannot measure.
    """
    family = adapter_of(context.model)
    found = list(
        candidates(ARCHITECTURE_SPECS[context.model.config.model_type], family.shape_of(context.model.config), settings)
    )
    told: dict[int, str] = {}

    def is_fast_enough(place: int) -> bool:
        shape = found[place][1]
        latency = _measured(context, shape)
        times = latency.baseline_median_ms / latency.median_ms
        told[place] = (
            f"{shape.layers} layers of {shape.hidden}/{shape.heads}/{shape.ffn}: {latency.median_ms:.2f} ms, {times:.2f} times"
        )
        if target.speed_up is not None:
            return times >= target.speed_up
        return latency.median_ms <= (target.milliseconds or 0.0)

    low, high = 0, len(found)
    while low < high:
        context.check_pause()
        middle = (low + high) // 2
        if is_fast_enough(middle):
            high = middle
        else:
            low = middle + 1
        yield Log(message=f"Timed for target_latency: {told[middle]}.")
        yield from context.tracker.emit_boundary("cut", done=False)
    asked = f"{target.speed_up:g} times as fast" if target.speed_up is not None else f"{target.milliseconds:g} ms"
    context.notes.append(
        f"target_latency ({asked}) was looked for among {len(found)} shapes; timed with drawn weights: "
        f"{'; '.join(told[place] for place in sorted(told))}."
    )
    if high == len(found):
        deepest = f"the deepest cut of {', '.join(settings.axes)} (ratio {MOST_RATIO:g})"
        said = f"target_latency is out of reach: {deepest} is too slow"
        context.notes.append(f"{said}. It was taken, for it comes nearest.")
        yield Log(level="warning", message=f"{said}; it is taken.")
    return found[min(high, len(found) - 1)]


def _measured(context: StageContext, shape: Shape) -> Latency:
    found = context.timed(remade(context, context.model, lambda model: adapter_of(model).drawn(model, shape)))
    if not isinstance(found, Latency):
        raise RuntimeError(f"a shape could not be timed: {found.not_measured}")
    return found
