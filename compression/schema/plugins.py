"""Adds the entry points of packages that are installed beside Lathe to its registries. Torch-free."""

import logging
from collections.abc import Callable
from importlib.metadata import entry_points
from typing import TypeVar

Entry = TypeVar("Entry")


def add_plugins(group: str, kind: type[Entry], add: Callable[[Entry], None]) -> None:
    """Load the entry points of a group, such as `lathe.stages`, in order of their names, and add each.

    add: adds one to a registry, or raises ValueError if its name is taken. A package that cannot be loaded or added is left out
    with a warning that names it: it must not stop the service.
    """
    for point in sorted(entry_points(group=group), key=lambda point: point.name):
        try:
            found = point.load()
            if not isinstance(found, kind):
                raise TypeError(f"it is of type {type(found).__name__}, not {kind.__name__}")
            add(found)
        except Exception as problem:
            logging.getLogger(__name__).warning("%s of %s (%s) is left out: %s", point.name, group, point.value, problem)
