"""Replaces what a recipe leaves to the device table, once, before anything is trained."""

from collections.abc import Callable, Generator
from pathlib import Path

from compression.engine.dataset_run import DatasetRun
from compression.engine.stages.prune import plan_shape
from compression.models.adapters.registry import adapter_of
from compression.planning.device_choice import fastest_scheme, smallest_multiple
from compression.schema.events import Event, RecipeResolved
from compression.schema.job_spec import Resolved, Spec
from compression.system.interrupts import never
from compression.training.save import TrainingCheckpointer


def resolved(spec: Spec, base: Path, pause_asked: Callable[[], bool] = never) -> Generator[Event, None, Spec]:
    """Return the spec without any `auto` that the table decides. What an earlier attempt decided stays. Raises Pause."""
    if not spec.recipe.is_open:
        return spec
    found = spec.resolved
    if found is None:
        found = yield from _decided(spec, base, pause_asked)
        yield RecipeResolved(resolved=found)
    return spec.model_copy(update={"recipe": spec.recipe.closed(found.scheme, found.multiple), "resolved": found})


def _decided(spec: Spec, base: Path, pause_asked: Callable[[], bool]) -> Generator[Event, None, Resolved]:
    """Decide for the model as it will be cut, at the length and batch of the first dataset."""
    usual = spec.model_copy(update={"recipe": spec.recipe.closed(None, None)})
    state = DatasetRun.open(usual, base, spec.asked[0]).state
    state.checkpointer = TrainingCheckpointer(base / spec.output / "checkpoints", "", pause_asked=pause_asked)
    recipe, reasons = spec.recipe, list[str]()
    prune = state.recipe.prune
    shape = plan_shape(state.model, prune)[1] if prune is not None else adapter_of(state.model).shape_of(state.model.config)
    times = yield from state.device_times()
    scheme = recipe.quantize.scheme if recipe.quantize is not None else None
    if recipe.quantize is not None and recipe.quantize.scheme == "auto":
        scheme, why = fastest_scheme(times, shape, recipe.artifacts or ())
        reasons.append(why)
    multiple = None
    if recipe.prune is not None and recipe.prune.multiple == "auto":
        multiple, why = smallest_multiple(times.table if times is not None else None, scheme)
        reasons.append(why)
    return Resolved(scheme=scheme, multiple=multiple, reasons=tuple(f"{reason}." for reason in reasons))
