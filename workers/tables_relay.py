"""Stores what a job's search for widths computes: error tables, what other targets are answered from, and a device table."""

from collections.abc import Callable, Sequence

from app.jobs import device_tables, fencing, stage_results
from compression.schema.device_table import DeviceTable
from compression.schema.events import DeviceTableMeasured, TablesSaved
from compression.schema.report.report import File
from compression.schema.tables_files import SOLVED, TABLES
from workers.device_table_check import check_table
from workers.folders import Untrustworthy
from workers.lease import Write
from workers.tables_check import check_tables

FOLDER = f"checkpoints/{TABLES}"


class TablesRelay:
    """Takes the tables of one attempt.

    store: copies files of a folder of the engine's into storage, and returns their keys by path; stored: digests by key of what
    needs no further copy; write: writes to the database; origin: returns the id of the next write.
    """

    def __init__(
        self,
        claim: fencing.Claim,
        store: Callable[[str, tuple[File, ...]], dict[str, str]],
        stored: dict[str, str],
        write: Callable[[Write], None],
        origin: Callable[[], str],
    ) -> None:
        self.claim, self.store, self.stored, self.write, self.origin = claim, store, stored, write, origin
        self.has_table = False
        self.superseded: dict[str, Untrustworthy] = {}
        """By dataset: what its last event told of is not there."""

    def take(self, event: TablesSaved | DeviceTableMeasured, part_names: Sequence[str]) -> None:
        """Store error tables for later attempts and jobs, and for other targets; or a device table. Raises Untrustworthy."""
        if isinstance(event, DeviceTableMeasured):
            self._take_table(event.table)
        else:
            self._take_tables(event, part_names)

    def check_last(self) -> None:
        """Check, at the job's end, that each dataset's last event told of what is there. Raises Untrustworthy."""
        for problem in self.superseded.values():
            raise problem

    def _take_tables(self, event: TablesSaved, part_names: Sequence[str]) -> None:
        """Store a dataset's tables. The engine goes on meanwhile, and may write anew what other targets are answered from: then
        its next event tells of that.
        """
        number = check_tables(event, self.claim.job, part_names)
        answering = tuple(file for file in event.files if file.path.endswith(SOLVED))
        keys = self.store(FOLDER, tuple(file for file in event.files if file not in answering))
        self.superseded.pop(event.part, None)
        try:
            keys |= self.store(FOLDER, answering)
        except Untrustworthy as problem:
            self.superseded[event.part] = problem
            return
        files = [file.model_dump(mode="json") for file in event.files]
        data = event.model_dump(mode="json", include={"part", "seconds"})
        prefix = f"jobs/{self.claim.job.id}/{self.claim.fence}/{FOLDER}"
        origin = self.origin()
        self.write(lambda session: stage_results.record_tables(session, self.claim, number, prefix, files, data, origin=origin))
        self.stored |= {keys[file.path]: file.sha256 for file in event.files}

    def _take_table(self, table: DeviceTable) -> None:
        """Store what layers cost here, for all jobs. Raises Untrustworthy for a second one, and as `check_table`."""
        if self.has_table:
            raise Untrustworthy("it measured a second device table")
        self.has_table = True
        check_table(table, self.claim.job)
        self.write(lambda session: device_tables.store(session, self.claim, table))
