"""What tenants do not learn of the machines: paths on their disks, and which host and process works where."""

import re
from typing import Any, Protocol

from app.store.models import ADMIN

_OURS = r"v1|docs|share|jobs|new|compare|try|fleet|static|healthz|metrics|openapi\.json"
_PATH = re.compile(rf"(?<![\w./:~…-])/(?!(?:{_OURS})\b)[^\s'\"<>|:;,()\[\]{{}}]*/([^\s/'\"<>|:;,()\[\]{{}}]*)")
"""An absolute path of at least two parts that is no address of ours; its last part is kept."""


class Scoped(Protocol):
    """A caller or a visitor."""

    @property
    def scope(self) -> str: ...  # noqa: D102

    @property
    def operator(self) -> bool: ...  # noqa: D102


def sees_hosts(caller: Scoped) -> bool:
    """Say whether a caller runs the service, and may know its hosts and processes; everybody else is a tenant."""
    return caller.scope == ADMIN and caller.operator


def redact_paths(value: Any) -> Any:
    """Return a JSON value with the folders left out of every path on a server's disk: `/var/lib/x/y.json` is `…/y.json`."""
    if isinstance(value, str):
        return _PATH.sub(r"…/\1", value) if "/" in value else value
    if isinstance(value, dict):
        return {key: redact_paths(entry) for key, entry in value.items()}
    if isinstance(value, list):
        return [redact_paths(entry) for entry in value]
    return value
