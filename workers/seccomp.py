"""The seccomp filter: system calls that a confined process is refused. Standard library only, because the launcher uses it.

The filter allows what it does not name: an engine is torch and ONNX Runtime, whose needs change, and a list of allowed calls
would break at an upgrade. File access is the task of Landlock or the mount namespace, not of this filter.
"""

import errno
import os
import struct
from collections.abc import Mapping, Sequence

ARCHITECTURES = {"x86_64": (0, 0xC000003E), "aarch64": (1, 0xC00000B7)}
"""Machine → column in NUMBERS, and the kernel's number of the architecture (linux/audit.h)."""

# Sockets of every family: network, and the host's services behind Unix sockets. A pair is a socket, too.
SOCKETS = ("socket", "socketpair", "bind", "listen", "connect")
CONNECTIONS = ("bind", "listen", "connect")
LOOPBACK = (2, 16)
"""AF_INET, and AF_NETLINK, which tells what interfaces there are: for processes that talk within a network of their own."""
UNIX = 1
"""AF_UNIX, for such processes beside cards."""
# They bypass the filter, or act on other processes.
RINGS = ("io_uring_setup", "io_uring_enter", "io_uring_register")
OTHERS = (
    *("ptrace", "process_vm_readv", "process_vm_writev", "process_madvise", "process_mrelease"),
    *("pidfd_open", "pidfd_getfd", "kcmp", "migrate_pages"),
)
NAMESPACES = (
    *("unshare", "setns", "mount", "umount2", "pivot_root", "chroot", "move_mount", "open_tree", "open_tree_attr"),
    *("fsopen", "fsconfig", "fsmount", "fspick", "mount_setattr"),
)
KERNEL = (
    *("bpf", "perf_event_open", "userfaultfd", "keyctl", "add_key", "request_key", "init_module", "finit_module"),
    *("delete_module", "kexec_load", "kexec_file_load", "reboot", "swapon", "swapoff", "acct", "quotactl", "quotactl_fd"),
    *("syslog", "settimeofday", "clock_settime", "adjtimex", "clock_adjtime", "sethostname", "setdomainname"),
    *("name_to_handle_at", "open_by_handle_at", "fanotify_init", "inotify_init", "inotify_init1", "iopl", "ioperm"),
    *("vhangup", "modify_ldt", "uselib"),
)
# Memory that cannot be measured.
UNCOUNTED = ("memfd_secret",)
# A filter cannot read its modes; libraries then use openat.
OPENAT2 = ("openat2",)
# System V and POSIX objects have their own names, which file rules do not cover.
SHARED = (
    *("shmget", "shmat", "shmctl", "msgget", "msgsnd", "msgrcv", "msgctl", "semget", "semop", "semtimedop", "semctl"),
    *("mq_open", "mq_unlink"),
)
# A process outside the group is not reached by the signal that ends the group.
GROUPS = ("setsid", "setpgid")
OWNERS = (
    *("chown", "fchown", "lchown", "fchownat", "setxattr", "lsetxattr", "fsetxattr", "setxattrat"),
    *("removexattr", "lremovexattr", "fremovexattr", "removexattrat"),
)
MODES = ("chmod", "fchmod", "fchmodat", "fchmodat2")
# They slow down every process of the same user, and a raised nice value cannot be taken back.
PRIORITIES = ("setpriority", "ioprio_set", "sched_setscheduler", "sched_setparam", "sched_setattr")
OF_OTHERS = ("sched_setaffinity",)
"""Refused by their first argument, unless it is 0: a thread that calls itself so may choose its own cores.

A filter does not know the number of the thread that calls, so one that names itself by it is refused, too: the C library's
pthread_setaffinity_np always does, and pthread_create with cores among its attributes (OMP_PROC_BIND), which then fails.
"""
SIGNALS = ("kill", "tkill", "tgkill", "rt_sigqueueinfo", "rt_tgsigqueueinfo", "pidfd_send_signal")

ALWAYS: Mapping[str, int] = {
    **dict.fromkeys((*SOCKETS, *OTHERS, *NAMESPACES, *KERNEL, *SHARED, *GROUPS), errno.EPERM),
    **dict.fromkeys((*RINGS, *UNCOUNTED, *OPENAT2), errno.ENOSYS),
}
"""Refused at every level: system call → its error."""

