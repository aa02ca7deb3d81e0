"""Device tables: what single layers cost on the workers' machines. All teams read them: nothing of a team is in them."""

from sqlalchemy import Select, select
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session, undefer

from app.core.errors import NotFound
from app.jobs import fencing
from app.store.clock import now
from app.store.models import StoredTable
from compression.schema.device_table import VERSION, DeviceTable

MOST_OFFERED = 8
"""Tables that an engine is given: of one processor and number of threads there is one for each set of versions."""
MOST_LISTED = 200
_current = StoredTable.content["version"].as_integer() == VERSION


def of_processor(processor: str | None, threads: int) -> Select[StoredTable]:
    """Select a processor's newest tables for so many threads. Those of other versions, which a worker of before may have stored
    since, are passed over here as everywhere.
    """
    query = select(StoredTable).where(_current, StoredTable.processor == processor, StoredTable.threads == threads)
    return query.order_by(StoredTable.measured_at.desc()).limit(MOST_OFFERED)


def store(session: Session, claim: fencing.Claim, table: DeviceTable) -> None:
    """Store what the engine of a claimed job measured; one of the same conditions that is stored already stays. It was measured
    when the database's clock says: engines set no clock. Raises StaleFence.
    """
    fencing.update_fenced(session, claim)
    here, moment = table.conditions, session.scalars(select(now())).one()
    row = StoredTable(
        digest=here.digest,
        processor=here.processor,
        threads=here.threads,
        content=table.model_copy(update={"measured_at": moment}).model_dump(mode="json"),
        facts=here.model_dump(mode="json") | {"rows": len(table.rows), "exclusive": table.exclusive},
        worker=claim.job.worker_id,
        measured_at=moment,
    )
    if session.scalar(select(StoredTable.id).where(StoredTable.digest == here.digest)) is not None:
        return
    try:
        with session.begin_nested():
            session.add(row)
    except IntegrityError:  # another worker stored its own meanwhile
        return


def offered(session: Session, processor: str, threads: int) -> list[dict[str, object]]:
    """Return the newest tables of a processor for so many threads: the engine takes the one of its versions."""
    return [row.content for row in session.scalars(of_processor(processor, threads).options(undefer(StoredTable.content)))]


def list_tables(session: Session) -> list[StoredTable]:
    """Return all tables, newest first, without their rows."""
    query = select(StoredTable).where(_current).order_by(StoredTable.measured_at.desc())
    return list(session.scalars(query.limit(MOST_LISTED)))


def get_table(session: Session, table_id: str) -> DeviceTable:
    """Return a whole table. Raises NotFound."""
    query = select(StoredTable).where(_current, StoredTable.id == table_id)
    found = session.scalar(query.options(undefer(StoredTable.content)))
    if found is None:
        raise NotFound(f"no device table {table_id}")
    return DeviceTable.model_validate(found.content)
