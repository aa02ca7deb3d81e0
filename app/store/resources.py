"""Models and datasets: all their state transitions, as plain functions. Only this module writes their state.

uploading → validating → ready | rejected. A worker runs the check (`python -m compression validate`), never the API.
"""

from collections.abc import Sequence
from typing import Any, Literal, NamedTuple, TypeVar

from sqlalchemy import ColumnElement, delete as delete_rows, exists, func, insert, or_, select, update
from sqlalchemy.orm import InstrumentedAttribute, Session

from app.core.errors import AlreadySealed, IncompleteUpload, InUse, InvalidRequest, NotFound
from app.store import quotas
from app.store.broker import CHECKS, wake_after_commit
from app.store.clock import now
from app.store.keyset import decode_token, encode_token
from app.store.models import QUEUED, RUNNING, Dataset, File, Job, JobDataset, JobModel, Model, UploadPart
from compression.schema import file_names
from compression.schema.specs import FOLDER

R = TypeVar("R", Model, Dataset)
Hold = Literal["share", "update"] | None
UPLOADING, VALIDATING, READY, REJECTED = "uploading", "validating", "ready", "rejected"
MAX_CHECK_ATTEMPTS = 3
MOST_FILES = 100_000
"""Files of a manifest."""
AGAIN = "Delete it, and create it again with the right manifest."


class StoredFile(NamedTuple):
    """A file as workers fetch it; `key` is None until its bytes are stored."""

    path: str
    size: int
    key: str | None


class Listed(NamedTuple):
    """What a manifest lists so far: a number of files, and their bytes together."""

    files: int
    size: int


def _owner(kind: type[Model] | type[Dataset]) -> InstrumentedAttribute[str | None]:
    return File.model_id if kind is Model else File.dataset_id


def create(session: Session, row: R, manifest: Sequence[Any], rest: Any = None) -> R:
    """Store the row of a model or dataset with the files that its manifest lists. `rest`: the files and bytes of later pages.

    Raises InvalidRequest, CompressionError, QuotaExceeded, BytesQuotaExceeded.
    """
    if isinstance(row, Dataset) and "train" not in row.data["splits"]:
        raise InvalidRequest("splits has no train", param="splits")
    row.file_count, row.bytes = len(manifest), sum(entry.size for entry in manifest)
    if rest is not None:
        row.file_count, row.bytes = row.file_count + rest.files, row.bytes + rest.bytes
    if row.file_count > MOST_FILES:
        raise InvalidRequest(f"the manifest has {row.file_count} files; {MOST_FILES} are the most", param="rest.files")
    paths = [entry.path for entry in manifest]
    _check_page(row, paths)
    if rest is None:
        _check_splits(row, paths)
    quotas.admit_upload(session, row.team_id, row.file_count, row.bytes)
    session.add(row)
    session.flush()
    _insert(session, row, manifest)
    session.refresh(row)
    return row


def _check_page(row: Model | Dataset, paths: Sequence[str]) -> None:
    for path in paths:
        file_names.check_name(path, "dataset" if isinstance(row, Dataset) else "model")
    _check_distinct(paths)


def _check_distinct(paths: Sequence[str]) -> None:
    if clash := file_names.collision(paths):
        raise InvalidRequest(f"files names {clash}", param="files")


def _check_splits(row: Model | Dataset, paths: Sequence[str]) -> None:
    """Check that splits name files of the whole manifest, or its folders where rows are files. Raises InvalidRequest."""
    if not isinstance(row, Dataset):
        return
    known = set(paths)
    if row.data["format"] == FOLDER:
        known.update(folder for path in paths for folder in file_names.folders_of(path))
    named = {path for files in row.data["splits"].values() for path in files}
    if missing := sorted(named - known):
        raise InvalidRequest(f"splits names {missing[0]!r}, which is not among files", param="splits")


def _insert(session: Session, row: Model | Dataset, manifest: Sequence[Any]) -> None:
    owner = _owner(type(row)).key
    files = [{owner: row.id, "path": entry.path, "size": entry.size, "sha256": entry.sha256} for entry in manifest]
    session.execute(insert(File), files)


