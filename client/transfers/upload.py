"""Sends a folder to the service: create the upload, send the files that are missing, wait until they are checked."""

import threading
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from client.core.endpoints import Service
from client.core.fields import Kind, Uploaded
from client.core.protocol import RETRIED_STATUSES, pause
from client.errors import BadFolder, NotReady, Problem, Unreachable
from client.transfers.folders import PARALLEL, Moved
from client.transfers.parallel import run_all
from client.types import Dataset, File, Manifest
from compression.schema.job_spec import Columns

Files = Mapping[str, tuple[Manifest, Path]]
"""Name → (manifest, local path)."""
CHUNK = 1 << 20
"""Bytes read at once: the memory that a file of any size takes."""
WHOLE = 8 << 20
"""Bytes up to which a file is sent whole: asking for its offset would take as long as sending it."""
ELSEWHERE = "upload_offset_mismatch"


def _chunks(path: Path, start: int, size: int, moved: Callable[[int], None], stop: threading.Event) -> Iterator[bytes]:
    """Read the bytes that were promised: what was added to the file meanwhile is not among them. Raises BadFolder."""
    with path.open("rb") as source:
        source.seek(start)
        while start < size:
            chunk = source.read(min(CHUNK, size - start))
            if not chunk:
                raise BadFolder(
                    f"{path} changed while it was sent: it had {size} bytes, and now has {start}",
                    remedy="Run the command again once nothing writes to it.",
                )
            if stop.is_set():
                raise InterruptedError("another file failed")
            yield chunk
            start += len(chunk)
            moved(len(chunk))


class _Transfer:
    """Sends one file. Progress is what the service has, even if some of it was sent in vain."""

    def __init__(self, lathe: Service, kind: Kind, upload_id: str, promise: Manifest, path: Path, moved: Moved | None) -> None:
        self.lathe, self.kind, self.upload_id, self.promise, self.path = lathe, kind, upload_id, promise, path
        self.moved, self.reported = moved, 0

    def at(self, place: int) -> None:
        """Report that so many bytes have arrived."""
        if self.moved and place != self.reported:
            self.moved(self.promise.path, place - self.reported)
        self.reported = place

    def content(self, start: int, stop: threading.Event) -> Iterator[bytes]:
        """Read the file from a byte on, reporting each piece as it is sent."""
        self.at(start)
        return _chunks(self.path, start, self.promise.size, lambda amount: self.at(self.reported + amount), stop)

    def run(self, stop: threading.Event) -> None:
        """Send it: a small file whole, a large one from the service's offset on, until it is complete.

        Raises Problem, and Unreachable if it makes no more progress.
        """
        if self.promise.size <= WHOLE:
            self.lathe.put_file(self.kind, self.upload_id, self.promise, lambda: self.content(0, stop))
            return
        tries = before = 0
        while True:
            start = self.lathe.offset(self.kind, self.upload_id, self.promise.path)
            # Not compared with what was reported, which includes what was lost when the connection broke.
            tries = 0 if start > before else tries
            before = start
            self.at(start)
            try:
                if self._append(start, stop):
                    return
            except (Unreachable, Problem) as error:
                tries += 1
                later = not isinstance(error, Problem) or error.status in RETRIED_STATUSES or error.problem_code == ELSEWHERE
                if tries >= self.lathe.attempts or not later:
                    raise
                time.sleep(pause(tries + 1))  # what arrived is counted once the service has stored it

    def _append(self, start: int, stop: threading.Event) -> bool:
        return self.lathe.append(self.kind, self.upload_id, self.promise, start, lambda: self.content(start, stop))


def send(
    lathe: Service, kind: Kind, target: Uploaded, local: Files, there: Collection[str], moved: Moved | None = None
) -> None:
    """Send the files that are not `there`, several at a time. The first failure stops the others."""
    missing = [each for name, each in local.items() if name not in there]
    stop = threading.Event()
    transfers = [_Transfer(lathe, kind, target.id, *each, moved) for each in missing]
    run_all((partial(transfer.run, stop) for transfer in transfers), PARALLEL, stop.set)


def _all_files(lathe: Service, kind: Kind, known: Uploaded) -> Sequence[File]:
    """Return the files that an upload's manifest lists; a long one has them in pages."""
    return lathe.files(kind, known.id) if known.file_count > len(known.files) else known.files


def _same(
    lathe: Service, kind: Kind, known: Uploaded, body: Mapping[str, Any], local: Files
) -> tuple[Uploaded, Sequence[File]] | None:
    """Return an upload and its files if it has exactly these, or some of them."""
    promises = {name: promise for name, (promise, _) in local.items()}
    size = sum(promise.size for promise in promises.values())
    # A list has only the number of files and their size; the files are asked for if these are the same.
    if known.state == "rejected" or (known.file_count, known.bytes) != (len(promises), size):
        return None
    if isinstance(known, Dataset):
        # The service names every column that a task may have.
        columns = {**Columns().model_dump(), **body["columns"]}
        wanted = {"format": body["format"], "columns": columns, "splits": body["splits"]}
        if known.task != body["task"] or known.data != wanted:
            return None
    whole = lathe.upload(kind, known.id)
    files = _all_files(lathe, kind, whole)
    alike = all(file.path in promises and file.sha256 == promises[file.path].sha256 for file in files)
    return (whole, files) if alike else None


def add(lathe: Service, kind: Kind, body: Mapping[str, Any], local: Files, *, moved: Moved | None = None) -> Uploaded:
    """Resume an upload that is there already, or create it; send what is missing; return once it is complete."""
    promises = [promise for promise, _ in local.values()]
    alike = (_same(lathe, kind, found, body, local) for found in lathe.uploads(kind))
    if known := next((found for found in alike if found is not None), None):
        target, files = known
        if target.state != "uploading":
            return target
        listed = {file.path for file in files}
        lathe.add_files(kind, target.id, [promise for promise in promises if promise.path not in listed])
    else:
        target, files = lathe.create_upload(kind, body, promises), ()
    send(lathe, kind, target, local, {file.path for file in files if file.uploaded}, moved)
    return lathe.complete(kind, target.id)


MOST_REASONS = 5  #: that an error names: each wrong shape of a model is one


def until_ready(lathe: Service, kind: Kind, target: Uploaded, *, timeout: float = 900.0) -> Uploaded:
    """Wait for the service's check. Raises NotReady, with the reasons if it was rejected."""
    deadline = time.monotonic() + timeout
    while target.state == "validating" and time.monotonic() < deadline:
        target = lathe.upload(kind, target.id, wait=min(30.0, max(1.0, deadline - time.monotonic())))
    if target.state == "ready":
        return target
    if target.state == "rejected":
        reasons = tuple(reason.model_dump() for reason in target.reasons)
        told = [f"{reason.cause} ({reason.code})" for reason in target.reasons[:MOST_REASONS]]
        left = len(target.reasons) - len(told)
        told += [f"and {left} more, which `lathe {kind} show {target.id}` lists"] if left else []
        text = "; ".join(told) or "no reason was given"
        remedy = " ".join(dict.fromkeys(reason.remedy for reason in target.reasons if reason.remedy))
        raise NotReady(f"{target.name} ({target.id}) was rejected: {text}", reasons=reasons, remedy=remedy)
    raise NotReady(
        f"{target.name} ({target.id}) is still {target.state}",
        remedy=f"See `lathe workers` for one of kind checks, then look again: lathe {kind} show {target.id}",
    )
