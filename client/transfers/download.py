"""Downloads artifacts: several files and ranges at a time, resumed where they broke off, checked against the manifest.

A small file is one range, a large one several. All are written to their places in one file beside the target, whose name has
the beginning of the promised hash (`model.onnx.0a1b2c3d.part`). Beside it lies how many bytes of each range have come, which is
all that a resumed download needs, even after SIGKILL. The file is hashed, synced and renamed: under its own name it is complete
or not there at all.
"""

import json
import os
import re
import shutil
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from pathlib import Path
from urllib.parse import quote, urljoin

import httpx

from client.core.endpoints import Service
from client.core.protocol import RETRIED_STATUSES, pause
from client.errors import BadFolder, BrokenTransfer, Problem, WrongHash
from client.transfers.folders import PARALLEL, Moved, sha256_of
from client.transfers.parallel import run_all
from client.types import Artifact, Manifest
from compression.schema.file_names import portable
from compression.schema.manifest import MANIFEST

SEGMENT = 16 << 20
"""A file has one range per whole segment, MOST at most."""
MOST = 4
ATTEMPTS = 6
"""Attempts without a new byte before we give up."""
REDIRECTS = 5
COUNT = 8
"""Bytes of a number of bytes."""


class _NoRanges(Exception):
    """The server sent the whole file in place of a range."""


@dataclass(frozen=True)
class _Piece:
    """Bytes start … stop (excluded) of a file, the file that collects them, and the one that counts those of each piece."""

    data: Path
    counts: Path
    number: int
    start: int
    stop: int

    @property
    def have(self) -> int:
        """Bytes that have come. A file without its other one is of no use."""
        if not (self.data.exists() and self.counts.exists()):
            return 0
        with self.counts.open("rb") as source:
            source.seek(self.number * COUNT)
            return int.from_bytes(source.read(COUNT), "little")

    @property
    def wanted(self) -> int:
        return self.stop - self.start

    def write(self, chunks: Iterator[bytes]) -> Iterator[int]:
        """Add bytes to those that have come; yield their number. What is counted is written, also if this process is killed."""
        have = self.have
        with _opened(self.data) as data, _opened(self.counts) as counts:
            for chunk in chunks:
                some = chunk[: self.wanted - have]  # the rest would lie in the next piece
                os.pwrite(data, some, self.start + have)
                have += len(some)
                os.pwrite(counts, have.to_bytes(COUNT, "little"), self.number * COUNT)
                yield len(some)

    def forget(self) -> None:
        """Count none of its bytes."""
        with _opened(self.counts) as counts:
            os.pwrite(counts, bytes(COUNT), self.number * COUNT)


@contextmanager
def _opened(path: Path) -> Iterator[int]:
    """Open a file for writing at any place."""
    handle = os.open(path, os.O_CREAT | os.O_WRONLY, 0o666)
    try:
        yield handle
    finally:
        os.close(handle)


def local_path(folder: Path, path: str) -> Path:
    """Return the place of a manifest's path in the folder. Raises BadFolder if it leads out of the folder, or has a name that
    other programs act on (`.git`, `-rf`): no service gives files such names.
    """
    try:
        target = folder.joinpath(*portable(path).split("/"))
    except ValueError as problem:
        cause = f"the service names a file that it must not, {path!r}: {problem}"
        raise BadFolder(cause, remedy="Do not trust this service.") from None
    if not target.parent.resolve().is_relative_to(folder.resolve()):
        raise BadFolder(f"a link in {folder} leads out of it: {path!r}", remedy="Download into an empty folder.")
    return target