WITHOUT_MOUNTS: Mapping[str, int] = {
    **dict.fromkeys((*OWNERS, *PRIORITIES, *OF_OTHERS), errno.EPERM),
    # Reported as done, but not done: libraries set modes of files that they just wrote, and would fail if that were refused;
    # nobody needs the modes in a private folder whose files are copied afterwards.
    **dict.fromkeys(MODES, 0),
}
"""Refused as well where the host's files and processes can be named: Landlock does not protect files' modes, owners and
attributes, nor processes' priorities."""

NUMBERS: Mapping[str, tuple[int | None, int | None]] = {
    "socket": (41, 198),
    "socketpair": (53, 199),
    "bind": (49, 200),
    "listen": (50, 201),
    "connect": (42, 203),
    "io_uring_setup": (425, 425),
    "io_uring_enter": (426, 426),
    "io_uring_register": (427, 427),
    "ptrace": (101, 117),
    "process_vm_readv": (310, 270),
    "process_vm_writev": (311, 271),
    "process_madvise": (440, 440),
    "process_mrelease": (448, 448),
    "pidfd_open": (434, 434),
    "pidfd_getfd": (438, 438),
    "kcmp": (312, 272),
    "migrate_pages": (256, 238),
    "unshare": (272, 97),
    "setns": (308, 268),
    "mount": (165, 40),
    "umount2": (166, 39),
    "pivot_root": (155, 41),
    "chroot": (161, 51),
    "move_mount": (429, 429),
    "open_tree": (428, 428),
    "open_tree_attr": (467, 467),
    "fsopen": (430, 430),
    "fsconfig": (431, 431),
    "fsmount": (432, 432),
    "fspick": (433, 433),
    "mount_setattr": (442, 442),
    "bpf": (321, 280),
    "perf_event_open": (298, 241),
    "userfaultfd": (323, 282),
    "keyctl": (250, 219),
    "add_key": (248, 217),
    "request_key": (249, 218),
    "init_module": (175, 105),
    "finit_module": (313, 273),
    "delete_module": (176, 106),
    "kexec_load": (246, 104),
    "kexec_file_load": (320, 294),
    "reboot": (169, 142),
    "swapon": (167, 224),
    "swapoff": (168, 225),
    "acct": (163, 89),
    "quotactl": (179, 60),
    "quotactl_fd": (443, 443),
    "syslog": (103, 116),
    "settimeofday": (164, 170),
    "clock_settime": (227, 112),
    "adjtimex": (159, 171),
    "clock_adjtime": (305, 266),
    "sethostname": (170, 161),
    "setdomainname": (171, 162),
    "name_to_handle_at": (303, 264),
    "open_by_handle_at": (304, 265),
    "fanotify_init": (300, 262),
    "inotify_init": (253, None),
    "inotify_init1": (294, 26),
    "iopl": (172, None),
    "ioperm": (173, None),
    "vhangup": (153, 58),
    "modify_ldt": (154, None),
    "uselib": (134, None),
    "shmget": (29, 194),
    "shmat": (30, 196),
    "shmctl": (31, 195),
    "msgget": (68, 186),
    "msgsnd": (69, 189),
    "msgrcv": (70, 188),
    "msgctl": (71, 187),
    "semget": (64, 190),
    "semop": (65, 193),
    "semtimedop": (220, 192),
    "semctl": (66, 191),
    "mq_open": (240, 180),
    "mq_unlink": (241, 181),
    "setsid": (112, 157),
    "setpgid": (109, 154),
    "chown": (92, None),
    "fchown": (93, 55),
    "lchown": (94, None),
    "fchownat": (260, 54),
    "setxattr": (188, 5),
    "lsetxattr": (189, 6),
    "fsetxattr": (190, 7),
    "setxattrat": (463, 463),
    "removexattr": (197, 14),
    "lremovexattr": (198, 15),
    "fremovexattr": (199, 16),
    "removexattrat": (466, 466),
    "chmod": (90, None),
    "fchmod": (91, 52),
    "fchmodat": (268, 53),
    "fchmodat2": (452, 452),
    "setpriority": (141, 140),
    "ioprio_set": (251, 30),
    "sched_setscheduler": (144, 119),
    "sched_setparam": (142, 118),
    "sched_setattr": (314, 274),
    "sched_setaffinity": (203, 122),
    "kill": (62, 129),
    "tkill": (200, 130),
    "tgkill": (234, 131),
    "rt_sigqueueinfo": (129, 138),
    "rt_tgsigqueueinfo": (297, 240),
    "pidfd_send_signal": (424, 424),
    "memfd_secret": (447, 447),
    "open": (2, None),
    "openat": (257, 56),
    "openat2": (437, 437),
    "creat": (85, None),
    "mknod": (133, None),
    "mknodat": (259, 33),
    "prctl": (157, 167),
    "clone": (56, 220),
    "clone3": (435, 435),
    "prlimit64": (302, 261),
    "fcntl": (72, 25),
    "ioctl": (16, 29),
    "truncate": (76, 45),
    "landlock_create_ruleset": (444, 444),
}
"""System call → its number on x86_64 and on aarch64 (asm/unistd.h)."""

