"""Gets the error tables of the current model: those of an earlier attempt or job with the same inputs, or computed now."""

from collections.abc import Generator

from compression.engine.context import StageContext
from compression.engine.stages.apply_cut import calibration_batches
from compression.engine.tables_checkpoint import FOLDER, copy_tables, read_tables, tables_saved, write_tables
from compression.models.tensors import Tensors
from compression.pruning.error_tables import compute_tables, tables_digest
from compression.schema.error_tables import ErrorTables
from compression.schema.events import Event, Log
from compression.system.sealed_folder import UnusableCheckpoint


def error_tables(context: StageContext) -> Generator[Event, None, tuple[ErrorTables, Tensors]]:
    """Return the tables of the current model and, by group, the order in which its units go, once they are stored with the
    job. Raises Pause.
    """
    batches = calibration_batches(context)
    digest = tables_digest(context.model, batches)
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
            copy_tables(place, folder, part)
        spared = f"The error tables are those of an earlier attempt or job: {tables.seconds:.1f} seconds were spared."
        context.notes.append(spared)
        yield Log(message=spared)
        yield tables_saved(folder, part, tables)
        return tables, orders
    computing = compute_tables(context.model, batches, digest, context.check_pause)
    while True:
        try:
            next(computing)
        except StopIteration as ended:
            tables, orders = ended.value
            break
        yield from context.tracker.emit_boundary("cut", done=False)
    write_tables(folder, part, tables, orders)
    found = (
        f"Error tables of {len(tables.groups)} groups from {tables.rows} calibration rows took {tables.seconds:.1f} seconds."
    )
    context.notes.append(found)
    yield Log(message=found)
    yield tables_saved(folder, part, tables)
    return tables, orders
