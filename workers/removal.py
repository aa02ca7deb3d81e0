"""Removes folders that a child filled: at any depth, of any mode, following no link, with at most three open."""

import os
import secrets
import stat
from collections.abc import Iterator
from contextlib import suppress
from itertools import count
from pathlib import Path

_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


def remove_tree(place: Path | str, *, dir_fd: int | None = None) -> None:
    """Remove a folder with its content, or another file of that name; if it does not exist, do nothing.

    Works at any depth, because what is two folders deep is first moved up. What cannot be removed stays, and all else goes.
    Raises the first OSError then.
    """
    with suppress(FileNotFoundError):
        if not stat.S_ISDIR(os.stat(place, dir_fd=dir_fd, follow_symlinks=False).st_mode):
            os.unlink(place, dir_fd=dir_fd)
            return
        top = _open(place, dir_fd)
        try:
            _empty(top)
        finally:
            os.close(top)
        os.rmdir(place, dir_fd=dir_fd)


def _empty(top: int) -> None:
    """Remove the content of an open folder. Raises one of the OSErrors if something stays."""
    mark, numbers = secrets.token_hex(8), count()
    stays: dict[str, OSError] = {}
    while names := set(os.listdir(top)) - stays.keys():
        for name in names:
            try:
                if _is_folder(name, top):
                    _move_up(name, top, mark, numbers)
                    os.rmdir(name, dir_fd=top)
                else:
                    os.unlink(name, dir_fd=top)
            except OSError as error:
                stays[name] = error
    if stays:
        raise next(iter(stays.values()))


def _move_up(name: str, top: int, mark: str, numbers: Iterator[int]) -> None:
    """Empty a folder of `top`: delete its files and move its folders to `top`. Raises the last OSError."""
    folder, problem = _open(name, top), None
    try:
        for inner in os.listdir(folder):  # noqa: PTH208 (of a descriptor)
            try:
                if _is_folder(inner, folder):
                    os.close(_open(inner, folder))  # moving a folder needs write access to it
                    os.rename(inner, f"{mark}-{next(numbers)}", src_dir_fd=folder, dst_dir_fd=top)
                else:
                    os.unlink(inner, dir_fd=folder)
            except OSError as error:
                problem = error
    finally:
        os.close(folder)
    if problem is not None:
        raise problem


def _is_folder(name: str, parent: int) -> bool:
    return stat.S_ISDIR(os.stat(name, dir_fd=parent, follow_symlinks=False).st_mode)


def _open(name: Path | str, parent: int | None) -> int:
    """Open a folder so that it can be listed and emptied, whatever its mode."""
    try:
        found = os.open(name, _FOLDER, dir_fd=parent)
    except PermissionError:
        if not hasattr(os, "O_PATH"):
            raise
        place = os.open(name, os.O_PATH | _FOLDER, dir_fd=parent)
        try:
            Path(f"/proc/self/fd/{place}").chmod(stat.S_IRWXU)  # by descriptor: the name may lead elsewhere by now
        finally:
            os.close(place)
        found = os.open(name, _FOLDER, dir_fd=parent)
    with suppress(PermissionError):
        os.fchmod(found, stat.S_IRWXU)
    return found