# The owner of a file's signals receives a chosen signal, even SIGKILL, once the file has news: another way to `kill`.
SIGNALS_OF_A_FILE: Mapping[str, tuple[int, ...]] = {"fcntl": (8, 15), "ioctl": (0x8901, 0x8902)}
"""System call → forbidden values of its second argument: F_SETOWN and F_SETOWN_EX, FIOSETOWN and SIOCSPGRP."""

# A process that runs a file with these bits becomes its owner, and an engine's files may be root's.
SETS_MODES: Mapping[str, int] = {"chmod": 1, "fchmod": 1, "fchmodat": 2, "fchmodat2": 2, "creat": 1, "mknod": 1, "mknodat": 2}
"""System call → the index of its argument that must not have S_ISUID or S_ISGID."""
OPENS: Mapping[str, int] = {"open": 1, "openat": 2}
"""System call → the index of its flags: if they create a file (O_CREAT, O_TMPFILE), the next argument is its mode."""
_SET_IDS, _MAKES_A_FILE = 0o6000, 0o20000100
_TO_WRITE, _TO_READ_AND_WRITE, _EMPTIES = 1, 2, 0o1000
"""O_WRONLY, O_RDWR and O_TRUNC. Both of the first two together are a mode that neither reads nor writes."""
_SET_DUMPABLE = 4
"""Of prctl. A process that is not dumpable does not show an unprivileged worker its open files."""

_NAMESPACE_FLAGS = 0x7E020080
"""CLONE_NEW…: time, mount, cgroup, UTS, IPC, user, PID and network."""

_LOAD, _EQUAL, _ANY_BIT, _AT_LEAST, _RETURN = 0x20, 0x15, 0x45, 0x35, 0x06  # linux/bpf_common.h, on 32-bit words
_NUMBER, _ARCHITECTURE, _FIRST_ARGUMENT, _SECOND_ARGUMENT = 0, 4, 16, 24
"""Offsets in struct seccomp_data, whose arguments have 8 bytes each; both machines are little-endian."""
_ALLOW, _ERRNO = 0x7FFF0000, 0x00050000


class UnknownMachine(Exception):
    """There is no table of system calls for this machine."""


