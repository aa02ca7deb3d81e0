"""Models and datasets: every transition of theirs, as plain functions. The only writer of their state.

uploading → validating → ready | rejected. The check itself is a worker's (`python -m compression validate`), never ours.
"""

from collections.abc import Sequence
from typing import Any, Literal, TypeVar

from sqlalchemy import ColumnElement, exists, func, or_, select, update
from sqlalchemy import delete as delete_rows
from sqlalchemy.orm import Session

from app.core.errors import AlreadySealed, IncompleteUpload, InUse, InvalidRequest, NotFound
from app.store import quotas
from app.store.broker import CHECKS, wake_after_commit
from app.store.clock import now
from app.store.models import QUEUED, RUNNING, Dataset, File, Job, JobDataset, JobModel, Model, UploadPart
from compression.schema import file_names

R = TypeVar("R", Model, Dataset)
Hold = Literal["share", "update"] | None
UPLOADING, VALIDATING, READY, REJECTED = "uploading", "validating", "ready", "rejected"
MAX_CHECK_ATTEMPTS = 3


def create(session: Session, row: R, manifest: Sequence[Any]) -> R:
    """Store a model's or a dataset's row with the files that its manifest promises.

    Raises InvalidRequest, CompressionError, BytesQuotaExceeded.
    """
    paths = [entry.path for entry in manifest]
    for path in paths:
        file_names.check_name(path, "dataset" if isinstance(row, Dataset) else "model")
    if clash := file_names.collision(paths):
        raise InvalidRequest(f"files names {clash}", param="files")
    if isinstance(row, Dataset):
        if "train" not in row.data["splits"]:
            raise InvalidRequest("splits has no train", param="splits")
        named = {path for files in row.data["splits"].values() for path in files}
        if missing := sorted(named - set(paths)):
            raise InvalidRequest(f"splits names {missing[0]!r}, which is not among files", param="splits")
    row.file_count, row.bytes = len(manifest), sum(entry.size for entry in manifest)
    quotas.admit_bytes(session, row.team_id, row.bytes)
    row.files = [File(path=entry.path, size=entry.size, sha256=entry.sha256) for entry in manifest]
    session.add(row)
    session.flush()
    session.refresh(row)
    return row


def get(session: Session, kind: type[R], team: str, identifier: str, *, param: str | None = None, hold: Hold = None) -> R:
    """Find one of the team's, and hold it until the commit where asked. Raises NotFound, which also hides what is others'.

    `share` keeps it from being deleted, `update` waits for all who share it.
    """
    query = select(kind).where(kind.id == identifier, kind.team_id == team, kind.deleted_at.is_(None))
    row = session.scalar(query.with_for_update(read=hold == "share") if hold else query)
    if row is None:
        raise NotFound(f"no {kind.__name__.lower()} {identifier}", param=param)
    return row


def find_file(session: Session, kind: type[R], team: str, identifier: str, path: str, *, to_send: bool = True) -> File:
    """Find the manifest's entry of a path. Raises NotFound, and AlreadySealed where bytes are `to_send` and none are taken."""
    row = get(session, kind, team, identifier)
    if to_send and row.state != UPLOADING:
        raise AlreadySealed(f"{identifier} is {row.state}")
    found = next((file for file in row.files if file.path == path), None)
    if found is None:
        raise NotFound(f"the manifest of {identifier} has no file {path!r}", param="path")
    return found


def _owned() -> ColumnElement[bool]:
    return or_(
        exists().where(Model.id == File.model_id, Model.deleted_at.is_(None)),
        exists().where(Dataset.id == File.dataset_id, Dataset.deleted_at.is_(None)),
    )


def record_file(session: Session, file_id: str, key: str) -> bool:
    """Note where a file's verified bytes are; False where another upload of the same file was first, or its owner is gone.

    Bytes that came before the owner was deleted are the keeper's to free; those that come later, their sender's.
    """
    waiting = update(File).where(File.id == file_id, File.key.is_(None), _owned())
    done = session.execute(waiting.values(key=key).returning(File.id).execution_options(synchronize_session=False))
    if done.scalar() is None:
        return False
    _goes_on(session, file_id)
    return True


def _goes_on(session: Session, file_id: str) -> None:
    """Note that bytes came for a file's owner just now."""
    for kind, owner in ((Model, File.model_id), (Dataset, File.dataset_id)):
        its = kind.id == select(owner).where(File.id == file_id).scalar_subquery()
        session.execute(update(kind).where(its).values(arrived_at=now()).execution_options(synchronize_session=False))


def list_parts(session: Session, file_id: str) -> list[UploadPart]:
    """Return what has come of a file that is not whole yet, in order; each part begins where the one before it ends."""
    return list(session.scalars(select(UploadPart).where(UploadPart.file_id == file_id).order_by(UploadPart.start)))


def record_part(session: Session, part: UploadPart) -> bool:
    """Note where a part's bytes are; False where it is not the next, the file is whole, or its owner is gone."""
    # Locked: of two that send the same part one is the first.
    waiting = select(File.id).where(File.id == part.file_id, File.key.is_(None), _owned()).with_for_update()
    if session.scalar(waiting) is None:
        return False
    had = list_parts(session, part.file_id)
    if part.start != sum(one.size for one in had):
        return False
    session.add(part)
    _goes_on(session, part.file_id)
    return True


