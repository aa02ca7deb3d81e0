"""Downloads artifacts: several files and ranges at a time, resumed where they broke off, checked against the manifest.

A small file is one range, a large one several. Each range grows in a file of its own beside the target (`model.onnx.part0`),
whose length is all that a resumed download needs, even after SIGKILL. The ranges are joined, hashed, synced and renamed: under
its own name a file is complete or not there at all.
"""

import hashlib
import os
import shutil
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PurePosixPath
from urllib.parse import quote, urljoin

import httpx

from client.core.endpoints import Service
from client.core.protocol import RETRIED_STATUSES, pause
from client.errors import BadFolder, BrokenTransfer, Problem, WrongHash
from client.transfers.folders import PARALLEL, Moved, sha256_of
from client.transfers.parallel import run_all
from client.transfers.upload import CHUNK
from client.types import Artifact, Manifest

SEGMENT = 16 << 20
"""A file has one range per whole segment, MOST at most."""
MOST = 4
ATTEMPTS = 6
"""Attempts without a new byte before we give up."""
REDIRECTS = 5


class _NoRanges(Exception):
    """The server sent the whole file in place of a range."""


@dataclass(frozen=True)
class _Piece:
    """Bytes start … stop (excluded) of a file, and the file that collects them."""

    path: Path
    start: int
    stop: int

    @property
    def have(self) -> int:
        return self.path.stat().st_size if self.path.exists() else 0

    @property
    def wanted(self) -> int:
        return self.stop - self.start


def local_path(folder: Path, path: str) -> Path:
    """Return the place of a manifest's path in the folder. Raises BadFolder if it leads out of the folder."""
    pure = PurePosixPath(path)
    if pure.is_absolute() or not pure.parts or ".." in pure.parts or "\\" in path or "\0" in path:
        raise BadFolder(
            f"the service names a file that would lie outside the folder: {path!r}", remedy="Do not trust this service."
        )
    target = folder.joinpath(*pure.parts)
    if not target.parent.resolve().is_relative_to(folder.resolve()):
        raise BadFolder(f"a link in {folder} leads out of it: {path!r}", remedy="Download into an empty folder.")
    return target


class _Fetch:
    """One file of one artifact."""

    def __init__(self, lathe: Service, artifact: Artifact, file: Manifest, target: Path, moved: Moved | None) -> None:
        self.lathe, self.file, self.target, self.moved = lathe, file, target, moved
        self.url = f"{lathe.url}/v1/artifacts/{artifact.id}/files/{quote(file.path)}"
        self.stop = threading.Event()

    def report(self, amount: int) -> None:
        if self.moved and amount:
            self.moved(self.file.path, amount)

    @property
    def pieces(self) -> list[_Piece]:
        """Ranges that follow from the size alone, so that the next attempt finds the same ones."""
        count = max(1, min(MOST, self.file.size // SEGMENT))
        edges = [self.file.size * i // count for i in range(count + 1)]
        return [_Piece(self.target.with_name(f"{self.target.name}.part{i}"), edges[i], edges[i + 1]) for i in range(count)]

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
            # Flushed as it comes: what has come when the connection breaks, or this process is killed, is kept.
            with piece.path.open("ab") as out:
                for chunk in response.iter_bytes():
                    if self.stop.is_set():
                        raise InterruptedError("another part failed")
                    out.write(chunk)
                    out.flush()
                    self.report(len(chunk))

    def _forget(self, piece: _Piece) -> None:
        self.report(-piece.have)
        piece.path.unlink(missing_ok=True)

    def _gather(self, piece: _Piece) -> None:
        """Ask until the piece is complete; only attempts without progress are counted."""
        if piece.have > piece.wanted:
            piece.path.unlink()
        self.report(piece.have)
        barren = 0
        while piece.have < piece.wanted or not piece.path.exists():
            before, problem = piece.have, ""
            try:
                if piece.wanted:
                    self._some(piece)
                else:
                    piece.path.touch()
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
        if (
            self.target.is_file()
            and self.target.stat().st_size == self.file.size
            and sha256_of(self.target) == self.file.sha256
        ):
            self.report(self.file.size)
            return self.target
        self.target.parent.mkdir(parents=True, exist_ok=True)
        pieces = self.pieces
        try:
            self._collect(pieces)
        except _NoRanges:
            for piece in pieces:
                self._forget(piece)
            self.stop.clear()
            pieces = [_Piece(pieces[0].path, 0, self.file.size)]
            self._collect(pieces)
        self._finish([piece.path for piece in pieces])
        return self.target

    def _finish(self, parts: Sequence[Path]) -> None:
        """Join the parts in the first of them, hash and sync it, and give it its name."""
        digest = hashlib.sha256()
        with parts[0].open("r+b") as out:
            while chunk := out.read(CHUNK):
                digest.update(chunk)
            for part in parts[1:]:
                with part.open("rb") as source:
                    while chunk := source.read(CHUNK):
                        digest.update(chunk)
                        out.write(chunk)
            out.flush()
            os.fsync(out.fileno())
        found = digest.hexdigest()
        if found != self.file.sha256:
            for part in parts:
                part.unlink(missing_ok=True)
            raise WrongHash(f"{self.file.path}: sha256 is {found}, the manifest promises {self.file.sha256}; deleted")
        parts[0].replace(self.target)
        for part in parts[1:]:
            part.unlink()
        _sync_folder(self.target.parent)


def _sync_folder(folder: Path) -> None:
    """Sync a folder: a rename is durable only then."""
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def download(lathe: Service, artifact: Artifact, folder: Path, *, moved: Moved | None = None) -> Path:
    """Fetch all files of an artifact into folder/<its name>; return that folder. Raises WrongHash and BrokenTransfer."""
    root = local_path(folder, artifact.name)
    root.mkdir(parents=True, exist_ok=True)
    fetches = [_Fetch(lathe, artifact, file, local_path(root, file.path), moved) for file in artifact.files]
    room = shutil.disk_usage(root).free
    needed = sum(file.size for file in artifact.files)
    if needed > room + sum(piece.have for fetch in fetches for piece in fetch.pieces):
        raise BadFolder(
            f"{root} has room for {room} bytes, the artifact needs {needed}", remedy="Free some room, or name another folder."
        )

    def stop() -> None:
        for fetch in fetches:
            fetch.stop.set()

    run_all((fetch.run for fetch in fetches), PARALLEL, stop)
    return root
