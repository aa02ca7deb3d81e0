"""Durable, atomic writes: written beside their place, synced, renamed. Torch-free.

A reader finds all of the old content or all of the new, also after a power cut or a failed write; only while one folder
replaces another, neither exists for a moment.
"""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def folder(place: Path) -> Iterator[Path]:
    """Yield an empty folder to fill; it replaces `place` once the block ends without an exception.

    A folder that is not empty cannot be replaced in one step: the old one is moved aside, and removed once the new one has its
    place. A process that is killed between the two moves leaves no `place`.
    """
    beside, before = (place.with_name(f".{place.name}.{what}") for what in ("partial", "before"))
    for left in (beside, before):
        shutil.rmtree(left, ignore_errors=True)
    try:
        beside.mkdir(parents=True)
        yield beside
        for path in (*beside.rglob("*"), beside):  # a full disk may show only here
            sync(path)
        replaces = place.exists()
        if replaces:
            place.rename(before)
        try:
            beside.rename(place)
        except BaseException:
            if replaces:
                before.rename(place)
            raise
        sync(place.parent)
        shutil.rmtree(before, ignore_errors=True)
    except BaseException:
        shutil.rmtree(beside, ignore_errors=True)
        raise


def write_text(place: Path, text: str) -> None:
    """Write one file atomically."""
    beside = place.with_name(f".{place.name}.partial")
    try:
        beside.write_text(text, encoding="utf-8")
        sync(beside)
        beside.rename(place)
        sync(place.parent)
    except BaseException:
        beside.unlink(missing_ok=True)
        raise


def sync(path: Path) -> None:
    """Sync a file's bytes, or a folder's entries, to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
