"""Results of a job's stages, as a worker reports them: rows, checkpoints and artifacts.

Every write carries the worker's fence; bytes are stored before the row that names them.
"""

from collections.abc import Sequence
from typing import Any

from sqlalchemy import ColumnElement, delete, select
from sqlalchemy.orm import Session

from app.jobs.fencing import Claim, update_fenced, was_written
from app.store.models import TRAINING, Artifact, Checkpoint, File, Job, JobDataset, Metric
from compression.schema.report.measurements import Latency, Row, Score
from compression.schema.report.report import Artifact as ArtifactFacts
from compression.schema.stages import STAGES
from compression.schema.tables_files import STATE, TABLES

MOST_OFFERED, MOST_LOOKED_AT = 4, 32
"""Earlier jobs whose error tables an engine is given, and jobs among which they are looked for, the newest first."""


def list_checkpoints(session: Session, job_id: str) -> list[Checkpoint]:
    """Return the finished stages of earlier attempts, in the order of the stages; a training in progress and error tables come
    last.

    Finished parts of an unfinished stage are named `<stage>.<number>`.
    """
    rows = session.scalars(select(Checkpoint).where(Checkpoint.job_id == job_id)).all()
    order: tuple[str, ...] = (*STAGES, TRAINING, TABLES)
    return sorted(rows, key=lambda row: (order.index(row.stage.partition(".")[0]), row.stage))


def list_results(session: Session, job_id: str) -> tuple[list[dict[str, Any]], set[str]]:
    """Return the rows of a job's stages in order, and the names of its artifacts."""
    rows = session.scalars(select(Metric.row).where(Metric.job_id == job_id).order_by(Metric.position))
    return list(rows), set(session.scalars(select(Artifact.name).where(Artifact.job_id == job_id)))


def list_part_names(session: Session, job_id: str) -> list[str]:
    """Return the names of a job's datasets in order; an empty list if it has one dataset."""
    return list(session.scalars(select(JobDataset.name).where(JobDataset.job_id == job_id).order_by(JobDataset.position)))


def record_stage(
    session: Session,
    claim: Claim,
    row: Row,
    prefix: str,
    checkpoint: Sequence[dict[str, Any]],
    artifacts: Sequence[tuple[ArtifactFacts, dict[str, str]]],
    *,
    origin: str | None = None,
) -> None:
    """Store a stage's row, checkpoint and artifacts, whose bytes are stored already. Raises StaleFence.

    Each artifact comes with the storage key of each file. The stage's saved training and finished parts are deleted, as are
    artifacts that an earlier attempt made for this stage in another way.
    """
    job_id = claim.job.id
    if origin is not None and was_written(session, claim, origin):
        return
    data = row.model_dump(mode="json")
    update_fenced(session, claim, events=[("stage_finished", {"row": data})], origin=origin, stage=row.stage)
    session.execute(delete(Metric).where(Metric.job_id == job_id, Metric.stage == row.stage))
    _forget(session, job_id, row.stage, TRAINING)
    session.execute(delete(Checkpoint).where(Checkpoint.job_id == job_id, Checkpoint.stage.startswith(f"{row.stage}.")))
    session.add(
        Metric(
            job_id=job_id,
            stage=row.stage,
            position=STAGES.index(row.stage),
            fence=claim.fence,
            parameters=row.parameters.total,
            size_bytes=row.size.bytes,
            latency_ms=row.latency.median_ms if isinstance(row.latency, Latency) else None,
            score=row.score.value if isinstance(row.score, Score) else None,
            seconds=row.seconds,
            row=data,
        )
    )
    if checkpoint:
        session.add(Checkpoint(job_id=job_id, stage=row.stage, fence=claim.fence, prefix=prefix, files=list(checkpoint)))
    _replace_artifacts(session, claim, row.stage, artifacts)
    session.flush()


def record_part(
    session: Session,
    claim: Claim,
    name: str,
    prefix: str,
    checkpoint: Sequence[dict[str, Any]],
    artifacts: Sequence[tuple[ArtifactFacts, dict[str, str]]],
    data: dict[str, Any],
    *,
    origin: str | None = None,
) -> None:
    """Store the result of one dataset in a stage that continues with the next dataset. Raises StaleFence.

    `name` is `<stage>.<number>`. The stage has no row yet. The part's saved training is deleted.
    """
    if origin is not None and was_written(session, claim, origin):
        return
    update_fenced(session, claim, events=[("part_finished", data)], origin=origin)
    _forget(session, claim.job.id, name, TRAINING)
    session.add(Checkpoint(job_id=claim.job.id, stage=name, fence=claim.fence, prefix=prefix, files=list(checkpoint)))
    _replace_artifacts(session, claim, name.partition(".")[0], artifacts)
    session.flush()


