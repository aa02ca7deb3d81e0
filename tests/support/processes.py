"""Processes that may end while a test looks at them."""

import psutil


def lives(process: psutil.Process) -> bool:
    """Return whether a process runs still, and not merely waits for its parent to ask how it ended."""
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def command_of(process: psutil.Process) -> list[str]:
    """Return a process's command line; none of one that has ended."""
    try:
        return process.cmdline()
    except psutil.Error:
        return []
