"""Files that are whole and stay: written beside their place, synced, renamed. Torch-free.

Whoever reads a place finds what was written there before, or all of what is there now, also after a power cut. A write that
fails, as on a full disk, leaves nothing.
"""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def folder(place: Path) -> Iterator[Path]:
    """Hand out an empty folder to fill; it becomes `place`, in place of what lay there, once the block ends well."""
    beside = place.with_name(f".{place.name}.partial")
    shutil.rmtree(beside, ignore_errors=True)
    try:
        beside.mkdir(parents=True)
        yield beside
        sync_tree(beside)
        shutil.rmtree(place, ignore_errors=True)
        beside.rename(place)
        sync(place.parent)
    except BaseException:
        shutil.rmtree(beside, ignore_errors=True)
        raise


def write_text(place: Path, text: str) -> None:
    """Write one file whole, or not at all."""
    beside = place.with_name(f".{place.name}.partial")
    try:
        beside.write_text(text, encoding="utf-8")
        sync(beside)
        beside.rename(place)
        sync(place.parent)
    except BaseException:
        beside.unlink(missing_ok=True)
        raise


def sync_tree(top: Path) -> None:
    """Put a folder and all that is in it on the disk. A full disk may show only here."""
    for path in top.rglob("*"):
        sync(path)
    sync(top)


def sync(path: Path) -> None:
    """Put a file's bytes, or a folder's names, on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