def record_training(
    session: Session,
    claim: Claim,
    prefix: str,
    files: Sequence[dict[str, Any]],
    data: dict[str, Any],
    *,
    origin: str | None = None,
) -> None:
    """Store training in progress, replacing what was saved before. Raises StaleFence."""
    if origin is not None and was_written(session, claim, origin):
        return
    update_fenced(session, claim, events=[("training_saved", data)], origin=origin)
    _forget(session, claim.job.id, TRAINING)
    session.add(Checkpoint(job_id=claim.job.id, stage=TRAINING, fence=claim.fence, prefix=prefix, files=list(files)))
    session.flush()


def record_tables(
    session: Session,
    claim: Claim,
    number: int | None,
    prefix: str,
    files: Sequence[dict[str, Any]],
    data: dict[str, Any],
    *,
    origin: str | None = None,
) -> None:
    """Store a dataset's error tables, replacing what an earlier attempt stored. number: its place among several. Raises
    StaleFence.
    """
    if origin is not None and was_written(session, claim, origin):
        return
    update_fenced(session, claim, events=[("tables_saved", data)], origin=origin)
    name = tables_name(number)
    _forget(session, claim.job.id, name)
    session.add(Checkpoint(job_id=claim.job.id, stage=name, fence=claim.fence, prefix=prefix, files=list(files)))
    session.flush()


def tables_name(number: int | None) -> str:
    """Return the name under which a dataset's error tables are kept. number: its place among several, from 0."""
    return TABLES if number is None else f"{TABLES}.{number}"


def is_tables() -> ColumnElement[bool]:
    """Return whether a checkpoint is one of error tables."""
    return (Checkpoint.stage == TABLES) | Checkpoint.stage.startswith(f"{TABLES}.")


def known_tables(session: Session, job: Job) -> list[list[Checkpoint]]:
    """Return the error tables of the team's newest jobs of the same model and datasets: an engine takes those of its inputs.

    Jobs that took the tables of an earlier one hold copies of them: of equal tables the newest are returned.
    """
    alike = (Job.team_id == job.team_id, Job.model_id == job.model_id, Job.dataset_id == job.dataset_id)
    has_tables = select(Checkpoint.job_id).where(Checkpoint.job_id == Job.id, is_tables()).exists()
    query = select(Job).where(*alike, Job.id != job.id, Job.deleted_at.is_(None), has_tables)
    names = [(part.name, part.dataset_id) for part in job.parts]
    found: dict[tuple[str, ...], list[Checkpoint]] = {}
    for other in session.scalars(query.order_by(Job.id.desc()).limit(MOST_LOOKED_AT)):
        if len(found) < MOST_OFFERED and [(part.name, part.dataset_id) for part in other.parts] == names:
            rows = list(session.scalars(select(Checkpoint).where(Checkpoint.job_id == other.id, is_tables())))
            content = sorted(file["sha256"] for row in rows for file in row.files if file["path"].endswith(STATE))
            found.setdefault(tuple(content), rows)
    return list(found.values())


def _forget(session: Session, job_id: str, *stages: str) -> None:
    session.execute(delete(Checkpoint).where(Checkpoint.job_id == job_id, Checkpoint.stage.in_(stages)))


def _replace_artifacts(
    session: Session, claim: Claim, stage: str, artifacts: Sequence[tuple[ArtifactFacts, dict[str, str]]]
) -> None:
    """Replace all stored artifacts of a stage, whatever their names.

    An attempt may work from file to file where the one before worked in memory, and then its artifacts have other names. Of
    several datasets, only those in this result are replaced: what an earlier attempt finished of the others stays.
    """
    parts = {facts.part for facts, _ in artifacts if facts.stage == stage}
    for old in session.scalars(select(Artifact).where(Artifact.job_id == claim.job.id)):
        if old.facts["stage"] == stage and old.facts.get("part") in parts:
            session.delete(old)
    session.flush()
    add_artifacts(session, claim, artifacts)


def add_artifacts(session: Session, claim: Claim, artifacts: Sequence[tuple[ArtifactFacts, dict[str, str]]]) -> None:
    """Store artifacts, replacing those of the same names."""
    for facts, keys in artifacts:
        for old in session.scalars(select(Artifact).where(Artifact.job_id == claim.job.id, Artifact.name == facts.name)):
            session.delete(old)
        session.flush()
        files = [File(path=file.path, size=file.size, sha256=file.sha256, key=keys[file.path]) for file in facts.files]
        summary = facts.model_dump(mode="json", exclude={"files", "answers"})  # rows of the data are with the job's samples
        session.add(Artifact(job_id=claim.job.id, fence=claim.fence, name=facts.name, facts=summary, files=files))
