"""Finds the mildest cut that meets the recipe's target latency, timing shapes in the target runtime."""

from collections.abc import Generator, Sequence

from compression.engine.context import StageContext
from compression.engine.stages.apply_cut import remade
from compression.models.adapters.registry import adapter_of
from compression.models.architectures.families import ARCHITECTURE_SPECS
from compression.models.architectures.shapes import Ratios, candidates
from compression.planning.latency_search import LatencySearch
from compression.pruning.scores import ImportanceScores
from compression.quantization.fake_quantize import simulation_of
from compression.schema.events import Event, Log
from compression.schema.recipe.prune import Prune, TargetLatency
from compression.schema.report.measurements import Latency, Shape


def ratio_for_latency(
    context: StageContext, settings: Prune, target: TargetLatency, scores: ImportanceScores
) -> Generator[Event, None, tuple[Ratios, Shape]]:
    """Return the ratios and the shape of the mildest cut that is fast enough; noted if even the deepest is too slow.

    A device table says where to look first; without one the shapes are halved. Weights are random: latency does not depend on
    them, so no units have to be chosen or trained to measure it. It does depend on which layers go, which the scores say.
    Raises Pause, and RuntimeError if this machine cannot measure.
    """
    config = context.model.config
    whole = adapter_of(context.model).shape_of(config)
    found = list(candidates(ARCHITECTURE_SPECS[config.model_type], whole, settings, adapter_of(context.model).network(config)))
    predicted = yield from _predicted(context, target, whole, [shape for _, shape in found])
    limit = 1 / target.speed_up if target.speed_up is not None else target.milliseconds or 0.0
    search, timed = LatencySearch(len(found), limit, predicted), dict[int, str]()
    while (place := search.following) is not None:
        context.check_pause()
        shape = found[place][1]
        ms, times = measured_latency(context, shape, scores)
        search.record(1 / times if target.speed_up is not None else ms)
        timed[place] = f"{shape.short}: {ms:.2f} ms, {times:.2f} times"
        yield Log(message=f"Timed for target_latency: {timed[place]}.")
        yield from context.tracker.emit_boundary("cut", done=False)
    asked = f"{target.speed_up:g} times as fast" if target.speed_up is not None else f"{target.milliseconds:g} ms"
    context.notes.append(
        f"target_latency ({asked}) was looked for among {len(found)} shapes; timed with drawn weights: "
        f"{'; '.join(timed[place] for place in sorted(timed))}."
    )
    if predicted is not None:
        context.notes.append(f"The device table told where to look first: {_errors(search, predicted)}.")
    if search.found == len(found):
        deepest = f"the deepest cut of {', '.join(settings.axes)} (ratio {max(found[-1][0].values()):g})"
        cause = f"target_latency is out of reach: {deepest} is too slow"
        context.notes.append(f"{cause}. It was taken, for it comes nearest.")
        yield Log(level="warning", message=f"{cause}; it is taken.")
    return found[min(search.found, len(found) - 1)]


def _predicted(
    context: StageContext, target: TargetLatency, whole: Shape, shapes: Sequence[Shape]
) -> Generator[Event, None, list[float] | None]:
    """Return the predicted latency of each shape, as a share of the baseline's where the target is a speed-up."""
    times = yield from context.device_times()
    if times is None:
        return None
    simulation = simulation_of(context.model)
    scheme = simulation.scheme if simulation is not None else None
    found = [times.milliseconds(shape, scheme) for shape in shapes]
    unit = times.milliseconds(whole, None) if target.speed_up is not None else 1.0
    if unit is None or None in found:
        return None
    return [ms / unit for ms in found if ms is not None]


def _errors(search: LatencySearch, predicted: Sequence[float]) -> str:
    """Return as text how far the measured latencies were from the predicted ones."""
    shares = [predicted[place] / found for place, found in search.measured.items()]
    return f"predicted latency / measured {' and '.join(f'{share:.2f}' for share in shares)}, in the order of timing"


def measured_latency(context: StageContext, shape: Shape, scores: ImportanceScores) -> tuple[float, float]:
    """Return the median latency of a shape in milliseconds, and how many times as fast as the baseline that is."""
    family = adapter_of(context.model)
    layers = scores.choose(family, shape).layers
    found = context.timed(remade(context, context.model, lambda model: family.drawn(model, shape, layers)))
    if not isinstance(found, Latency):
        raise RuntimeError(f"a shape could not be timed: {found.not_measured}")
    return found.median_ms, found.baseline_median_ms / found.median_ms
