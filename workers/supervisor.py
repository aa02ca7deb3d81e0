"""One attempt at one job: lay out the inputs, run the engine, store what it makes, and write exactly one outcome.

Bytes go to storage before the row that names them; every write carries the fence. Whatever goes wrong here ends in a
setback (tried again, up to a cap), a failure that the sender can mend, or, when the job is no longer ours, in silence.
"""

from pathlib import Path
from typing import Any

import structlog

from app import jobs
from app.db import reading, writing
from app.failures import failure
from app.models import Checkpoint, Dataset, File, Model
from app.settings import Settings
from app.storage import Storage
from compression import report as told
from compression.recipe import Data, Evaluate, Recipe, Spec, Targets
from workers.engine import Engine
from workers.folders import Untrustworthy, check, open_beneath, private_folder
from workers.lease import Lease

log = structlog.get_logger()
TICK = 0.25


class Interrupted(Exception):
    """The engine was stopped on purpose: `reason` is cancel, drain or lost."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


def attempt(claim: jobs.Claim, settings: Settings, storage: Storage) -> None:
    """Run a claimed job to an outcome, or to its return to the queue. Never raises for what a job can do wrong."""
    job, bound = claim.job, log.bind(job=claim.job.id, fence=claim.fence)
    bound.info("attempt", attempt=job.attempt)
    try:
        try:
            with private_folder(settings.scratch, f"{job.id}-{claim.fence}") as folder:
                _run(claim, folder, settings, storage)
            bound.info("succeeded")
        except Interrupted as stop:
            bound.info("interrupted", reason=stop.reason)
            if stop.reason != "lost":
                with writing() as session:
                    (jobs.cancelled if stop.reason == "cancel" else jobs.release)(session, claim)
        except _Failed as end:
            bound.info("failed", **end.error)
            with writing() as session:
                jobs.fail(session, claim, end.error)
        except Untrustworthy as error:
            _setback(claim, settings, failure("engine_misbehaved", str(error)))
        except _Crashed as error:
            _setback(claim, settings, failure("engine_crashed", str(error)))
        except jobs.StaleFence:
            raise
        except Exception as error:  # storage, disk, database: ours to mend, so the job is tried again
            bound.exception("worker_error")
            _setback(claim, settings, failure("worker_error", f"{type(error).__name__}: {error}"[:500]))
    except jobs.StaleFence:
        bound.warning("stale", note="another worker has the job, or it is over; nothing was written")


class _Failed(Exception):
    def __init__(self, error: dict[str, Any]) -> None:
        super().__init__(error["code"])
        self.error = error


class _Crashed(Exception):
    pass


def _setback(claim: jobs.Claim, settings: Settings, error: dict[str, Any]) -> None:
    log.warning("setback", job=claim.job.id, **error)
    with writing() as session:
        jobs.setback(session, claim, error, max_failures=settings.max_failures, backoff_seconds=settings.backoff_seconds)


def _run(claim: jobs.Claim, folder: Path, settings: Settings, storage: Storage) -> None:
    engine: Engine | None = None
    # The lease is held from before the first byte is fetched: a large model takes longer to copy than a lease lasts.
    lease = Lease(claim, settings, on_lost=lambda: engine.kill() if engine else None)
    lease.start()
    try:
        spec = _lay_out(claim, folder, settings, storage)
        with Engine(spec, folder, settings) as engine:
            _Watch(claim, folder / "out", storage, lease, engine).follow()
    finally:
        lease.close()


def _lay_out(claim: jobs.Claim, folder: Path, settings: Settings, storage: Storage) -> Path:
    """Copy model, data and earlier checkpoints into the folder, and write the engine's spec beside them."""
    job = claim.job
    with reading() as session:
        model, dataset = session.get_one(Model, job.model_id), session.get_one(Dataset, job.dataset_id)
        done = jobs.checkpoints(session, job.id)
    _fetch(storage, model.files, folder / "model")
    _fetch(storage, dataset.files, folder / "data")
    for checkpoint in done:
        _fetch_checkpoint(storage, checkpoint, folder / "resume" / checkpoint.stage)
    data = dataset.data
    splits = {name: tuple(f"data/{path}" for path in paths) for name, paths in data["splits"].items()}
    spec = Spec(
        task=job.task,
        model="model",
        data=Data.model_validate({**data, "splits": splits}),
        recipe=Recipe.model_validate(job.recipe),
        evaluate=Evaluate.model_validate(job.evaluate),
        targets=Targets.model_validate(job.targets),
        output="out",
        resume="resume" if done else None,
        threads=settings.engine_threads,
    )
    path = folder / "spec.json"
    path.write_text(spec.model_dump_json(), encoding="utf-8")
    return path


