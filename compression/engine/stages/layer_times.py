"""Measures how much faster a model is without each of its layers, where these take different times."""

from collections.abc import Generator, Iterator, Mapping
from statistics import median

import torch
from torch import Tensor
from transformers import PreTrainedModel

from compression.engine.context import StageContext
from compression.models.adapters.registry import adapter_of
from compression.models.adapters.structure import PruningPlan
from compression.quantization.fake_quantize import insert_fake_quantization, ranged_inputs, simulation_of
from compression.schema.events import Event, Log
from compression.schema.report.measurements import NotMeasured

STEPS = 100
"""Steps of a model's time that a saving is rounded to: less is noise. One at least counts as saved."""


def layer_times(context: StageContext) -> Generator[Event, None, Tensor | None]:
    """Return the milliseconds that each layer takes, (layers,); None if all take the same, or if nothing can be timed.

    The model without all layers of a kind is exported and timed in turns with the whole one; what it saves is divided among
    them, as a share of the whole model's latency. Raises Pause and OutOfMemory.
    """
    kinds = adapter_of(context.model).layer_kinds(context.model.config)
    if not kinds:
        return None
    numbers = {kind: [at for at, own in enumerate(kinds.values()) if own == kind] for kind in kinds.values()}
    shares, whole = torch.zeros(len(kinds), dtype=torch.float64), list[float]()
    for own, found in zip(numbers.values(), context.timed_beside(context.model, _without(context, numbers)), strict=True):
        if isinstance(found, NotMeasured):
            context.notes.append(f"Layers go by influence alone, because they were not timed: {found.not_measured}")
            return None
        shares[own] = rounded(found.share) / len(own)
        whole.append(found.whole_ms)
        yield Log(message=f"Timed without {len(own)} layers of a kind: {found.share:.1%} of {found.whole_ms:.2f} ms is saved.")
        yield from context.tracker.emit_boundary("cut", done=False)
    return shares * median(whole)


def rounded(share: float) -> float:
    """Return a saved share in whole steps, above 0."""
    return max(round(STEPS * share), 1) / STEPS


def _without(context: StageContext, numbers: Mapping[int, list[int]]) -> Iterator[PreTrainedModel]:
    """Yield the model without the layers of each kind, with the same simulated integers."""
    model, count = context.model, sum(map(len, numbers.values()))
    simulation = simulation_of(model)
    for own in numbers.values():
        context.check_pause()
        small = adapter_of(model).narrowed(model, PruningPlan(layers=tuple(at for at in range(count) if at not in own)))
        if simulation is not None:
            # Latency does not depend on ranges, so nothing is calibrated for what was not rounded before.
            ranges = {name: simulation.ranges.get(name, (-1.0, 1.0)) for name in ranged_inputs(small, simulation.scheme)}
            insert_fake_quantization(small, simulation=simulation.model_copy(update={"ranges": ranges}))
        yield small.eval()