def delete_parts(session: Session, file_id: str) -> list[str]:
    """Drop the rows of a file's parts; return the keys of their bytes, which are to be freed after the commit."""
    gone = delete_rows(UploadPart).where(UploadPart.file_id == file_id).returning(UploadPart.key)
    return list(session.scalars(gone.execution_options(synchronize_session=False)))


def complete(session: Session, kind: type[R], team: str, identifier: str) -> R:
    """Seal an upload and have it checked; sealed already is fine. Raises IncompleteUpload."""
    row = get(session, kind, team, identifier)
    if row.state == UPLOADING:
        if missing := [file.path for file in row.files if file.key is None]:
            raise IncompleteUpload(f"no bytes yet for: {', '.join(missing[:20])}", param="files")
        sealed = update(kind).where(kind.id == row.id, kind.state == UPLOADING).values(state=VALIDATING)
        session.execute(sealed.execution_options(synchronize_session=False))
        wake_after_commit(session, CHECKS)
        session.refresh(row)
    return row


def delete(session: Session, kind: type[R], team: str, identifier: str) -> None:
    """Hide it and let the keeper free its bytes. Raises InUse while a job that is not finished needs it."""
    # Locked before the look at who needs it: a job that is being submitted holds the same lock.
    row = get(session, kind, team, identifier, hold="update")
    users = session.scalars(select(Job.id).where(jobs_using(kind, identifier), Job.state.in_((QUEUED, RUNNING))).limit(5)).all()
    if users:
        raise InUse(f"{identifier} is needed by {', '.join(users)}")
    session.execute(update(kind).where(kind.id == row.id).values(deleted_at=now()))


def delete_abandoned(session: Session, seconds: float) -> list[str]:
    """Delete the uploads to which nothing came for so long and that nobody sealed. Returns which."""
    found: list[str] = []
    for kind in (Model, Dataset):
        last = func.coalesce(kind.arrived_at, kind.created_at)
        idle = update(kind).where(kind.state == UPLOADING, kind.deleted_at.is_(None), last < now(-seconds))
        gone = idle.values(deleted_at=now()).returning(kind.id).execution_options(synchronize_session=False)
        found += session.scalars(gone)
    return found


def jobs_using(kind: type[Model] | type[Dataset], identifier: str) -> ColumnElement[bool]:
    """Say which jobs name it, in whatever part."""
    if kind is Model:
        among = select(JobModel.job_id).where(JobModel.model_id == identifier)
        return or_(Job.model_id == identifier, Job.id.in_(among))
    among = select(JobDataset.job_id).where(JobDataset.dataset_id == identifier)
    return or_(Job.dataset_id == identifier, Job.id.in_(among))


# The checker's side.


def _waiting(kind: type[Model] | type[Dataset]) -> tuple[ColumnElement[bool], ...]:
    free = or_(kind.check_lease_until.is_(None), kind.check_lease_until < now())
    return kind.state == VALIDATING, kind.deleted_at.is_(None), free


def claim_check(session: Session, lease_seconds: float) -> Model | Dataset | None:
    """Take the oldest upload that waits for its check, models first; None where there is none."""
    return _claim_check(session, Model, lease_seconds) or _claim_check(session, Dataset, lease_seconds)


def _claim_check(session: Session, kind: type[R], lease_seconds: float) -> R | None:
    # `attempts` is also the fence: a checker that was thought dead and comes back finds another number.
    wanted = select(kind.id).where(*_waiting(kind)).order_by(kind.id).limit(1).with_for_update(skip_locked=True)
    return session.scalar(
        update(kind)
        .where(kind.id == wanted.scalar_subquery())
        .values(check_lease_until=now(lease_seconds), check_attempts=kind.check_attempts + 1)
        .returning(kind)
        .execution_options(synchronize_session=False, populate_existing=True)
    )


def renew_check(session: Session, row: Model | Dataset, attempt: int, lease_seconds: float) -> bool:
    """Hold an upload on, whose files are still fetched; False where another attempt has taken over."""
    kind = type(row)
    mine = update(kind).where(kind.id == row.id, kind.state == VALIDATING, kind.check_attempts == attempt)
    renewed = mine.values(check_lease_until=now(lease_seconds)).returning(kind.id)
    return session.scalar(renewed.execution_options(synchronize_session=False)) is not None


def finish_check(
    session: Session, row: Model | Dataset, *, facts: dict[str, Any] | None, reasons: Sequence[dict[str, Any]], attempt: int
) -> bool:
    """Write what the check found; False where another attempt has taken over."""
    kind = type(row)
    done = session.execute(
        update(kind)
        .where(kind.id == row.id, kind.state == VALIDATING, kind.check_attempts == attempt)
        .values(state=REJECTED if reasons else READY, facts=facts, reasons=list(reasons), check_lease_until=None)
        .returning(kind.id)
    )
    return done.scalar() is not None


def release_check(session: Session, row: Model | Dataset, attempt: int, wait_seconds: float) -> None:
    """Give an upload back whose check could not be done, to be taken again after a while."""
    kind = type(row)
    session.execute(
        update(kind).where(kind.id == row.id, kind.check_attempts == attempt).values(check_lease_until=now(wait_seconds))
    )


def checks_waiting(session: Session) -> bool:
    """Say whether any upload waits for its check."""
    models = select(Model.id).where(*_waiting(Model)).limit(1)
    datasets = select(Dataset.id).where(*_waiting(Dataset)).limit(1)
    return session.scalar(models) is not None or session.scalar(datasets) is not None