def _fetch(storage: Storage, files: list[File], target: Path) -> None:
    for file in files:
        if file.key is None:
            raise FileNotFoundError(f"{file.path} has no bytes in storage")
        place = target / file.path
        place.parent.mkdir(parents=True, exist_ok=True)
        storage.get_file(file.key, place, file.size)


def _fetch_checkpoint(storage: Storage, checkpoint: Checkpoint, target: Path) -> None:
    for file in checkpoint.files:
        place = target / file["path"]
        place.parent.mkdir(parents=True, exist_ok=True)
        storage.get_file(f"{checkpoint.prefix}/{file['path']}", place, file["size"])


class _Watch:
    """Follows an engine's events and stores what they tell."""

    def __init__(self, claim: jobs.Claim, out: Path, storage: Storage, lease: Lease, engine: Engine) -> None:
        self.claim, self.out, self.storage, self.lease, self.engine = claim, out, storage, lease, engine
        self.place = f"jobs/{claim.job.id}/{claim.fence}"
        self.pending: list[tuple[told.Artifact, dict[str, str]]] = []
        self.report: told.Report | None = None

    def follow(self) -> None:
        """Read to the end. Raises Interrupted, _Failed, _Crashed, Untrustworthy, StaleFence."""
        for event in self.engine.events(TICK):
            self._interrupt()
            if event is not None:
                self._take(event)
        status = self.engine.status()
        self._interrupt()
        if status != 0 or self.report is None:
            raise _Crashed(f"Exit status {status}. {self.engine.last_words(600)}")
        self.lease.close()
        with writing() as session:
            jobs.finish(session, self.claim, self.report.model_dump(mode="json"), self.pending)

    def _interrupt(self) -> None:
        for reason in ("lost", "cancel", "drain"):
            if getattr(self.lease, reason).is_set():
                self.engine.stop()
                self.lease.close()
                raise Interrupted(reason)

    def _take(self, event: told.Event) -> None:
        match event:
            case told.Progress():
                self.lease.progress = event.model_dump(mode="json", exclude={"type"})
                if event.score is not None:
                    self._record("progress", self.lease.progress)
            case told.ArtifactReady(artifact=artifact):
                root = self.out / "artifacts" / artifact.name
                keys = self._store(root, f"artifacts/{artifact.name}", artifact.files)
                self.pending.append((artifact, keys))
            case told.StageFinished(row=row, checkpoint=files):
                self._stage_finished(row, files)
            case told.StageStarted(stage=stage):
                self._record("stage_started", event.model_dump(mode="json", exclude={"type"}), stage=stage)
            case told.Finished(report=report):
                self.report = report
            case told.Failed():
                self.lease.close()
                raise _Failed(event.model_dump(mode="json", exclude={"type"}))
            case told.Started() | told.Log():
                self._record(event.type, event.model_dump(mode="json", exclude={"type"}))

    def _stage_finished(self, row: told.Row, files: tuple[told.File, ...]) -> None:
        folder = f"checkpoints/{row.stage}"
        self._store(self.out / folder, folder, files)
        checkpoint = [file.model_dump(mode="json") for file in files]
        with writing() as session:
            jobs.stage_finished(session, self.claim, row, f"{self.place}/{folder}", checkpoint, self.pending)
        self.pending = []

    def _store(self, root: Path, folder: str, files: tuple[told.File, ...]) -> dict[str, str]:
        """Put files that the engine wrote into storage, each checked against its event; return path → key."""
        keys = {}
        for file in files:
            with open_beneath(root, file.path) as source:
                check(source, file.size, file.sha256, file.path)
                keys[file.path] = f"{self.place}/{folder}/{file.path}"
                self.storage.put_file(keys[file.path], source)
            self._interrupt()
        return keys

    def _record(self, kind: str, data: dict[str, Any], **changes: Any) -> None:
        with writing() as session:
            jobs.record(session, self.claim, [(kind, data)], **changes)
