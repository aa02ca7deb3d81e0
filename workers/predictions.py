"""Predictions by a finished job's models: a child process opens both artifacts, never the API or this process."""

import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import structlog
from pydantic import ValidationError

from app.core.failures import describe_failure
from app.core.settings import Settings
from app.jobs import predictions
from app.store.db import reading, writing
from app.store.models import Dataset, File, Job, Prediction
from app.store.resources import StoredFile, stored_files
from app.store.storage import Storage
from compression.schema.file_names import folders_of
from compression.schema.job_spec import Data
from compression.schema.prediction import Answered, parse_answered
from compression.schema.prediction_request import AnswerSpec, Question
from compression.schema.recipe.recipe import JobEvaluate
from compression.schema.report.report import Report
from compression.schema.validation import DataFacts, Rejected
from workers import engine
from workers.folders import private_folder
from workers.job_inputs import fetch_files
from workers.limits import engine_memory, reserve_disk
from workers.task_lease import TakenOver, TaskLease

log = structlog.get_logger()


def predict_next(settings: Settings, storage: Storage) -> bool:
    """Claim and answer one prediction; return whether there was one."""
    # The lease outlives the child's own time limit, so that no second worker starts while the first may still write.
    lease = settings.answer_seconds + settings.lease_seconds
    with writing() as session:
        row = predictions.claim(session, lease)
    if row is None:
        return False
    hold = TaskLease(lambda session: predictions.renew(session, row, lease), settings.heartbeat_seconds)
    result: dict[str, Any] | None = None
    error: dict[str, Any] | None = None
    try:
        with private_folder(settings.scratch, f"{row.id}-{row.attempt}") as folder:
            finding = _predict(row, folder, settings, storage, hold)
        if isinstance(finding, Rejected):
            error = dict(finding.reasons[0])
        else:
            result = finding.model_dump(mode="json")
    except TakenOver:
        log.warning("question_taken_over", id=row.id, job=row.job_id)
        return True
    except subprocess.TimeoutExpired:
        error = describe_failure("answer_failed", f"It took longer than {settings.answer_seconds:g} s.")
    except Exception as problem:  # a child that crashed or a storage that is away: somebody waits, and can ask again
        log.exception("answer_error", id=row.id, job=row.job_id)
        error = describe_failure("answer_failed", type(problem).__name__)
    with writing() as session:
        predictions.finish(session, row, result=result, error=error)
    log.info("answered", id=row.id, job=row.job_id, error=error and error["code"])
    return True


def _predict(row: Prediction, folder: Path, settings: Settings, storage: Storage, hold: TaskLease) -> Answered | Rejected:
    """Fetch both artifacts, and the data if a row is requested; run the child and return its answer.

    Raises TakenOver.
    """
    question = Question.model_validate(row.asked)
    with reading() as session:
        job = session.get_one(Job, row.job_id)
        report = Report.model_validate(job.report)
        original, compressed = predictions.artifacts(session, row)
        dataset = session.get_one(Dataset, predictions.find_dataset(job, row.part))
        facts = DataFacts.model_validate(dataset.facts)
        uploaded = stored_files(session, dataset) if question.row is not None else []
    files: dict[str, Sequence[File | StoredFile]] = {"original": original.files, "compressed": compressed.files}
    data = None
    if question.row is not None:
        paths = dataset.data["splits"][question.split]
        wanted = set(paths)  # files, or folders of files
        files["data"] = [file for file in uploaded if not wanted.isdisjoint((file.path, *folders_of(file.path)))]
        splits = {"train": tuple(f"data/{path}" for path in paths), question.split: tuple(f"data/{path}" for path in paths)}
        data = Data.model_validate({**dataset.data, "splits": splits})
    place, part = next(((place, one) for place, one in enumerate(report.parts) if one.name == row.part), (0, None))
    spec = AnswerSpec(
        task=facts.task,
        labels=part.labels if part else report.labels,
        evaluate=JobEvaluate.model_validate(job.evaluate).each(len(report.parts) or 1)[place],
        original="original",
        compressed="compressed",
        question=question,
        data=data,
        memory_bytes=engine_memory(settings),
    )
    path = folder / "spec.json"
    path.write_text(spec.model_dump_json(), encoding="utf-8")
    with reserve_disk(settings.scratch, folder, None, 0, sum(file.size for some in files.values() for file in some)):
        for name, some in files.items():
            fetch_files(storage, some, folder / name, hold.renew_if_due)
        hold.renew()
        found = engine.run_query("predict", path, folder, settings, settings.answer_seconds)
    try:
        return parse_answered.validate_json(found)
    except ValidationError as problem:
        raise RuntimeError(f"answer wrote no answers: {problem}") from problem
