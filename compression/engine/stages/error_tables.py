"""Gets the error tables of the current model: those of an earlier attempt or job with the same inputs, or computed now."""

import time
from collections.abc import Generator
from typing import TypeVar

from compression.engine import heartbeat
from compression.engine.context import StageContext
from compression.engine.stages.apply_cut import calibration_batches
from compression.engine.tables_checkpoint import FOLDER, copy_tables, read_tables, tables_saved, write_tables
from compression.models.tensors import Tensors
from compression.pruning.error_tables import compute_tables, names_of, readers_of, tables_digest
from compression.pruning.layer_inputs import KeptInputs
from compression.schema.error_tables import ErrorTables
from compression.schema.events import Event, Log
from compression.schema.report.search import TablesUsed
from compression.system.progress import Returning
from compression.system.sealed_folder import UnusableCheckpoint

Result = TypeVar("Result")
SECONDS_BETWEEN = 5.0
"""Between two events of work that has no steps to report."""


def error_tables(context: StageContext) -> Generator[Event, None, tuple[ErrorTables, Tensors]]:
    """Return the tables of the current model and, by group, the order in which its units go, once they are stored with the
    job. What layers read is held in `context.layer_inputs` then, for the cuts. Raises Pause.
    """
    batches = calibration_batches(context)
    inputs = context.layer_inputs = KeptInputs(batches, context.scratch)
    # Of whole batches: the same rows have the same tables however memory splits them.
    digest = tables_digest(context.model, calibration_batches(context, parts=1))
    folder, earlier, part = context.checkpointer.folder, context.checkpointer.resume, context.checkpointer.part
    for place in filter(None, (folder, earlier, *context.known_tables)):
        if not (place / FOLDER / part).is_dir():
            continue
        try:
            tables, orders = read_tables(place, part, digest)
        except UnusableCheckpoint as problem:
            if place in (folder, earlier):  # tables of other jobs are tried, and need not fit
                yield Log(level="warning", message=f"A checkpoint is not used: {problem}."[:4000])
            continue
        if place != folder:
            copy_tables(place, folder, part, context.recipe.prune if place == earlier else None)
        started = time.monotonic()
        yield from _reported(context, inputs.collect(context.model, names_of(readers_of(context.model))))
        seconds = max(tables.seconds - (time.monotonic() - started), 0.0)  # the cuts need what layers read
        spared = f"The error tables are those of an earlier attempt or job: {seconds:.1f} seconds were spared."
        context.notes.append(spared)
        context.result.tables = _used(tables, spared=seconds)
        yield Log(message=spared)
        yield tables_saved(folder, part, tables)
        return tables, orders
    tables, orders = yield from _reported(context, compute_tables(context.model, inputs, digest))
    write_tables(folder, part, tables, orders)
    found = (
        f"Error tables of {len(tables.groups)} groups from {tables.rows} calibration rows took {tables.seconds:.1f} seconds."
    )
    context.notes.append(found)
    context.result.tables = _used(tables)
    yield Log(message=found)
    yield tables_saved(folder, part, tables)
    return tables, orders


def collect_layer_inputs(context: StageContext) -> None:
    """Hold in `context.layer_inputs` what the current model's layers read, for a cut by tables that are known. Raises Pause."""
    inputs = context.layer_inputs = KeptInputs(calibration_batches(context), context.scratch)
    for _ in inputs.collect(context.model, names_of(readers_of(context.model))):
        context.check_pause()
        heartbeat.beat()


def _reported(context: StageContext, ticks: Generator[None, None, Result]) -> Generator[Event, None, Result]:
    """Run through ticks, with an event now and then; return the generator's result. Raises Pause at any of them."""
    told = float("-inf")
    for _ in (each := Returning(ticks)):
        context.check_pause()
        if time.monotonic() - told > SECONDS_BETWEEN:
            yield from context.tracker.emit_boundary("cut", done=False)
            told = time.monotonic()
    return each.result


def _used(tables: ErrorTables, spared: float | None = None) -> TablesUsed:
    own = {"groups": len(tables.groups), "rows": tables.rows, "seconds": tables.seconds}
    return TablesUsed(**own, reused=spared is not None, spared=spared)
