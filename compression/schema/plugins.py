"""Adds the entry points of packages that are installed beside Lathe to its registries. Torch-free."""

import logging
from collections.abc import Callable
from importlib.metadata import EntryPoint, entry_points
from typing import TypeVar

Entry = TypeVar("Entry")


def add_plugins(group: str, kind: type[Entry], add: Callable[[Entry], None]) -> None:
    """Load the entry points of a group, such as `lathe.stages`, and add each: in order of their names, but what follows another
    entry after that.

    add: adds one to a registry; raises ValueError if that cannot be. A package that cannot be loaded or added is left out, with
    a warning that names it: it must not stop the service.
    """
    left: list[tuple[EntryPoint, Entry]] = []
    for point in sorted(entry_points(group=group), key=lambda point: point.name):
        try:
            found = point.load()
            if not isinstance(found, kind):
                raise TypeError(f"it is of type {type(found).__name__}, not {kind.__name__}")
            left.append((point, found))
        except Exception as problem:
            _leave_out(point, problem)
    while left:
        refused = [(one, why) for one in left if (why := _refusal(add, one[1])) is not None]
        if len(refused) == len(left):  # else one may have waited for another: a stage for the one that it follows
            for (point, _), why in refused:
                _leave_out(point, why)
            return
        left = [one for one, _ in refused]


def _refusal(add: Callable[[Entry], None], entry: Entry) -> Exception | None:
    try:
        add(entry)
    except Exception as problem:
        return problem
    return None


def _leave_out(point: EntryPoint, problem: Exception) -> None:
    logging.getLogger(__name__).warning("%s of %s (%s) is left out: %s", point.name, point.group, point.value, problem)
