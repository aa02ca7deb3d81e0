"""What lies in an attempt's folder before the engine starts: model, data, what earlier attempts finished, and the spec."""

import shutil
from collections.abc import Callable
from pathlib import Path

import structlog

from app import jobs
from app.db import reading
from app.models import Checkpoint, Dataset, File, Job, Model
from app.settings import Settings
from app.storage import Storage
from compression.recipe import Data, Evaluate, Recipe, Spec, Targets

log = structlog.get_logger()
UNKNOWN = 1 << 30
"""Bytes that a job is taken to need whose forecast nobody made."""


def needed_bytes(job: Job) -> int:
    """Return the bytes that a job may write beside its inputs, as forecast when it was accepted."""
    return job.disk_bytes or UNKNOWN


def fetched_bytes(job: Job) -> int:
    """Return the bytes that `lay_out` will copy."""
    with reading() as session:
        inputs = (session.get_one(Model, job.model_id), session.get_one(Dataset, job.dataset_id))
        done = jobs.checkpoints(session, job.id)
    files = sum(file.size for one in inputs for file in one.files)
    return files + sum(int(file["size"]) for checkpoint in done for file in checkpoint.files)


def lay_out(
    claim: jobs.Claim, folder: Path, settings: Settings, storage: Storage, heed: Callable[[], None] = lambda: None
) -> Path:
    """Copy model, data and checkpoints into the folder; return the spec that was written beside them.

    That may take long: `heed` is called again and again meanwhile, and what it raises ends it.
    """
    job = claim.job
    with reading() as session:
        model, dataset = session.get_one(Model, job.model_id), session.get_one(Dataset, job.dataset_id)
        done = jobs.checkpoints(session, job.id)
    _fetch(storage, model.files, folder / "model", heed)
    _fetch(storage, dataset.files, folder / "data", heed)
    for checkpoint in done:
        place = folder / "resume" / checkpoint.stage
        try:
            _fetch_checkpoint(storage, checkpoint, place, heed)
        except FileNotFoundError as error:  # like one that is damaged it costs time, and not the job
            log.warning("checkpoint_missing", job=job.id, stage=checkpoint.stage, error=str(error))
            shutil.rmtree(place)
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
        save_seconds=settings.save_seconds,
        split_batches=job.split_batches,
        wordnet=str(settings.wordnet) if settings.wordnet else None,
        helper_models=str(settings.helper_models) if settings.helper_models else None,
    )
    path = folder / "spec.json"
    path.write_text(spec.model_dump_json(), encoding="utf-8")
    return path


def _fetch(storage: Storage, files: list[File], target: Path, heed: Callable[[], None]) -> None:
    for file in files:
        if file.key is None:
            raise FileNotFoundError(f"{file.path} has no bytes in storage")
        place = target / file.path
        place.parent.mkdir(parents=True, exist_ok=True)
        storage.get_file(file.key, place, file.size, heed)


def _fetch_checkpoint(storage: Storage, checkpoint: Checkpoint, target: Path, heed: Callable[[], None]) -> None:
    for file in checkpoint.files:
        place = target / file["path"]
        place.parent.mkdir(parents=True, exist_ok=True)
        storage.get_file(f"{checkpoint.prefix}/{file['path']}", place, file["size"], heed)
