"""The event relay: checks and stores what an engine's events report, and stops the engine when it must end."""

import signal
import time
from functools import cached_property
from itertools import count
from pathlib import Path
from typing import Any, NoReturn

import structlog

from app.core import crash_points, traces
from app.core.settings import Settings
from app.jobs import fencing, jobs, stage_results
from app.store.db import reading
from app.store.models import EventType
from app.store.storage import Storage
from compression.schema import events
from compression.schema.errors import DiskFull, OutOfMemory
from compression.schema.events import (
    ArtifactReady,
    DeviceTableMeasured,
    Event,
    Finished,
    Log,
    PartFinished,
    Paused,
    Progress,
    RecipeResolved,
    StageFinished,
    StageStarted,
    Started,
    TablesSaved,
    TrainingSaved,
)
from compression.schema.report.measurements import Row
from compression.schema.report.report import Artifact, File, Report
from compression.system.memory import killed_for_memory
from workers.attempt_ends import Crashed, Failed, Interrupted, describe_end
from workers.device_wait import wait_for_devices
from workers.engine import Engine
from workers.folders import Untrustworthy, VerifiedFile, open_beneath, remove_beneath
from workers.job_inputs import needed_bytes
from workers.lease import Lease, Write, persist
from workers.limits import DISK_SHARE, engine_disk, taken_bytes
from workers.report_check import check_report
from workers.tables_relay import TablesRelay
from workers.usage import find_excess

log = structlog.get_logger()
TICK = 0.25
MEMORY_SECONDS = 1.0
"""Interval of checking the memory of the engine's processes."""
DISK_SECONDS = 10.0
"""Interval of checking the engine's folder."""
MOST_EVENTS = 20_000
"""Maximum stored events of one attempt. A real job has some hundred."""
CURVE_POINTS = 100
"""Maximum stored losses of a phase, about, besides those that come with a score."""
WRITE_PAUSE_SECONDS = 0.01
"""Pause between two writes. SQLite has one writer at a time and no queue between processes: an engine that floods us with
events would keep the lease's renewal, and all other writers, from writing."""
Kept = list[tuple[Artifact, dict[str, str]]]


def _disk_error(cause: str) -> dict[str, Any]:
    remedy = "Retry the job; if it happens again, report it with the job's id, or raise the worker's LATHE_ENGINE_DISK_BYTES."
    return DiskFull(f"{cause}, far more than forecast", remedy=remedy).as_dict()


