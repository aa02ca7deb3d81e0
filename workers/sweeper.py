"""Frees bytes: of what was deleted or abandoned, of checkpoints that are no longer needed, and of what no row names.

Bytes are stored before the rows that name them and deleted after them; so a crash leaves only bytes without a row, and those
that no row can come to name are safe to delete.
"""

import time
from collections.abc import Callable, Sequence
from functools import partial
from itertools import groupby
from typing import Any

import structlog
from sqlalchemy import ColumnElement, case, delete, select, update
from sqlalchemy.orm import Session

from app.core import crash_points
from app.core.settings import Settings
from app.jobs.stage_results import is_tables
from app.store.clock import now
from app.store.db import reading, writing
from app.store.models import RUNNING, TERMINAL, Artifact, Checkpoint, Dataset, File, Job, Model, UploadPart
from app.store.resources import UPLOADING, delete_abandoned
from app.store.storage import Storage

log = structlog.get_logger()
UNFINISHED_SECONDS = 24 * 3600.0
"""How long unfinished files of killed processes are kept."""
AT_ONCE = 20
"""Rows per kind and round whose bytes are freed."""
AGAIN_SECONDS = 60.0
"""How long what could not be freed is left alone."""


class Sweeper:
    """Frees bytes for the keeper. Every step may be interrupted and repeated, and one that fails stops no other."""

    def __init__(self, settings: Settings, storage: Storage) -> None:
        self.settings, self.storage = settings, storage
        self.swept = time.monotonic()
        self.seen: dict[str, str] = {}  # by step, the last row of the last round
        self.failed: dict[str, float] = {}  # by prefix, when to try again what could not be freed

    def round(self) -> None:
        """Free what has become free; now and then scan everything. Raises SQLAlchemyError."""
        self._deleted()
        self._spent()
        self._left_by_attempts()
        if time.monotonic() - self.swept >= self.settings.sweep_seconds:
            self.swept = time.monotonic()
            self.sweep_all()

    def _abandoned(self) -> None:
        with writing() as session:
            gone = delete_abandoned(session, self.settings.upload_seconds)
        for identifier in gone:
            log.info("upload_abandoned", upload=identifier)

    def _free(self, prefix: str, free: Callable[[], None]) -> None:
        """Free the bytes under a prefix, unless that failed a moment ago; log why it fails."""
        if time.monotonic() < self.failed.get(prefix, 0.0):
            return
        try:
            free()
            self.failed.pop(prefix, None)
        except Exception as error:  # each storage raises its client's own errors
            self.failed[prefix] = time.monotonic() + AGAIN_SECONDS
            log.warning("not_freed", prefix=prefix, error=f"{type(error).__name__}: {error}"[:500])

    def _next(self, step: str, where: ColumnElement[bool], identifier: Any, *columns: Any) -> Sequence[Any]:
        """Return the next rows of a step. Those that cannot be freed come again last, so they keep no others waiting."""
        query = select(identifier, *columns).where(where, identifier > self.seen.get(step, ""))
        with reading() as session:
            rows = session.execute(query.order_by(identifier).limit(AT_ONCE)).all()
        self.seen[step] = rows[-1][0] if len(rows) == AT_ONCE else ""
        return rows

    def _deleted(self) -> None:
        for kind, prefix in ((Job, "jobs"), (Model, "uploads"), (Dataset, "uploads")):
            dead = kind.deleted_at.is_not(None) & kind.purged_at.is_(None)
            for (identifier,) in self._next(kind.__tablename__, dead, kind.id):
                place = f"{prefix}/{identifier}/"
                self._free(place, partial(self._purge, kind, identifier, place))

    def _purge(self, kind: Any, identifier: str, prefix: str) -> None:
        self.storage.delete_all([stored.key for stored in self.storage.objects(prefix)])
        crash_points.reach("keeper_before_purge_recorded")
        with writing() as session:
            if kind is not Job:
                owner = File.model_id if kind is Model else File.dataset_id
                files = select(File.id).where(owner == identifier)
                session.execute(delete(UploadPart).where(UploadPart.file_id.in_(files)))
                session.execute(delete(File).where(owner == identifier))
            session.execute(update(kind).where(kind.id == identifier).values(purged_at=now()))

    def _spent(self) -> None:
        """Delete the checkpoints of jobs that have ended, but for error tables: first the rows, then the bytes."""
        with writing() as session:
            ended = select(Checkpoint.job_id).join(Job, Job.id == Checkpoint.job_id).where(Job.state.in_(TERMINAL))
            jobs = set(session.scalars(ended.where(~is_tables()).limit(AT_ONCE)))
            session.execute(delete(Checkpoint).where(Checkpoint.job_id.in_(jobs), ~is_tables()))
            session.execute(update(Job).where(Job.id.in_(jobs)).values(swept_fence=0))

    def _left_by_attempts(self) -> None:
        """Scan jobs after each of their attempts, once."""
        # An attempt that ended may leave bytes; while one runs, only earlier ones may.
        ended = case((Job.state == RUNNING, Job.fence), else_=Job.fence + 1)
        for job_id, until in self._next("attempts", (Job.swept_fence < ended) & (Job.fence > 0), Job.id, ended):
            self._free(f"jobs/{job_id}/", partial(self._sweep_after, job_id, until))

    def _sweep_after(self, job_id: str, until: int) -> None:
        self._sweep_job(job_id, [stored.key for stored in self.storage.objects(f"jobs/{job_id}/")])
        with writing() as session:
            session.execute(update(Job).where(Job.id == job_id).values(swept_fence=until))

    def sweep_all(self) -> None:
        """Scan the whole storage: a worker that was presumed dead may have stored more after its job was swept."""
        self._abandoned()
        for prefix, sweep in (("jobs/", self._sweep_job), ("uploads/", self._sweep_upload)):
            self._free(prefix, partial(self._sweep_below, prefix, sweep))
        self._free(".incoming/", partial(self.storage.forget_unfinished, UNFINISHED_SECONDS))

    def _sweep_below(self, prefix: str, sweep: Callable[[str, list[str]], None]) -> None:
        keys = (stored.key for stored in self.storage.objects(prefix))
        for owner, found in groupby(keys, key=_owner):
            if owner:
                self._free(f"{prefix}{owner}/", partial(sweep, owner, list(found)))
            else:  # a desktop's .DS_Store, an NFS server's .nfs…, what a bucket's console makes for a folder
                log.info("strays_left", keys=list(found)[:20])

    def _sweep_job(self, job_id: str, keys: list[str]) -> None:
        """Delete what no row names and no attempt may still name. The keys were listed before the rows are read."""
        if not keys:
            return
        with reading() as session:
            job = session.execute(select(Job.state, Job.fence).where(Job.id == job_id)).one_or_none()
            named = _named(session, job_id)
        running = f"jobs/{job_id}/{job.fence}/" if job is not None and job.state == RUNNING else None
        self._remove([key for key in keys if key not in named and not (running and key.startswith(running))])

    def _sweep_upload(self, owner: str, keys: list[str]) -> None:
        with reading() as session:
            states = [
                session.scalar(select(kind.state).where(kind.id == owner, kind.deleted_at.is_(None)))
                for kind in (Model, Dataset)
            ]
            mine = (File.model_id == owner) | (File.dataset_id == owner)
            named = set(session.scalars(select(File.key).where(mine, File.key.is_not(None))))
        if UPLOADING in states:
            return  # bytes are stored before the row that names them
        self._remove([key for key in keys if key not in named])

    def _remove(self, keys: list[str]) -> None:
        for key in keys:
            log.info("left_over_removed", key=key)
        self.storage.delete_all(keys)


def _owner(key: str) -> str:
    """Return the id of the job or upload that a key belongs to; "" for a key that Lathe never makes."""
    _, _, rest = key.partition("/")
    owner, _, name = rest.partition("/")
    return owner if name else ""


def _named(session: Session, job_id: str) -> set[str]:
    artifacts = select(File.key).join(Artifact, Artifact.id == File.artifact_id).where(Artifact.job_id == job_id)
    checkpoints = session.scalars(select(Checkpoint).where(Checkpoint.job_id == job_id))
    return {key for key in session.scalars(artifacts) if key} | {
        f"{row.prefix}/{file['path']}" for row in checkpoints for file in row.files
    }