def _listed(session: Session, row: Model | Dataset) -> Listed:
    total = select(func.count(), func.coalesce(func.sum(File.size), 0)).where(_owner(type(row)) == row.id)
    files, size = session.execute(total).one()
    return Listed(int(files), int(size))


def add_files(session: Session, kind: type[R], team: str, identifier: str, manifest: Sequence[Any]) -> tuple[R, Listed]:
    """Add a page to a manifest; one that is sent again adds nothing. Return the row, and what the manifest lists now.

    The last page is where the whole manifest is checked. Raises NotFound, AlreadySealed, InvalidRequest, CompressionError.
    """
    row = get(session, kind, team, identifier, hold="update")  # so that pages are counted one after the other
    if row.state != UPLOADING:
        raise AlreadySealed(f"{identifier} is {row.state}")
    _check_page(row, [entry.path for entry in manifest])
    added = _unlisted(session, row, manifest)
    listed = _listed(session, row)
    if not added:
        return row, listed
    listed = Listed(listed.files + len(added), listed.size + sum(entry.size for entry in added))
    whole = listed.files == row.file_count
    if listed.files > row.file_count or listed.size > row.bytes or (whole and listed.size != row.bytes):
        cause = f"with this page the manifest lists {listed.files} files of {listed.size} bytes"
        raise InvalidRequest(f"{cause}, and {row.file_count} of {row.bytes} were declared", param="files", remedy=AGAIN)
    _insert(session, row, added)
    if whole:
        paths = session.scalars(select(File.path).where(_owner(kind) == row.id)).all()
        try:
            _check_distinct(paths)
            _check_splits(row, paths)
        except InvalidRequest as problem:  # the other page is stored already, and no page can be taken back
            raise InvalidRequest(problem.cause, param=problem.param, remedy=AGAIN) from problem
    return row, listed


def _unlisted(session: Session, row: Model | Dataset, manifest: Sequence[Any]) -> list[Any]:
    """Return the entries that the manifest does not list yet. Raises InvalidRequest if it lists another file of a path."""
    mine = select(File.path, File.size, File.sha256).where(_owner(type(row)) == row.id)
    rows = session.execute(mine.where(File.path.in_([entry.path for entry in manifest])))
    known = {path: (size, sha256) for path, size, sha256 in rows}
    for entry in manifest:
        if known.get(entry.path, (entry.size, entry.sha256)) != (entry.size, entry.sha256):
            raise InvalidRequest(f"the manifest lists another file {entry.path!r} already", param="files")
    return [entry for entry in manifest if entry.path not in known]


def list_files(session: Session, row: Model | Dataset, size: int, token: str | None = None) -> tuple[list[File], str | None]:
    """Return a page of a manifest's files by path, and the next page's token. Raises InvalidRequest for an invalid one."""
    query = select(File).where(_owner(type(row)) == row.id)
    if token:
        last = select(File.path).where(File.id == decode_token(token)).scalar_subquery()
        query = query.where(File.path > last)
    files = list(session.scalars(query.order_by(File.path).limit(size + 1)))
    return files[:size], encode_token(files[size - 1].id) if len(files) > size else None


def stored_files(session: Session, row: Model | Dataset) -> list[StoredFile]:
    """Return all files of a model or dataset as workers fetch them."""
    mine = select(File.path, File.size, File.key).where(_owner(type(row)) == row.id)
    return [StoredFile(*found) for found in session.execute(mine.order_by(File.path))]


def get(session: Session, kind: type[R], team: str, identifier: str, *, param: str | None = None, hold: Hold = None) -> R:
    """Return one of the team's rows, locked until the commit if `hold`. Raises NotFound, also for other teams' rows.

    `share` prevents its deletion; `update` waits for all who share it.
    """
    query = select(kind).where(kind.id == identifier, kind.team_id == team, kind.deleted_at.is_(None))
    row = session.scalar(query.with_for_update(read=hold == "share") if hold else query)
    if row is None:
        raise NotFound(f"no {kind.__name__.lower()} {identifier}", param=param)
    return row


