"""What packages that are installed beside Lathe add to its registries, by entry points. Torch-free."""

from importlib.metadata import entry_points
from typing import TypeVar

Entry = TypeVar("Entry")


def plugins(group: str, kind: type[Entry]) -> list[Entry]:
    """Load the entry points of a group, such as `lathe.stages`, in the order of their names.

    Raises ImportError, with the name of the entry point and of its package, if one cannot be loaded or is not of the kind:
    a service that lacks what its operator installed must not run as if nothing were missing.
    """
    found = []
    for point in sorted(entry_points(group=group), key=lambda point: point.name):
        whose = f"the entry point {point.name!r} of {group}, of {point.dist.name if point.dist else 'an unknown package'}"
        try:
            loaded = point.load()
        except Exception as problem:
            raise ImportError(f"{whose}, cannot be loaded: {problem}") from problem
        if not isinstance(loaded, kind):
            raise ImportError(f"{whose}, is a {type(loaded).__name__} and not a {kind.__name__}")
        found.append(loaded)
    return found