class EventRelay:
    """Relays the events of one engine until it ends."""

    def __init__(
        self,
        claim: fencing.Claim,
        folder: Path,
        storage: Storage,
        lease: Lease,
        engine: Engine,
        settings: Settings,
        *,
        beside: int = 0,
    ) -> None:
        """beside: bytes that the folder may have beside what the job writes: its inputs, and the teachers' outputs."""
        self.claim, self.folder, self.storage, self.lease = claim, folder, storage, lease
        self.engine, self.settings = engine, settings
        self.place = f"jobs/{claim.job.id}/{claim.fence}"
        self.pending: Kept = []
        self.span = traces.SpanHandle()
        self.report: Report | None = None
        self.numbers = count(1)
        self.saved: list[str] = []
        self.finished: set[str] = set()
        self.parts: set[tuple[str, int]] = set()
        self.stored: dict[str, str] = {}
        self.moved = self.looked = time.monotonic()
        self.seen: tuple[Any, ...] = ()
        self.next_point: tuple[tuple[str, ...], int] = ((), 0)
        self.pausing: float | None = None
        self.killed_before = killed_for_memory()
        self.most_written = engine_disk(settings, needed_bytes(claim.job))
        self.most_disk = beside + self.most_written
        self.tables = TablesRelay(claim, self._store, self.stored, self._write, self._origin)
        self.disk_due, self.kept_bytes = time.monotonic() + DISK_SECONDS, 0

    def run(self) -> None:
        """Relay all events. Raises Interrupted, Failed, Crashed, Untrustworthy, StaleFence."""
        try:
            self._follow()
        except Exception as error:
            self.span.end(f"{type(error).__name__}: {error}"[:200])
            raise
        self.span.end()

    def _follow(self) -> None:
        for event in self.engine.events(TICK):
            self._check_interrupts()
            if event is not None:
                self._handle(event)
            if self.report is not None:
                break  # the last event: nothing more is needed of the engine, and how it ends does not matter
            self._check_limits()
        if self.report is None:
            self._raise_cause()
        self._check_interrupts()
        report = self._with_devices(self.report).model_dump(mode="json")
        self.lease.close()
        crash_points.reach("worker_before_final_commit")
        self._write(lambda session: jobs.finish(session, self.claim, report, self.pending))
        crash_points.reach("worker_after_final_commit")

    def _with_devices(self, report: Report) -> Report:
        """Return the report with the rows of the devices that the job names, once they are there or their time is over.

        A deadline that passes meanwhile ends the wait and not the job, whose result is complete.
        """
        names = self.claim.job.evaluate.get("devices")
        if not names:
            return report
        self.engine.stop()  # nothing more is needed of it, and the wait may be long
        said = Log(message=f"Waiting until the shipped artifact is profiled on {', '.join(names)}.")
        self._record("log", said.model_dump(mode="json", exclude={"type"}))

        def check() -> None:
            for reason in ("lost", "cancel", "drain"):
                if getattr(self.lease, reason).is_set():
                    self._stop(reason)

        return report.with_devices(wait_for_devices(self.claim, report, self.lease, check))

    def _raise_cause(self) -> NoReturn:
        """Raise the error that an end without a report means."""
        status = self.engine.status()
        self._check_interrupts()
        if status == -signal.SIGKILL and killed_for_memory() > self.killed_before:
            raise Failed(OutOfMemory("the system ended the engine because memory ran out", param="recipe.train").as_dict())
        raise Crashed(describe_end(status, self.engine.last_output(600)))

    def _check_interrupts(self) -> None:
        for reason in ("lost", "cancel", "overdue"):
            if getattr(self.lease, reason).is_set():
                self._stop(reason)
        if self.lease.drain.is_set():
            if self.pausing is None:
                self.pausing = time.monotonic()
                self.engine.pause()
            elif time.monotonic() - self.pausing > self.settings.drain_grace_seconds:
                self._stop("drain")

    def _stop(self, reason: str) -> None:
        self.engine.stop()
        raise Interrupted(reason)

    def _check_limits(self) -> None:
        """End an engine that makes no progress or takes too much. Raises Crashed, Failed, Untrustworthy."""
        now = time.monotonic()
        if now - self.moved > self.settings.stall_seconds:
            self.engine.kill()
            raise Crashed(
                f"No progress for {self.settings.stall_seconds:g} s. {self.engine.last_output(600)}", "engine_stalled"
            )
        if now - self.looked > MEMORY_SECONDS:
            self.looked = now
            if error := find_excess(self.engine.usage(), self.settings):
                self.engine.kill()
                raise Failed(error)
        if now > self.disk_due:
            self._check_disk()

    def _check_disk(self) -> None:
        """End an engine whose folder takes too much, or hides how much. Raises Failed, Untrustworthy."""
        began = time.monotonic()
        try:
            taken = taken_bytes(self.folder, self.most_disk)
        except OSError as error:
            raise Untrustworthy(f"its folder cannot be read: {error.strerror}") from error
        self.disk_due = time.monotonic() + max(DISK_SECONDS, (time.monotonic() - began) / DISK_SHARE)
        if taken > self.most_disk:
            self.engine.kill()
            raise Failed(_disk_error(f"the job's folder takes more than {self.most_disk:,} bytes of the worker's disk"))

    def _handle(self, event: Event) -> None:
        match event:
            case Progress():
                self._progress(event)
            case ArtifactReady(artifact=artifact):
                keys = self._store(f"artifacts/{artifact.name}", artifact.files)
                self.pending.append((artifact, keys))
                crash_points.reach("worker_artifact_stored")
            case PartFinished():
                self._part_finished(event)
            case StageFinished(row=row, checkpoint=files):
                self._stage_finished(row, files)
            case TrainingSaved():
                self._training_saved(event)
            case StageStarted(stage=stage):
                self._stage_started(stage, resumed=event.resumed)
                self._record("stage_started", event.model_dump(mode="json", exclude={"type"}), stage=stage)
            case TablesSaved() | DeviceTableMeasured():
                self.tables.take(event, self.part_names)
            case RecipeResolved(resolved=found):
                said = {"level": "info", "message": " ".join(found.reasons)[:4000]}
                self._record("log", said, resolved=found.model_dump(mode="json"))
            case Finished(report=report):
                self.tables.check_last()
                stored = {artifact.name for artifact, _ in self.pending}
                check_report(report, self.claim.job.id, stored, self.part_names)
                self.report = report
            case events.Failed():
                raise Failed(event.model_dump(mode="json", exclude={"type"}))
            case Paused():
                if self.pausing is None:
                    raise Untrustworthy("it stopped for a pause that was not requested")
                self._stop("drain")
            case Started() | Log():
                # The engine has no lasting log of its own, so its messages go to our log, with the ids of job and request.
                log.info(f"engine_{event.type}", fields=event.model_dump(mode="json", exclude={"type"}))
                self._record(event.type, event.model_dump(mode="json", exclude={"type"}))
        if not isinstance(event, Progress | Log):
            self.moved = time.monotonic()

    def _stage_started(self, stage: str, *, resumed: bool) -> None:
        self.span.end()
        self.span = traces.start_span(f"stage {stage}", job=self.claim.job.id, stage=stage, resumed=resumed)
        log.info("stage_started", stage=stage, resumed=resumed)

    def _progress(self, event: Progress) -> None:
        crash_points.reach(f"worker_in_{event.stage}")
        self.lease.progress = event.model_dump(mode="json", exclude={"type"})
        if (event.stage, event.part, event.phase, event.step) != self.seen:
            self.seen, self.moved = (event.stage, event.part, event.phase, event.step), time.monotonic()
        if event.score is not None or self._is_curve_point(event):
            self._record("progress", self.lease.progress)

    def _is_curve_point(self, event: Progress) -> bool:
        """Return whether to store a loss for the job's curves: a number per phase, evenly spaced."""
        place = (event.stage, event.part, event.phase)
        if event.loss is None or (place == self.next_point[0] and event.step < self.next_point[1]):
            return False
        self.next_point = (place, event.step + max(1, event.total // CURVE_POINTS))
        return True

    def _stage_finished(self, row: Row, files: tuple[File, ...]) -> None:
        if row.stage in self.finished:
            raise Untrustworthy(f"{row.stage} was finished twice")
        if set(row.parts) != set(self.part_names):
            raise Untrustworthy(f"the parts of {row.stage} are not the job's")
        self.finished.add(row.stage)
        folder = f"checkpoints/{row.stage}"
        self._store(folder, files)
        checkpoint = [file.model_dump(mode="json") for file in files]
        origin, kept = self._origin(), self.pending
        self._write(
            lambda session: stage_results.record_stage(
                session, self.claim, row, f"{self.place}/{folder}", checkpoint, kept, origin=origin
            )
        )
        self.span.end()
        log.info("stage_finished", stage=row.stage, seconds=row.seconds)
        crash_points.reach("worker_stage_recorded")
        self.pending = []
        self._forget_saved()

    def _part_finished(self, event: PartFinished) -> None:
        """Store the result of one dataset in a stage, so that no attempt need repeat it."""
        place = (event.stage, event.number)
        if self.part_names[event.number : event.number + 1] != [event.part]:
            raise Untrustworthy(f"the job has no part {event.part!r} at {event.number}")
        if place in self.parts or event.stage in self.finished:
            raise Untrustworthy(f"{event.part} was finished twice in {event.stage}")
        self.parts.add(place)
        folder = f"checkpoints/{event.stage}"
        self._store(folder, event.checkpoint)
        files = [file.model_dump(mode="json") for file in event.checkpoint]
        data = event.model_dump(mode="json", include={"stage", "part"})
        origin, kept, prefix, name = self._origin(), self.pending, f"{self.place}/{folder}", f"{event.stage}.{event.number}"
        self._write(
            lambda session: stage_results.record_part(session, self.claim, name, prefix, files, kept, data, origin=origin)
        )
        self.stored |= {f"{prefix}/{file.path}": file.sha256 for file in event.checkpoint}
        self.pending = []
        self._forget_saved()

    @cached_property
    def part_names(self) -> list[str]:
        """The names of the job's datasets; an empty list if it has one."""
        with reading() as session:
            return stage_results.list_part_names(session, self.claim.job.id)

    def _training_saved(self, event: TrainingSaved) -> None:
        """Store a saved training, then delete its folder, which tells the engine that it may save again."""
        folder = f"checkpoints/{event.folder}"
        keys = self._store(folder, event.files, stays=False)
        remove_beneath(self.folder, f"out/{folder}")
        files = [file.model_dump(mode="json") for file in event.files]
        data = event.model_dump(mode="json", include={"stage", "part", "phase", "step", "total"})
        origin = self._origin()
        self._write(
            lambda session: stage_results.record_training(
                session, self.claim, f"{self.place}/{folder}", files, data, origin=origin
            )
        )
        crash_points.reach("worker_training_saved")
        self._forget_saved()
        self.saved = list(keys.values())

    def _forget_saved(self) -> None:
        """Delete what was saved of training before; the keeper finds what a crash leaves of it."""
        for key in self.saved:
            self.storage.delete(key)
        self.saved = []

    def _store(self, folder: str, files: tuple[File, ...], *, stays: bool = True) -> dict[str, str]:
        """Copy files that the engine wrote below out/<folder> into storage, each verified against its event while it is copied.

        Returns path → key. The engine makes every folder on the way, so links are not followed. stays: as long as the job, and
        not only until the next of its kind; a sparse file takes space only once it is copied. Raises Failed if it is too much.
        """
        keys: dict[str, str] = {}
        place = f"{self.place}/{folder}"
        new = [file for file in files if self.stored.get(f"{place}/{file.path}") != file.sha256]
        kept = self.kept_bytes + sum(file.size for file in new)
        if kept > self.most_written:
            raise Failed(_disk_error(f"the job has {kept:,} bytes to store"))
        if stays:
            self.kept_bytes = kept
        for file in files:
            key = f"{place}/{file.path}"
            if self.stored.get(key) == file.sha256:
                keys[file.path] = key  # it came with its part
                continue
            with open_beneath(self.folder, f"out/{folder}/{file.path}") as source:
                self.storage.put_file(key, VerifiedFile(source, file.size, file.sha256, file.path))
                keys[file.path] = key
            self._check_interrupts()
        return keys

    def _origin(self) -> str:
        """Return the id of the next write. Raises Untrustworthy if there were too many."""
        number = next(self.numbers)
        if number > MOST_EVENTS:
            raise Untrustworthy("more events than any job has")
        return f"{self.claim.fence}.{number}"

    def _record(self, kind: EventType, data: dict[str, Any], **changes: Any) -> None:
        origin = self._origin()
        self._write(lambda session: jobs.record_event(session, self.claim, kind, data, origin=origin, **changes))
        time.sleep(WRITE_PAUSE_SECONDS)

    def _write(self, write: Write) -> None:
        persist(self.lease, write)
