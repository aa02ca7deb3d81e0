"""What lies in an attempt's folder before the engine starts: model, data, what earlier attempts finished, and the spec."""

from pathlib import Path

from sqlalchemy import select

from app import jobs
from app.db import reading
from app.models import Checkpoint, Dataset, File, Job, JobDataset, Model
from app.settings import Settings
from app.storage import Storage
from compression.recipe import Data, Evaluate, Part, Recipe, Spec, Targets

UNKNOWN = 1 << 30
"""Bytes that a job is taken to need whose forecast nobody made."""


def needed_bytes(job: Job) -> int:
    """Return the bytes that a job may write beside its inputs, as forecast when it was accepted."""
    return job.disk_bytes or UNKNOWN


def lay_out(claim: jobs.Claim, folder: Path, settings: Settings, storage: Storage) -> Path:
    """Copy models, data and checkpoints into the folder; return the spec that was written beside them."""
    job = claim.job
    with reading() as session:
        model = session.get_one(Model, job.model_id)
        several = session.scalars(select(JobDataset).where(JobDataset.job_id == job.id).order_by(JobDataset.position)).all()
        datasets = {part.name: session.get_one(Dataset, part.dataset_id) for part in several}
        alone = None if several else session.get_one(Dataset, job.dataset_id)
        student = session.get_one(Model, job.student) if job.student else None
        teachers = [session.get_one(Model, teacher) for teacher in job.teachers]
        done = jobs.checkpoints(session, job.id)
    _fetch(storage, model.files, folder / "model")
    if student is not None:
        _fetch(storage, student.files, folder / "student")
    for number, teacher in enumerate(teachers):
        _fetch(storage, teacher.files, folder / "teachers" / str(number))
    for checkpoint in done:
        # Parts of a stage that was not finished (`<stage>.<place>`) lie where they would in the finished one.
        _fetch_checkpoint(storage, checkpoint, folder / "resume" / checkpoint.stage.partition(".")[0])
    parts = [
        Part(name=name, task=dataset.task, data=_data(dataset, storage, folder, f"data/{name}"))
        for name, dataset in datasets.items()
    ]
    spec = Spec(
        task=job.task,
        model="model",
        student="student" if student is not None else None,
        teachers=tuple(f"teachers/{number}" for number in range(len(teachers))),
        data=_data(alone, storage, folder, "data") if alone else None,
        parts=tuple(parts),
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


def _data(dataset: Dataset, storage: Storage, folder: Path, place: str) -> Data:
    """Copy a dataset's files to folder/place; return its layout with their paths from `folder`."""
    _fetch(storage, dataset.files, folder / place)
    splits = {name: tuple(f"{place}/{path}" for path in paths) for name, paths in dataset.data["splits"].items()}
    return Data.model_validate({**dataset.data, "splits": splits})


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
