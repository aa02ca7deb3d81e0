"""Files that are whole and stay: written beside their place, synced, renamed. Torch-free.

Whoever reads a place finds what was written there before, or all of what is there now, also after a power cut; but while a
folder takes the place of another, there is neither for a moment. A write that fails, as on a full disk, leaves what was there.
"""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def folder(place: Path) -> Iterator[Path]:
    """Hand out an empty folder to fill; it becomes `place`, in place of what lay there, once the block ends well.

    A folder that is not empty cannot be replaced in one step: it is moved aside, the new one takes its place, and then it is
    removed. Whoever reads between the two moves finds no `place`, and a process that is killed between them leaves none.
    """
    beside, before = (place.with_name(f".{place.name}.{what}") for what in ("partial", "before"))
    for left in (beside, before):
        shutil.rmtree(left, ignore_errors=True)
    try:
        beside.mkdir(parents=True)
        yield beside
        sync_tree(beside)
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
