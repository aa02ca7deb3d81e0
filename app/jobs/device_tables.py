"""Device tables: what single layers cost on the workers' machines. All teams read them: nothing of a team is in them."""

from sqlalchemy import select
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session, undefer

from app.core.errors import NotFound
from app.jobs import fencing
from app.store.clock import now
from app.store.models import StoredTable
from compression.schema.device_table import DeviceTable

MOST_OFFERED = 8
"""Tables that an engine is given: of one processor and number of threads there is one for each set of versions."""
MOST_LISTED = 200


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
    query = select(StoredTable.content).where(StoredTable.processor == processor, StoredTable.threads == threads)
    return list(session.scalars(query.order_by(StoredTable.measured_at.desc()).limit(MOST_OFFERED)))


def list_tables(session: Session) -> list[StoredTable]:
    """Return all tables, newest first, without their rows."""
    return list(session.scalars(select(StoredTable).order_by(StoredTable.measured_at.desc()).limit(MOST_LISTED)))


def get_table(session: Session, table_id: str) -> DeviceTable:
    """Return a whole table. Raises NotFound."""
    found = session.scalar(select(StoredTable).where(StoredTable.id == table_id).options(undefer(StoredTable.content)))
    if found is None:
        raise NotFound(f"no device table {table_id}")
    return DeviceTable.model_validate(found.content)
