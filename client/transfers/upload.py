"""Send a local folder to the service: hash it, promise it, send what is not there yet, wait until it is checked."""

import hashlib
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from typing import Any

from client.core.endpoints import Service
from client.core.fields import Kind
from client.core.protocol import RETRIED_STATUSES, pause
from client.errors import BadFolder, NotReady, Problem, Unreachable
from client.types import Dataset, Manifest, Model
from compression.schema.file_names import TERMS
from compression.schema.job_spec import Columns

CHUNK = 1 << 20
"""Bytes read at once: all the memory that a file of any size takes."""
WHOLE = 8 << 20
"""Bytes up to which a file is sent whole: to ask where it ends would take as long as to send it."""
ELSEWHERE = "upload_offset_mismatch"
PARALLEL = 4
Moved = Callable[[str, int], None]
"""Is told (path, bytes that moved since the last call). Called from several threads."""

MODEL_SUFFIXES = frozenset({".json", ".safetensors", ".txt", ".model", ".jinja"})
"""What from_pretrained reads from the top of a folder; other formats, samples and caches stay where they are."""
GGUF = ".gguf"
"""A file that is a whole model. Beside safetensors, which go before it, it stays too."""
DATA_SUFFIXES = {".jsonl": "jsonl", ".csv": "csv", ".parquet": "parquet", ".txt": "text"}
SPLITS = {
    "train": "train",
    "validation": "validation",
    "valid": "validation",
    "val": "validation",
    "dev": "validation",
    "test": "test",
    "unlabelled": "unlabelled",
    "unlabeled": "unlabelled",
}


def sha256_of(path: Path) -> str:
    """Hash a file at constant memory."""
    with path.open("rb") as source:
        return hashlib.file_digest(source, "sha256").hexdigest()


def model_files(folder: Path) -> tuple[list[Path], list[Path]]:
    """Return (files that are sent, files that are left out) of a model's folder. Raises BadFolder."""
    remedy = "Name the folder that save_pretrained() wrote, or one with a GGUF file."
    if not folder.is_dir():
        raise BadFolder(f"{folder} is not a folder", remedy=remedy)
    here = sorted(path for path in folder.iterdir() if not path.name.startswith("."))
    taken = [path for path in here if path.is_file() and path.suffix in MODEL_SUFFIXES]
    whole = [path for path in here if path.is_file() and path.suffix == GGUF]
    if whole and not any(path.suffix == ".safetensors" for path in taken):
        if len(whole) > 1:
            raise BadFolder(
                f"{folder} has {len(whole)} GGUF files, and a model is one",
                remedy="Put the one that is meant into a folder of its own; llama-gguf-split --merge joins parts.",
            )
        taken = sorted([*taken, *whole])
    if not taken:
        raise BadFolder(f"{folder} holds nothing of a model (no config.json, no *.safetensors, no *.gguf)", remedy=remedy)
    taken = sorted({*taken, *(path for path in here if path.is_file() and TERMS.fullmatch(path.name))})
    return taken, [path for path in here if path not in taken]


def data_files(place: Path) -> tuple[str, dict[str, list[Path]]]:
    """Return (format, files of each split): a file is train; in a folder the names say which split a file belongs to."""
    if not place.exists():
        raise BadFolder(
            f"{place} does not exist", remedy="Name a data file, or a folder with train.jsonl and perhaps test.jsonl."
        )
    files = [place] if place.is_file() else sorted(path for path in place.iterdir() if path.suffix in DATA_SUFFIXES)
    splits: dict[str, list[Path]] = {}
    for path in files:
        word = path.stem.replace("_", "-").replace(".", "-").split("-")[0].lower()
        split = "train" if place.is_file() else SPLITS.get(word)
        if split:
            splits.setdefault(split, []).append(path)
    formats = {DATA_SUFFIXES.get(path.suffix, path.suffix) for paths in splits.values() for path in paths}
    if len(formats) > 1:  # beside rows, a .txt is what somebody wrote about them
        splits = {name: rows for name, paths in splits.items() if (rows := [path for path in paths if path.suffix != ".txt"])}
        formats -= {"text"}
    if "train" not in splits:
        raise BadFolder(
            f"{place} has no train split",
            remedy="Call the files train.jsonl, validation.jsonl, test.jsonl, unlabelled.jsonl (or .csv, .parquet, .txt).",
        )
    if len(formats) > 1 or not formats <= set(DATA_SUFFIXES.values()):
        raise BadFolder(
            f"{place}: data must be of one format, jsonl, csv, parquet or text, but is {', '.join(sorted(formats))}",
            remedy="Convert the files, or name a folder that holds one format alone.",
        )
    return formats.pop(), splits


def manifest(files: Iterable[Path], hashed: Moved | None = None) -> dict[str, tuple[Manifest, Path]]:
    """Hash the files, a few at a time; return name → (promise, where it lies)."""
    paths = list(files)

    def promise(path: Path) -> Manifest:
        found = Manifest(path=path.name, size=path.stat().st_size, sha256=sha256_of(path))
        if hashed:
            hashed(path.name, found.size)
        return found

    with ThreadPoolExecutor(PARALLEL) as pool:
        return {found.path: (found, path) for found, path in zip(pool.map(promise, paths), paths, strict=True)}


