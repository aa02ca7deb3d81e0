"""Redaction: texts that tenants read do not reveal folders on the servers' disks."""

import re
from typing import Any

_OURS = r"v1|docs|share|jobs|new|compare|try|fleet|static|healthz|metrics|openapi\.json"
_PATH = re.compile(rf"(?<![\w./:~…-])/(?!(?:{_OURS})\b)[^\s'\"<>|:;,()\[\]{{}}]*/([^\s/'\"<>|:;,()\[\]{{}}]*)")
"""An absolute path of at least two parts that is not a path of our API; its last part is kept."""


def redact_paths(value: Any) -> Any:
    """Return a JSON value without the folders of server paths: `/var/lib/x/y.json` becomes `…/y.json`."""
    if isinstance(value, str):
        return _PATH.sub(r"…/\1", value) if "/" in value else value
    if isinstance(value, dict):
        return {key: redact_paths(entry) for key, entry in value.items()}
    if isinstance(value, list):
        return [redact_paths(entry) for entry in value]
    return value
