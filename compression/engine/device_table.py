"""The device table that a job predicts latencies from: one of its spec's files, or measured now."""

from collections.abc import Callable, Generator
from pathlib import Path

from pydantic import TypeAdapter

from compression.engine.context import StageContext
from compression.export.device_table.command import TableRequest, read_table
from compression.export.device_table.measuring import conditions
from compression.models.adapters.registry import adapter_of
from compression.models.architectures.families import ARCHITECTURE_SPECS
from compression.planning.device_times import ShapeTimes
from compression.schema.device_table import DeviceTable
from compression.schema.events import DeviceTableMeasured, Event, Log
from compression.schema.job_spec import Spec
from compression.schema.recipe.recipe import Evaluate
from compression.system import durable_files
from compression.system.child_process import ChildFailed, Step, child_lines

FILE = "device-table.json"  #: in a job's output folder: what this attempt measured
LONGEST_SECONDS = 1800.0  #: that measuring may take, on a busy machine
_line: TypeAdapter[Step | DeviceTable] = TypeAdapter(Step | DeviceTable)


def shape_times(context: StageContext, spec: Spec, base: Path, evaluate: Evaluate) -> Generator[Event, None, ShapeTimes | None]:
    """Return the predicted times of shapes of the current model, or None without a device table. Raises Pause."""
    table = yield from device_table(spec, base, evaluate.threads, context.check_pause)
    if table is None:
        return None
    config, family = context.model.config, adapter_of(context.model)
    return ShapeTimes(table, ARCHITECTURE_SPECS[config.model_type], family.network(config), evaluate.length, evaluate.batch)


def device_table(
    spec: Spec, base: Path, threads: int, check_pause: Callable[[], None]
) -> Generator[Event, None, DeviceTable | None]:
    """Return the table of this machine for so many threads. If no file has it, it is measured, once for all jobs here.

    None if the spec names no files, not even none of them, or if it cannot be measured. Raises Pause.
    """
    if spec.device_tables is None:
        return None
    here, own = conditions(threads), base / spec.output / FILE
    for path in (*(base / name for name in spec.device_tables), own):
        if (table := read_table(path)) is not None and table.conditions == here:
            return table
    yield Log(message="No device table of this machine is known: what single layers cost is measured, some minutes, once.")
    try:
        *_, last = child_lines("device-table-job", TableRequest(threads=threads), timeout=LONGEST_SECONDS, waiting=check_pause)
    except ChildFailed as problem:
        yield Log(level="warning", message=f"There is no device table, so nothing is predicted: {problem}"[:4000])
        return None
    found = _line.validate_json(last)
    assert isinstance(found, DeviceTable)  # noqa: S101 (its last line)
    own.parent.mkdir(parents=True, exist_ok=True)
    durable_files.write_text(own, found.model_dump_json())
    yield DeviceTableMeasured(table=found)
    return found
