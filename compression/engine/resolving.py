"""Replaces what a recipe leaves to the device table, once, before anything is trained."""

from collections.abc import Callable, Generator
from dataclasses import replace
from pathlib import Path

from compression.engine.dataset_run import DatasetRun
from compression.engine.stages.prune import aimed
from compression.models.adapters.registry import adapter_of
from compression.models.architectures.families import ARCHITECTURE_SPECS
from compression.planning.device_choice import fastest_scheme, smallest_multiple
from compression.schema.events import Event, RecipeResolved
from compression.schema.job_spec import Resolved, Spec
from compression.system import process
from compression.system.interrupts import never
from compression.training.save import TrainingCheckpointer


def resolved(spec: Spec, base: Path, pause_asked: Callable[[], bool] = never) -> Generator[Event, None, Spec]:
    """Return the spec without any `auto` that the table decides. What an earlier attempt decided stays. Raises Pause."""
    if not spec.recipe.is_open:
        return spec
    found = spec.resolved
    if found is None:
        found = yield from _decided(spec, base, pause_asked)
        process.release_memory()  # the opened run has cycles, and the job opens the model again
        yield RecipeResolved(resolved=found)
    return spec.model_copy(update={"recipe": spec.recipe.closed(found.scheme, found.multiple), "resolved": found})


def _decided(spec: Spec, base: Path, pause_asked: Callable[[], bool]) -> Generator[Event, None, Resolved]:
    """Decide for the model that the job ends with, a student or the base as it will be cut, at evaluate's shape."""
    usual = spec.model_copy(update={"recipe": spec.recipe.closed(None, None)})
    state = DatasetRun.open(usual, base, spec.asked[0]).state
    state.checkpointer = TrainingCheckpointer(base / spec.output / "checkpoints", "", pause_asked=pause_asked)
    recipe, reasons = spec.recipe, list[str]()
    prune, last = state.recipe.prune, state.models.student or state.models.base
    shape = last.shape  # no job cuts a student
    if prune is not None:
        shape = aimed(state.model, state.recipe, state.input_pruner, state.length)
    times = yield from state.device_times()
    if times is not None:
        family, network = ARCHITECTURE_SPECS[last.config.model_type], adapter_of(last.config).network(last.config)
        times = replace(times, family=family, network=network)
    scheme = recipe.quantize.scheme if recipe.quantize is not None else None
    if recipe.quantize is not None and recipe.quantize.scheme == "auto":
        scheme, why = fastest_scheme(times, shape, recipe.artifacts or ())
        reasons.append(why)
    multiple = None
    if recipe.prune is not None and recipe.prune.multiple == "auto":
        multiple, why = smallest_multiple(times, scheme)
        reasons.append(why)
    return Resolved(scheme=scheme, multiple=multiple, reasons=tuple(f"{reason}." for reason in reasons))
