"""/v1/device-tables: what single layers cost on the machines of the workers."""

import datetime as dt
from typing import Annotated

from fastapi import APIRouter
from pydantic import Field

from app.api.dependencies import CallerDep, ReadDep
from app.core.schemas import Out, Page
from app.jobs import device_tables
from app.store.models import StoredTable
from compression.schema.device_table import DeviceTable

router = APIRouter(prefix="/v1/device-tables", tags=["fleet"])


class DeviceTableOut(Out):
    """A device table without its rows."""

    id: str
    processor: str
    instructions: str
    threads: Annotated[int, Field(description="Threads of the runtimes.")]
    runtimes: Annotated[dict[str, str], Field(description="Versions by name.")]
    rows: Annotated[int, Field(description="Times that it has.")]
    exclusive: Annotated[bool, Field(description="Whether nothing else was timed on the machine meanwhile.")]
    worker: Annotated[str | None, Field(description="Id of the worker that measured it.")]
    measured_at: dt.datetime


def _out(row: StoredTable) -> DeviceTableOut:
    return DeviceTableOut(id=row.id, worker=row.worker, measured_at=row.measured_at, **row.facts)


@router.get("")
def list_(session: ReadDep, _caller: CallerDep) -> Page[DeviceTableOut]:
    """List the device tables, newest first: one for each processor, number of threads and versions of the runtimes."""
    return Page(items=[_out(row) for row in device_tables.list_tables(session)])


@router.get("/{table_id}")
def read(table_id: str, session: ReadDep, _caller: CallerDep) -> DeviceTable:
    """Return a device table with the time of each layer: what `python -m compression device-table` writes."""
    return device_tables.get_table(session, table_id)