def build_filter(answers: Mapping[str, int], machine: str | None = None, families: Sequence[int] = ()) -> bytes:
    """Return the filter in the kernel's form: an array of struct sock_filter.

    `answers` gives the error of each refused system call; 0 means "done" without doing anything. families: of sockets that may
    be made and used all the same, for a process that has a network of its own. Besides: no file gets S_ISUID or S_ISGID, no
    process becomes undumpable, clone makes no namespaces, clone3 is unknown (a filter cannot read its flags; the C library then
    uses clone), limits of other processes stay as they are, and no process is signalled through a file.
    Raises UnknownMachine.
    """
    machine = machine or os.uname().machine
    if machine not in ARCHITECTURES:
        raise UnknownMachine(machine)
    column, architecture = ARCHITECTURES[machine]
    lines = [
        (_LOAD, 0, 0, _ARCHITECTURE),
        (_EQUAL, 1, 0, architecture),
        (_RETURN, 0, 0, _ERRNO | errno.ENOSYS),  # 32-bit calls have other numbers
        (_LOAD, 0, 0, _NUMBER),
    ]
    if machine == "x86_64":
        lines += [(_AT_LEAST, 0, 1, 0x40000000), (_RETURN, 0, 0, _ERRNO | errno.ENOSYS)]  # and so has x32
    refused_calls = {**answers, "clone3": errno.ENOSYS}
    if families:
        refused_calls = {name: error for name, error in refused_calls.items() if name not in CONNECTIONS}
        lines += _allow_sockets(column, families)
    for name, error in refused_calls.items():
        if name not in OF_OTHERS and (number := NUMBERS[name][column]) is not None:
            lines += [(_EQUAL, 0, 1, number), (_RETURN, 0, 0, _ERRNO | error)]
    for name, values in SIGNALS_OF_A_FILE.items():
        number = NUMBERS[name][column]
        assert number is not None  # noqa: S101
        refused = [line for value in values for line in ((_EQUAL, 0, 1, value), (_RETURN, 0, 0, _ERRNO | errno.EPERM))]
        lines += [(_EQUAL, 0, len(refused) + 2, number), (_LOAD, 0, 0, _SECOND_ARGUMENT), *refused, (_RETURN, 0, 0, _ALLOW)]
    lines += _refuse_set_ids(column, keeps_sizes="truncate" in answers)
    number = NUMBERS["prctl"][column]
    assert number is not None  # noqa: S101
    lines += [(_EQUAL, 0, 4, number), (_LOAD, 0, 0, _FIRST_ARGUMENT), (_EQUAL, 0, 1, _SET_DUMPABLE), (_RETURN, 0, 0, _ERRNO)]
    lines += [(_RETURN, 0, 0, _ALLOW)]
    others = ("prlimit64", *(name for name in OF_OTHERS if name in answers))
    for name, bits in (("clone", _NAMESPACE_FLAGS), *((name, 0xFFFFFFFF) for name in others)):
        number = NUMBERS[name][column]
        assert number is not None  # noqa: S101
        refused = [(_LOAD, 0, 0, _FIRST_ARGUMENT), (_ANY_BIT, 0, 1, bits), (_RETURN, 0, 0, _ERRNO | errno.EPERM)]
        lines += [(_EQUAL, 0, len(refused) + 1, number), *refused, (_RETURN, 0, 0, _ALLOW)]
    lines.append((_RETURN, 0, 0, _ALLOW))
    return b"".join(struct.pack("=HBBI", *line) for line in lines)


def _allow_sockets(column: int, families: Sequence[int]) -> list[tuple[int, int, int, int]]:
    """Return the rules that allow sockets of some families."""
    number = NUMBERS["socket"][column]
    assert number is not None  # noqa: S101
    checks = [(_LOAD, 0, 0, _FIRST_ARGUMENT)]
    for family in families:
        checks += [(_EQUAL, 0, 1, family), (_RETURN, 0, 0, _ALLOW)]
    return [(_EQUAL, 0, len(checks) + 1, number), *checks, (_RETURN, 0, 0, _ERRNO | errno.EPERM)]


def _refuse_set_ids(column: int, *, keeps_sizes: bool) -> list[tuple[int, int, int, int]]:
    """Return the rules that refuse files which change who runs them. keeps_sizes: whether no file is emptied by opening it for
    less than writing, either: Landlock asks for the right to write only where a file is opened so.
    """
    lines: list[tuple[int, int, int, int]] = []
    for name, place in {**SETS_MODES, **OPENS}.items():
        if (number := NUMBERS[name][column]) is None:
            continue
        checks = [(_LOAD, 0, 0, _FIRST_ARGUMENT + 8 * place)]
        if name in OPENS:
            if keeps_sizes:
                checks += [
                    (_ANY_BIT, 0, 1, _TO_WRITE),
                    (_ANY_BIT, 2, 3, _TO_READ_AND_WRITE),
                    (_ANY_BIT, 2, 0, _TO_READ_AND_WRITE),
                    (_ANY_BIT, 0, 1, _EMPTIES),
                    (_RETURN, 0, 0, _ERRNO | errno.EPERM),
                ]
            checks += [
                (_ANY_BIT, 1, 0, _MAKES_A_FILE),
                (_RETURN, 0, 0, _ALLOW),
                (_LOAD, 0, 0, _FIRST_ARGUMENT + 8 * (place + 1)),
            ]
        checks += [(_ANY_BIT, 0, 1, _SET_IDS), (_RETURN, 0, 0, _ERRNO | errno.EPERM), (_RETURN, 0, 0, _ALLOW)]
        lines += [(_EQUAL, 0, len(checks), number), *checks]
    return lines
