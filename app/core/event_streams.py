"""Counts open event streams by key and by team, in this process, and limits them."""

import threading
from collections import Counter
from collections.abc import AsyncIterable, Mapping
from typing import Any

from fastapi.sse import EventSourceResponse
from starlette.types import Receive, Scope, Send

from app.core.errors import TooManyStreams

_open: Counter[str] = Counter()
_lock = threading.Lock()


def count_streams(owner: str) -> int:
    """Return how many streams of a key or a team are open in this process."""
    return _open[owner]


class CountedStream(EventSourceResponse):
    """A stream that counts for its key and its team until it ends. Raises TooManyStreams if either has too many."""

    def __init__(self, content: AsyncIterable[Any], owners: Mapping[str, int], headers: Mapping[str, str]) -> None:
        with _lock:
            for owner, most in owners.items():
                if _open[owner] >= most:
                    quota = {
                        "name": "streams",
                        "limit": most,
                        "used": _open[owner],
                        "frees": "close a stream",
                        "frees_at": None,
                    }
                    raise TooManyStreams(f"{_open[owner]} streams are open, and {most} may be", facts={"quota": quota})
            self.owners = tuple(owners)
            _open.update(self.owners)
        super().__init__(content, headers=dict(headers))

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the stream, and stop counting it when it ends."""
        try:
            await super().__call__(scope, receive, send)
        finally:
            with _lock:
                for owner in self.owners:
                    _open[owner] -= 1
                    if not _open[owner]:
                        del _open[owner]
