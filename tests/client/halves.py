"""Both clients behind one face, so that one story is told of each."""

import asyncio
import inspect
from collections.abc import AsyncIterator, Iterator
from typing import Any, Self

from client.api import AsyncLathe, Lathe


class Awaited:
    """An AsyncLathe that a test uses as a Lathe: what it returns is awaited, what it yields is drawn item by item."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        self.loop, self.lathe = asyncio.new_event_loop(), AsyncLathe(*arguments, **options)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.loop.run_until_complete(self.lathe.aclose())
        self.loop.close()

    def __getattr__(self, name: str) -> Any:
        found = getattr(self.lathe, name)
        return (lambda *args, **kwargs: self._done(found(*args, **kwargs))) if callable(found) else found

    def _done(self, made: Any) -> Any:
        if inspect.isawaitable(made):
            return self.loop.run_until_complete(made)
        return self._drawn(made) if isinstance(made, AsyncIterator) else made

    def _drawn(self, items: AsyncIterator[Any]) -> Iterator[Any]:
        while True:
            try:
                yield self.loop.run_until_complete(anext(items))
            except StopAsyncIteration:
                return


HALVES = {"sync": Lathe, "async": Awaited}