def find_file(session: Session, kind: type[R], team: str, identifier: str, path: str, *, to_send: bool = True) -> File:
    """Return the manifest's file of a path. Raises NotFound, and AlreadySealed if bytes are `to_send` but not accepted."""
    row = get(session, kind, team, identifier)
    if to_send and row.state != UPLOADING:
        raise AlreadySealed(f"{identifier} is {row.state}")
    found = session.scalar(select(File).where(_owner(kind) == identifier, File.path == path))
    if found is None:
        raise NotFound(f"the manifest of {identifier} has no file {path!r}", param="path")
    return found


def _owned() -> ColumnElement[bool]:
    return or_(
        exists().where(Model.id == File.model_id, Model.deleted_at.is_(None)),
        exists().where(Dataset.id == File.dataset_id, Dataset.deleted_at.is_(None)),
    )


def record_file(session: Session, file_id: str, key: str) -> bool:
    """Record where a file's verified bytes are. Return False if another upload of the file was first, or its owner is deleted.

    The keeper frees bytes that were stored before the owner was deleted; the sender frees those that were stored later.
    """
    waiting = update(File).where(File.id == file_id, File.key.is_(None), _owned())
    done = session.execute(waiting.values(key=key).returning(File.id).execution_options(synchronize_session=False))
    if done.scalar() is None:
        return False
    _goes_on(session, file_id)
    return True


def _goes_on(session: Session, file_id: str) -> None:
    """Record that bytes arrived for a file's owner."""
    for kind in (Model, Dataset):
        its = kind.id == select(_owner(kind)).where(File.id == file_id).scalar_subquery()
        session.execute(update(kind).where(its).values(arrived_at=now()).execution_options(synchronize_session=False))


def list_parts(session: Session, file_id: str) -> list[UploadPart]:
    """Return the stored parts of an incomplete file, in order; each starts where the previous one ends."""
    return list(session.scalars(select(UploadPart).where(UploadPart.file_id == file_id).order_by(UploadPart.start)))


def record_part(session: Session, part: UploadPart) -> bool:
    """Record where a part's bytes are. Return False if it is not the next, the file is complete, or its owner is deleted."""
    # Locked: if the same part is sent twice at once, one of them is first.
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
    """Delete the rows of a file's parts; return the keys of their bytes, to be freed after the commit."""
    gone = delete_rows(UploadPart).where(UploadPart.file_id == file_id).returning(UploadPart.key)
    return list(session.scalars(gone.execution_options(synchronize_session=False)))


def complete(session: Session, kind: type[R], team: str, identifier: str) -> R:
    """Seal an upload and request its check; sealing it twice has no effect. Raises IncompleteUpload."""
    row = get(session, kind, team, identifier)
    if row.state == UPLOADING:
        listed = _listed(session, row).files
        if listed < row.file_count:
            remedy = "POST the others to …/files and send their bytes, then POST …/complete again."
            raise IncompleteUpload(f"the manifest lists {listed} of its {row.file_count} files", param="files", remedy=remedy)
        lacking = select(File.path).where(_owner(kind) == row.id, File.key.is_(None)).order_by(File.path).limit(20)
        if missing := session.scalars(lacking).all():
            raise IncompleteUpload(f"no bytes yet for: {', '.join(missing)}", param="files")
        sealed = update(kind).where(kind.id == row.id, kind.state == UPLOADING).values(state=VALIDATING)
        session.execute(sealed.execution_options(synchronize_session=False))
        wake_after_commit(session, CHECKS)
        session.refresh(row)
    return row


def delete(session: Session, kind: type[R], team: str, identifier: str) -> None:
    """Hide the row and let the keeper free its bytes; reports of jobs forget its rows.

    Raises InUse while an unfinished job needs it.
    """
    # Locked before looking for jobs that need it: submitting a job takes the same lock.
    row = get(session, kind, team, identifier, hold="update")
    users = session.scalars(select(Job.id).where(jobs_using(kind, identifier), Job.state.in_((QUEUED, RUNNING))).limit(5)).all()
    if users:
        raise InUse(f"{identifier} is needed by {', '.join(users)}")
    session.execute(update(kind).where(kind.id == row.id).values(deleted_at=now()))
    if kind is Dataset:
        session.execute(update(Job).where(jobs_using(Dataset, identifier), Job.samples.is_not(None)).values(samples=None))