class _Fetch:
    """One file of one artifact."""

    def __init__(self, lathe: Service, artifact: Artifact, file: Manifest, target: Path, moved: Moved | None) -> None:
        self.lathe, self.file, self.target, self.moved = lathe, file, target, moved
        self.url = f"{lathe.url}/v1/artifacts/{artifact.id}/files/{quote(file.path)}"
        self.stop = threading.Event()
        self.data = target.with_name(f"{target.name}.{file.sha256[:8]}.part")
        self.counts = self.data.with_name(f"{self.data.name}.counts")
        self.complete = False

    def look(self) -> None:
        """See whether the file is there and right. Remove what has come of another one of its name."""
        self.complete = (
            self.target.is_file()
            and self.target.stat().st_size == self.file.size
            and sha256_of(self.target) == self.file.sha256
        )
        # The last form is of earlier versions.
        own = re.compile(re.escape(self.target.name) + r"(\.[0-9a-f]{8}\.part(\.counts)?|\.part[0-3])")
        for path in self.target.parent.glob("*.part*"):
            if own.fullmatch(path.name) and path not in (self.data, self.counts):
                path.unlink(missing_ok=True)

    @property
    def lacks(self) -> int:
        """Bytes that are yet to come."""
        return 0 if self.complete else self.file.size - sum(min(piece.have, piece.wanted) for piece in self.pieces)

    def report(self, amount: int) -> None:
        if self.moved and amount:
            self.moved(self.file.path, amount)

    @property
    def pieces(self) -> list[_Piece]:
        """Ranges that follow from the size alone, so that the next attempt finds the same ones."""
        count = max(1, min(MOST, self.file.size // SEGMENT))
        edges = [self.file.size * i // count for i in range(count + 1)]
        return [_Piece(self.data, self.counts, number, *pair) for number, pair in enumerate(pairwise(edges))]

    @contextmanager
    def _open(self, piece: _Piece) -> Iterator[httpx.Response]:
        """GET what a piece lacks. Another host gets neither our key nor our ETag."""
        url, wanted = self.url, {"Accept-Encoding": "identity"}
        if piece.start + piece.have or piece.stop != self.file.size:
            wanted["Range"] = f"bytes={piece.start + piece.have}-{piece.stop - 1}"
        home = httpx.URL(self.lathe.url)
        for _ in range(REDIRECTS):
            at = httpx.URL(url)
            ours = (at.scheme, at.host, at.port) == (home.scheme, home.host, home.port)
            headers = dict(wanted)
            if ours:
                headers |= self.lathe.authorization
                if "Range" in wanted:
                    headers["If-Range"] = f'"{self.file.sha256}"'
            with self.lathe.http.stream("GET", url, headers=headers) as response:
                if not response.is_redirect:
                    yield response
                    return
                url = urljoin(url, response.headers["location"])
        raise BrokenTransfer(
            f"{self.file.path}: more than {REDIRECTS} redirects", remedy="Check the service's storage settings."
        )

    def _some(self, piece: _Piece) -> None:
        """Append what one request returns."""
        with self._open(piece) as response:
            if response.status_code == 416:
                # The part is longer than the file, so it belongs to another one.
                self._forget(piece)
                return
            if not response.is_success:
                response.read()
                raise Problem.of(response)
            offset = piece.have
            if response.status_code != 206 and (piece.start or piece.stop != self.file.size):
                raise _NoRanges
            if response.status_code == 206:
                expected = f"bytes {piece.start + offset}-{piece.stop - 1}/{self.file.size}"
                if response.headers.get("content-range", expected) != expected:
                    raise _NoRanges
            else:
                self._forget(piece)  # the whole file comes
            for amount in piece.write(response.iter_bytes()):
                self.report(amount)
                if self.stop.is_set():
                    raise InterruptedError("another part failed")

    def _forget(self, piece: _Piece) -> None:
        self.report(-piece.have)
        piece.forget()

    def _gather(self, piece: _Piece) -> None:
        """Ask until the piece is complete; only attempts without progress are counted."""
        if piece.have > piece.wanted:
            piece.forget()
        self.report(piece.have)
        barren = 0
        while piece.have < piece.wanted:
            before, problem = piece.have, ""
            try:
                self._some(piece)
            except httpx.TransportError as error:
                problem = str(error) or type(error).__name__
            except Problem as error:
                if error.status not in RETRIED_STATUSES:
                    raise
                problem = error.cause
            barren = 0 if piece.have > before else barren + 1
            if barren >= ATTEMPTS:
                raise BrokenTransfer(
                    f"{self.file.path}: the download broke off {ATTEMPTS} times ({problem or 'no bytes came'})"
                )
            if barren or problem:
                time.sleep(pause(barren))

    def _collect(self, pieces: Sequence[_Piece]) -> None:
        run_all((partial(self._gather, piece) for piece in pieces), len(pieces), self.stop.set)

    def run(self) -> Path:
        """Fetch, check and name the file; keep it if it is there already."""
        if self.complete:
            self.report(self.file.size)
            return self.target
        self.target.parent.mkdir(parents=True, exist_ok=True)
        pieces = self.pieces
        if not self.data.exists() or self.data.stat().st_size > self.file.size:
            self._remove_parts()
        self.data.touch()
        try:
            self._collect(pieces)
        except _NoRanges:
            for piece in pieces:
                self._forget(piece)
            self.stop.clear()
            self._collect([_Piece(self.data, self.counts, 0, 0, self.file.size)])
        self._finish()
        return self.target

    def _remove_parts(self) -> None:
        self.data.unlink(missing_ok=True)
        self.counts.unlink(missing_ok=True)

    def _finish(self) -> None:
        """Hash and sync what has come, and give it its name."""
        found = sha256_of(self.data)
        if found != self.file.sha256:
            self._remove_parts()
            raise WrongHash(f"{self.file.path}: sha256 is {found}, the manifest promises {self.file.sha256}; deleted")
        with self.data.open("rb") as whole:
            os.fsync(whole.fileno())
        self.data.replace(self.target)
        self.counts.unlink(missing_ok=True)
        _sync_folder(self.target.parent)


def _sync_folder(folder: Path) -> None:
    """Sync a folder: a rename is durable only then."""
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _remove_older(root: Path, artifact: Artifact) -> None:
    """Remove the files of an older artifact in this folder that the new one lacks: stock tools would read them with its own."""
    with suppress(OSError, ValueError, KeyError, TypeError):  # no manifest, or none of ours
        listed = [str(file["path"]) for file in json.loads((root / MANIFEST).read_text("utf-8"))["files"]]
        for path in set(listed) - {file.path for file in artifact.files}:
            with suppress(BadFolder):
                local_path(root, path).unlink(missing_ok=True)


def download(lathe: Service, artifact: Artifact, folder: Path, *, moved: Moved | None = None) -> Path:
    """Fetch all files of an artifact into folder/<its name>; return that folder. Raises WrongHash and BrokenTransfer.

    Of another artifact that lies there, those that its manifest lists and the new one's does not are removed.
    """
    root = local_path(folder, artifact.name)
    root.mkdir(parents=True, exist_ok=True)
    # The manifest first: if this breaks off, it still tells the next download which files are of this artifact.
    files = sorted(artifact.files, key=lambda file: file.path != MANIFEST)
    fetches = [_Fetch(lathe, artifact, file, local_path(root, file.path), moved) for file in files]

    def stop() -> None:
        for fetch in fetches:
            fetch.stop.set()

    _remove_older(root, artifact)
    run_all((fetch.look for fetch in fetches), PARALLEL, stop)
    room, needed = shutil.disk_usage(root).free, sum(fetch.lacks for fetch in fetches)
    if needed > room:
        cause = f"{root} has room for {room} bytes, and {needed} are yet to come"
        raise BadFolder(cause, remedy="Free some room, or name another folder.")
    run_all((fetch.run for fetch in fetches), PARALLEL, stop)
    return root
