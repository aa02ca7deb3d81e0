"""The inputs in an attempt's folder before the engine starts: model, data, results of earlier attempts, and the spec."""

import json
import shutil
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import structlog
from sqlalchemy import select
from sqlalchemy.orm import Session

from app.core.settings import Settings
from app.jobs import device_tables, fencing, forecasts, stage_results
from app.store.db import reading
from app.store.models import Checkpoint, Dataset, File, Job, JobDataset, Model
from app.store.resources import StoredFile, stored_files
from app.store.storage import Storage
from compression.schema.job_spec import Data, DatasetSpec, Resolved, Spec
from compression.schema.recipe.distill import Distill
from compression.schema.recipe.recipe import JobEvaluate, Recipe, Targets
from compression.schema.tables_files import TABLES
from compression.system.processor import processor
from workers.device_probe import choose_device
from workers.limits import engine_memory, engine_threads

log = structlog.get_logger()
UNKNOWN = 1 << 30
"""Bytes that a job without a forecast is assumed to need."""


def needed_bytes(job: Job) -> int:
    """Return the bytes that a job may write besides its inputs, as forecast when it was accepted."""
    return job.disk_bytes or UNKNOWN


def most_cached(job: Job, settings: Settings) -> int:
    """Return the most bytes of teachers' outputs that a job may keep on disk besides, if its recipe leaves it to the worker."""
    recipe = Recipe.model_validate(job.recipe)
    is_open = recipe.has_teacher and (recipe.distill or Distill()).spill_gib == "auto"
    return settings.teacher_cache_bytes if is_open else 0


@dataclass(frozen=True)
class _Inputs:
    """Folder → the row whose files go there, and its files; the checkpoints of earlier attempts. datasets: in order."""

    models: dict[str, Model]
    datasets: dict[str, Dataset]
    files: dict[str, list[StoredFile]]
    names: tuple[str, ...]
    done: tuple[Checkpoint, ...]
    tables: tuple[tuple[Checkpoint, ...], ...]  #: error tables of each of some earlier jobs, if the recipe searches

    @property
    def student(self) -> str | None:
        """Folder of the named student, if there is one."""
        return "student" if "student" in self.models else None

    @property
    def teachers(self) -> tuple[str, ...]:
        """Folders of the named teachers."""
        return tuple(place for place in self.models if place.startswith("teachers/"))


def _inputs(job: Job) -> _Inputs:
    with reading() as session:
        models = {"model": job.model_id, **({"student": job.student} if job.student else {})}
        models |= {f"teachers/{number}": teacher for number, teacher in enumerate(job.teachers)}
        several = session.scalars(select(JobDataset).where(JobDataset.job_id == job.id).order_by(JobDataset.position)).all()
        datasets = {f"data/{part.name}": part.dataset_id for part in several} or {"data": job.dataset_id}
        own = {place: session.get_one(Model, one) for place, one in models.items()}
        data = {place: session.get_one(Dataset, one) for place, one in datasets.items()}
        rows: dict[str, Model | Dataset] = {**own, **data}
        done = tuple(stage_results.list_checkpoints(session, job.id))
        return _Inputs(
            own,
            data,
            {place: stored_files(session, one) for place, one in rows.items()},
            tuple(part.name for part in several),
            done,
            _earlier_tables(session, job, done),
        )


def _earlier_tables(session: Session, job: Job, done: Iterable[Checkpoint]) -> tuple[tuple[Checkpoint, ...], ...]:
    """Return the error tables of earlier jobs that this one may go on from, unless it has its own or needs none."""
    prune = Recipe.model_validate(job.recipe).prune
    own = sum(checkpoint.stage.partition(".")[0] == TABLES for checkpoint in done)
    if prune is None or prune.search is None or own == max(1, len(job.parts)):
        return ()
    return tuple(tuple(found) for found in stage_results.known_tables(session, job))


def input_bytes(job: Job) -> int:
    """Return the bytes that `write_inputs` will copy."""
    inputs = _inputs(job)
    files = sum(file.size for some in inputs.files.values() for file in some)
    earlier = [checkpoint for some in inputs.tables for checkpoint in some]
    return files + sum(int(file["size"]) for checkpoint in (*inputs.done, *earlier) for file in checkpoint.files)