def _chunks(path: Path, start: int, moved: Callable[[int], None], stop: threading.Event) -> Iterator[bytes]:
    with path.open("rb") as source:
        source.seek(start)
        while chunk := source.read(CHUNK):
            if stop.is_set():
                raise InterruptedError("another file failed")
            yield chunk
            moved(len(chunk))


class _Transfer:
    """One file on its way; what is told of it is what the service has, also where some of it was sent in vain."""

    def __init__(self, lathe: Service, kind: Kind, upload_id: str, promise: Manifest, path: Path, moved: Moved | None) -> None:
        self.lathe, self.kind, self.upload_id, self.promise, self.path = lathe, kind, upload_id, promise, path
        self.moved, self.told = moved, 0

    def at(self, place: int) -> None:
        """Tell that so many bytes have come."""
        if self.moved and place != self.told:
            self.moved(self.promise.path, place - self.told)
        self.told = place

    def content(self, start: int, stop: threading.Event) -> Iterator[bytes]:
        """Read the file from a byte on, telling of each piece as it goes out."""
        self.at(start)
        return _chunks(self.path, start, lambda amount: self.at(self.told + amount), stop)

    def run(self, stop: threading.Event) -> None:
        """Send it: a small file whole, a large one from where the service says that it ends, again and again.

        Raises Problem, and Unreachable where it does not get on any more.
        """
        if self.promise.size <= WHOLE:
            self.lathe.put_file(self.kind, self.upload_id, self.promise, lambda: self.content(0, stop))
            return
        tries = before = 0
        while True:
            start = self.lathe.offset(self.kind, self.upload_id, self.promise.path)
            # Not held against what was told, which counts what the line took with it when it broke.
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
    lathe: Service, kind: Kind, target: Model | Dataset, local: Mapping[str, tuple[Manifest, Path]], moved: Moved | None = None
) -> None:
    """Send the files that the service has not got, several at a time. The first failure stops the others."""
    missing = [local[file.path] for file in target.files if not file.uploaded]
    stop = threading.Event()
    with ThreadPoolExecutor(PARALLEL) as pool:
        running = [pool.submit(_Transfer(lathe, kind, target.id, *each, moved).run, stop) for each in missing]
        try:
            for done in as_completed(running):
                done.result()
        except BaseException:
            stop.set()
            for future in running:
                future.cancel()
            raise


def _same(
    lathe: Service, kind: Kind, known: Model | Dataset, body: Mapping[str, Any], local: Mapping[str, tuple[Manifest, Path]]
) -> Model | Dataset | None:
    """Return it with its files where the service already has exactly this, or the beginning of it."""
    promises = {name: promise for name, (promise, _) in local.items()}
    size = sum(promise.size for promise in promises.values())
    # A list tells how many files there are and how large; only what is alike in that is asked for.
    if known.state == "rejected" or (known.file_count, known.bytes) != (len(promises), size):
        return None
    if isinstance(known, Dataset):
        # The service tells of every column that a task may have.
        columns = {**Columns().model_dump(), **body["columns"]}
        wanted = {"format": body["format"], "columns": columns, "splits": body["splits"]}
        if known.task != body["task"] or known.data != wanted:
            return None
    whole = lathe.upload(kind, known.id)
    alike = {file.path: file.sha256 for file in whole.files} == {name: promise.sha256 for name, promise in promises.items()}
    return whole if alike else None


def add(
    lathe: Service,
    kind: Kind,
    body: Mapping[str, Any],
    local: Mapping[str, tuple[Manifest, Path]],
    *,
    moved: Moved | None = None,
) -> Model | Dataset:
    """Take up what is there already, or create it; send what is missing; return once it is complete (perhaps unchecked)."""
    alike = (_same(lathe, kind, found, body, local) for found in lathe.uploads(kind))
    known = next((found for found in alike if found is not None), None)
    target = known or lathe.create_upload(kind, body, [promise for promise, _ in local.values()])
    if target.state != "uploading":
        return target
    send(lathe, kind, target, local, moved)
    return lathe.complete(kind, target.id)


def until_ready(lathe: Service, kind: Kind, target: Model | Dataset, *, timeout: float = 900.0) -> Model | Dataset:
    """Wait for the service's check. Raises NotReady with the reasons where it was rejected."""
    deadline = time.monotonic() + timeout
    while target.state == "validating" and time.monotonic() < deadline:
        target = lathe.upload(kind, target.id, wait=min(30.0, max(1.0, deadline - time.monotonic())))
    if target.state == "ready":
        return target
    if target.state == "rejected":
        reasons = tuple(reason.model_dump() for reason in target.reasons)
        text = "; ".join(reason.cause for reason in target.reasons) or "no reason was given"
        remedy = " ".join(dict.fromkeys(reason.remedy for reason in target.reasons if reason.remedy))
        raise NotReady(f"{target.name} ({target.id}) was rejected: {text}", reasons=reasons, remedy=remedy)
    raise NotReady(
        f"{target.name} ({target.id}) is still {target.state}",
        remedy=f"See `lathe workers` for one of kind checks, then look again: lathe {kind} show {target.id}",
    )