def delete_abandoned(session: Session, seconds: float) -> list[str]:
    """Delete unsealed uploads that received nothing for so long. Return their ids."""
    found: list[str] = []
    for kind in (Model, Dataset):
        last = func.coalesce(kind.arrived_at, kind.created_at)
        idle = update(kind).where(kind.state == UPLOADING, kind.deleted_at.is_(None), last < now(-seconds))
        gone = idle.values(deleted_at=now()).returning(kind.id).execution_options(synchronize_session=False)
        found += session.scalars(gone)
    return found


def jobs_using(kind: type[Model] | type[Dataset], identifier: str) -> ColumnElement[bool]:
    """Return a condition for the jobs that use it in any role."""
    if kind is Model:
        among = select(JobModel.job_id).where(JobModel.model_id == identifier)
        return or_(Job.model_id == identifier, Job.id.in_(among))
    among = select(JobDataset.job_id).where(JobDataset.dataset_id == identifier)
    return or_(Job.dataset_id == identifier, Job.id.in_(among))


# For the worker that checks.


def _waiting(kind: type[Model] | type[Dataset]) -> tuple[ColumnElement[bool], ...]:
    free = or_(kind.check_lease_until.is_(None), kind.check_lease_until < now())
    return kind.state == VALIDATING, kind.deleted_at.is_(None), free


def claim_check(session: Session, lease_seconds: float) -> Model | Dataset | None:
    """Claim the oldest upload that waits for its check, models first; None if there is none."""
    return _claim_check(session, Model, lease_seconds) or _claim_check(session, Dataset, lease_seconds)


def _claim_check(session: Session, kind: type[R], lease_seconds: float) -> R | None:
    # `attempts` is also the fence: a checker that was presumed dead and returns finds another number.
    wanted = select(kind.id).where(*_waiting(kind)).order_by(kind.id).limit(1).with_for_update(skip_locked=True)
    return session.scalar(
        update(kind)
        .where(kind.id == wanted.scalar_subquery())
        .values(check_lease_until=now(lease_seconds), check_attempts=kind.check_attempts + 1)
        .returning(kind)
        .execution_options(synchronize_session=False, populate_existing=True)
    )


def renew_check(session: Session, row: Model | Dataset, attempt: int, lease_seconds: float) -> bool:
    """Extend the lease while files are fetched; return False if another attempt has taken over."""
    kind = type(row)
    mine = update(kind).where(kind.id == row.id, kind.state == VALIDATING, kind.check_attempts == attempt)
    renewed = mine.values(check_lease_until=now(lease_seconds)).returning(kind.id)
    return session.scalar(renewed.execution_options(synchronize_session=False)) is not None


def finish_check(
    session: Session, row: Model | Dataset, *, facts: dict[str, Any] | None, reasons: Sequence[dict[str, Any]], attempt: int
) -> bool:
    """Write the result of the check; return False if another attempt has taken over."""
    kind = type(row)
    done = session.execute(
        update(kind)
        .where(kind.id == row.id, kind.state == VALIDATING, kind.check_attempts == attempt)
        .values(state=REJECTED if reasons else READY, facts=facts, reasons=list(reasons), check_lease_until=None)
        .returning(kind.id)
    )
    return done.scalar() is not None


def release_check(session: Session, row: Model | Dataset, attempt: int, wait_seconds: float) -> None:
    """Return an upload whose check failed to the queue, for a retry after a while."""
    kind = type(row)
    session.execute(
        update(kind).where(kind.id == row.id, kind.check_attempts == attempt).values(check_lease_until=now(wait_seconds))
    )


def postpone_check(session: Session, row: Model | Dataset, attempt: int, wait_seconds: float) -> None:
    """Return an upload whose check could not begin to the queue, for another time: this attempt does not count."""
    kind = type(row)
    mine = update(kind).where(kind.id == row.id, kind.check_attempts == attempt)
    session.execute(mine.values(check_lease_until=now(wait_seconds), check_attempts=attempt - 1))


def checks_waiting(session: Session) -> bool:
    """Return whether any upload waits for its check."""
    models = select(Model.id).where(*_waiting(Model)).limit(1)
    datasets = select(Dataset.id).where(*_waiting(Dataset)).limit(1)
    return session.scalar(models) is not None or session.scalar(datasets) is not None