def write_inputs(
    claim: fencing.Claim,
    folder: Path,
    settings: Settings,
    storage: Storage,
    check_stop: Callable[[], None] = lambda: None,
    *,
    cached: int = 0,
) -> Path:
    """Copy models, data and checkpoints into the folder; return the path of the spec that was written beside them.

    That may take long: `check_stop` is called throughout, and what it raises ends it. cached: bytes of the disk that are
    reserved for teachers' outputs.
    """
    job, inputs = claim.job, _inputs(claim.job)
    for name, some in inputs.files.items():
        fetch_files(storage, some, folder / name, check_stop)
    known = {f"tables-{number}": some for number, some in enumerate(inputs.tables)}
    for name, found in {"resume": inputs.done, **known}.items():
        _fetch_checkpoints(storage, found, folder / name, check_stop)
    data = {place: _data(dataset, place) for place, dataset in inputs.datasets.items()}
    parts = [
        DatasetSpec(name=name, task=inputs.datasets[f"data/{name}"].task, data=data[f"data/{name}"]) for name in inputs.names
    ]
    with reading() as session:
        training = forecasts.training_seconds(session, job)
    spec = Spec(
        job=job.id,
        task=job.task,
        model="model",
        student=inputs.student,
        teachers=inputs.teachers,
        data=data.get("data"),
        parts=tuple(parts),
        recipe=Recipe.model_validate(job.recipe),
        evaluate=JobEvaluate.model_validate(job.evaluate).without_devices,  # the worker asks them, engines have no network
        targets=Targets.model_validate(job.targets),
        output="out",
        resume="resume" if inputs.done else None,
        threads=engine_threads(settings),
        training_seconds=training,
        save_seconds=settings.save_seconds,
        split_batches=job.split_batches,
        memory_bytes=engine_memory(settings),
        cache_bytes=cached,
        device=choose_device(settings)[0].kind,
        emulate_seconds=settings.emulate_seconds or None,
        wordnet=str(settings.wordnet) if settings.wordnet else None,
        helper_models=str(settings.helper_models) if settings.helper_models else None,
        lm_eval_data=str(settings.lm_eval_data) if settings.lm_eval_data else None,
        device_tables=_write_tables(job, folder),
        error_tables=tuple(known),
        resolved=Resolved.model_validate(job.resolved) if job.resolved is not None else None,
    )
    path = folder / "spec.json"
    path.write_text(spec.model_dump_json(), encoding="utf-8")
    return path


def _data(dataset: Dataset, place: str) -> Data:
    """Return a dataset's layout with paths from the attempt's folder."""
    splits = {name: tuple(f"{place}/{path}" for path in paths) for name, paths in dataset.data["splits"].items()}
    return Data.model_validate({**dataset.data, "splits": splits})


def _write_tables(job: Job, folder: Path) -> tuple[str, ...] | None:
    """Write the known device tables of this machine's processor beside the inputs, if the job's recipe reads any."""
    if not Recipe.model_validate(job.recipe).reads_device_table:
        return None
    with reading() as session:
        found = device_tables.offered(session, processor(), JobEvaluate.model_validate(job.evaluate).threads)
    names = tuple(f"device-table-{number}.json" for number in range(len(found)))
    for name, table in zip(names, found, strict=True):
        (folder / name).write_text(json.dumps(table), "utf-8")
    return names


def fetch_files(
    storage: Storage, files: Iterable[File | StoredFile], target: Path, check_stop: Callable[[], None] = lambda: None
) -> None:
    """Copy files into a folder. Raises FileNotFoundError if one has no bytes."""
    for file in files:
        if file.key is None:
            raise FileNotFoundError(f"{file.path} has no bytes in storage")
        place = target / file.path
        place.parent.mkdir(parents=True, exist_ok=True)
        storage.get_file(file.key, place, file.size, check_stop)


def _fetch_checkpoints(storage: Storage, found: Iterable[Checkpoint], folder: Path, check_stop: Callable[[], None]) -> None:
    """Copy checkpoints into their stages' folders; what is missing there is left out."""
    for checkpoint in found:
        # Parts of an unfinished stage (`<stage>.<number>`) go where they would be in the finished one.
        place = folder / checkpoint.stage.partition(".")[0]
        try:
            _fetch_checkpoint(storage, checkpoint, place, check_stop)
        except FileNotFoundError as error:  # like a damaged one it costs time, but not the job
            log.warning("checkpoint_missing", stage=checkpoint.stage, error=str(error))
            shutil.rmtree(place)


def _fetch_checkpoint(storage: Storage, checkpoint: Checkpoint, target: Path, check_stop: Callable[[], None]) -> None:
    for file in checkpoint.files:
        place = target / file["path"]
        place.parent.mkdir(parents=True, exist_ok=True)
        storage.get_file(f"{checkpoint.prefix}/{file['path']}", place, file["size"], check_stop)
