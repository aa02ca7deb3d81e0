"""Landlock: a process gives up access to the file system, except to named paths. Raw system calls; standard library only.

Kernels support more of it with each version ("ABI"): 1 files, 2 moves between folders, 3 truncation, 4 TCP, 5 device controls,
6 signals and abstract Unix sockets, 7 logging only. The kernel is asked for its version.
"""

import ctypes
import errno
import os
import stat
import struct
from collections.abc import Iterable
from dataclasses import dataclass

_CREATE_RULESET, _ADD_RULE, _RESTRICT_SELF = 444, 445, 446  # the same on every machine
_EXECUTE, _WRITE_FILE, _READ_FILE, _READ_DIR = 1 << 0, 1 << 1, 1 << 2, 1 << 3
_MAKE_CHAR, _MAKE_SOCK, _MAKE_BLOCK = 1 << 6, 1 << 9, 1 << 11
_REFER, _TRUNCATE, _IOCTL_DEV = 1 << 13, 1 << 14, 1 << 15
_RIGHTS = {1: (1 << 13) - 1, 2: (1 << 14) - 1, 3: (1 << 15) - 1, 4: (1 << 15) - 1, 5: (1 << 16) - 1}
"""ABI → all file rights that it knows."""
_OF_A_FILE = _EXECUTE | _WRITE_FILE | _READ_FILE | _TRUNCATE | _IOCTL_DEV
_TCP_BIND_AND_CONNECT = 3
_SCOPED_SOCKETS_AND_SIGNALS = 3

SCOPES_SIGNALS, GUARDS_TRUNCATION = 6, 3
"""The first ABI with each feature."""


@dataclass(frozen=True)
class Grants:
    """Access that remains: paths to read and run, paths to change freely, files to read and write, and folders whose files may
    be written.
    """

    read: tuple[str, ...]
    change: tuple[str, ...]
    write: tuple[str, ...]
    fill: tuple[str, ...] = ()


def abi() -> int:
    """Return the kernel's version. Raises OSError if the kernel has no Landlock, or it is switched off."""
    return _call(_CREATE_RULESET, None, ctypes.c_size_t(0), ctypes.c_uint32(1))


def restrict(grants: Grants) -> None:
    """Give up everything but `grants`, for this thread and its children. Needs no_new_privs. Raises OSError."""
    version = abi()
    files = _RIGHTS[min(version, max(_RIGHTS))]
    attributes = struct.pack(
        "=QQQ", files, _TCP_BIND_AND_CONNECT if version >= 4 else 0, _SCOPED_SOCKETS_AND_SIGNALS if version >= 6 else 0
    )
    size = 24 if version >= 6 else 16 if version >= 4 else 8
    ruleset = _call(_CREATE_RULESET, attributes, ctypes.c_size_t(size), ctypes.c_uint32(0))
    try:
        _allow(ruleset, grants.read, files & (_EXECUTE | _READ_FILE | _READ_DIR))
        _allow(ruleset, grants.change, files & ~(_EXECUTE | _MAKE_CHAR | _MAKE_BLOCK | _MAKE_SOCK | _IOCTL_DEV))
        _allow(ruleset, grants.write, files & (_READ_FILE | _READ_DIR | _WRITE_FILE | _TRUNCATE | _IOCTL_DEV))
        _allow(ruleset, grants.fill, files & (_WRITE_FILE | _TRUNCATE))
        _call(_RESTRICT_SELF, ctypes.c_int(ruleset), ctypes.c_uint32(0))
    finally:
        os.close(ruleset)


def _allow(ruleset: int, paths: Iterable[str], rights: int) -> None:
    for path in paths:
        place = os.open(path, os.O_PATH | os.O_CLOEXEC)
        try:
            allowed = rights if stat.S_ISDIR(os.fstat(place).st_mode) else rights & _OF_A_FILE
            _call(_ADD_RULE, ctypes.c_int(ruleset), ctypes.c_int(1), struct.pack("=Qi", allowed, place), ctypes.c_uint32(0))
        finally:
            os.close(place)


def _call(number: int, *arguments: object) -> int:
    libc = ctypes.CDLL(None, use_errno=True)
    libc.syscall.restype = ctypes.c_long
    result: int = libc.syscall(ctypes.c_long(number), *arguments)
    if result < 0:
        code = ctypes.get_errno()
        raise OSError(code, {errno.ENOSYS: "not in this kernel", errno.EOPNOTSUPP: "switched off"}.get(code, os.strerror(code)))
    return result
