"""Carry out the steps of operations: `Blocking` one at a time, `Awaiting` on an event loop.

The decorators make a method of both clients out of one definition: the blocking client returns its result, the other is
awaited for it.
"""

import asyncio
import functools
import inspect
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Coroutine, Iterator
from contextlib import aclosing
from types import GenericAlias, MethodType, TracebackType
from typing import Any, Concatenate, Generic, ParamSpec, Self, TypeVar, get_args, overload

import httpx

from client.core.protocol import Content, EventStream, Item, Listing, Pause, Peer, Request, Send, Steps, Stream

P = ParamSpec("P")
R = TypeVar("R")
S = TypeVar("S")
A = TypeVar("A")


class Blocking(Peer):
    """Sends one request at a time. Safe to share between threads."""

    def __init__(
        self, url: str, key: str | None = None, *, timeout: float = 60.0, attempts: int = 5, client: httpx.Client | None = None
    ) -> None:
        super().__init__(url, key, timeout=timeout, attempts=attempts)
        # Redirects are followed by hand (download.py), because a presigned URL must not see our key.
        self.http = client or httpx.Client(timeout=self.limit(), follow_redirects=False)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """Close all connections."""
        self.http.close()

    def _do(self, step: object) -> httpx.Response | httpx.TransportError | None:
        if isinstance(step, Send):
            try:
                return self.http.request(**step.options, content=step.content() if step.content else None)
            except httpx.TransportError as error:
                return error
        if isinstance(step, Pause):
            time.sleep(step.seconds)
        return None

    def _run(self, steps: Steps[R]) -> R:
        answer = None
        while True:
            try:
                step = steps.send(answer)
            except StopIteration as done:
                result: R = done.value
                return result
            answer = self._do(step)

    def _iterate(self, steps: Stream[R]) -> Iterator[R]:
        answer = None
        while True:
            try:
                step = steps.send(answer)
            except StopIteration:
                return
            answer = self._do(step)
            if isinstance(step, Item):
                yield step.value
            elif isinstance(step, EventStream):
                yield from self._events(step)

    def _events(self, stream: EventStream) -> Iterator[Any]:
        try:
            with self.http.stream(**stream.options) as response:
                if not response.is_success:
                    response.read()
                if stream.open(response):
                    for line in response.iter_lines():
                        if event := stream.feed(line):
                            yield event
        except httpx.TransportError:
            return  # the operation asks how the job is, and takes the stream up again


class Awaiting(Peer):
    """Sends on the running event loop."""

    def __init__(
        self,
        url: str,
        key: str | None = None,
        *,
        timeout: float = 60.0,
        attempts: int = 5,
        client: httpx.AsyncClient | None = None,
    ) -> None:
        super().__init__(url, key, timeout=timeout, attempts=attempts)
        self.http = client or httpx.AsyncClient(timeout=self.limit(), follow_redirects=False)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Close all connections."""
        await self.http.aclose()

    async def _do(self, step: object) -> httpx.Response | httpx.TransportError | None:
        if isinstance(step, Send):
            try:
                return await self.http.request(**step.options, content=_awaited(step.content) if step.content else None)
            except httpx.TransportError as error:
                return error
        if isinstance(step, Pause):
            await asyncio.sleep(step.seconds)
        return None

    async def _run(self, steps: Steps[R]) -> R:
        answer = None
        while True:
            try:
                step = steps.send(answer)
            except StopIteration as done:
                result: R = done.value
                return result
            answer = await self._do(step)

    async def _iterate(self, steps: Stream[R]) -> AsyncIterator[R]:
        answer = None
        while True:
            try:
                step = steps.send(answer)
            except StopIteration:
                return
            answer = await self._do(step)
            if isinstance(step, Item):
                yield step.value
            elif isinstance(step, EventStream):
                async with aclosing(self._events(step)) as events:
                    async for event in events:
                        yield event

    async def _events(self, stream: EventStream) -> AsyncGenerator[Any]:
        try:
            async with self.http.stream(**stream.options) as response:
                if not response.is_success:
                    await response.aread()
                if stream.open(response):
                    async for line in response.aiter_lines():
                        if event := stream.feed(line):
                            yield event
        except httpx.TransportError:
            return


async def _awaited(content: Content) -> AsyncIterator[bytes]:
    for chunk in content():
        yield chunk


class Operation(Generic[P, S, A]):
    """A method of both clients: gives an S from the blocking one and an A from the awaiting one."""

    def __init__(
        self, defined: Callable[..., Any], blocking: Callable[..., S], awaiting: Callable[..., A], results: tuple[Any, Any]
    ) -> None:
        self.functions = blocking, awaiting
        for function, result in zip(self.functions, results, strict=True):
            functools.update_wrapper(function, defined)
            function.__annotations__ = {**defined.__annotations__, "return": result}
            signature = inspect.signature(defined).replace(return_annotation=result)
            function.__signature__ = signature  # type: ignore[attr-defined]

    @overload
    def __get__(self, client: Blocking, owner: type) -> Callable[P, S]: ...
    @overload
    def __get__(self, client: Awaiting, owner: type) -> Callable[P, A]: ...
    @overload
    def __get__(self, client: None, owner: type) -> Callable[..., Any]: ...
    def __get__(self, client: Peer | None, owner: type) -> Callable[..., Any]:
        function = self.functions[issubclass(owner, Awaiting)]
        return function if client is None else MethodType(function, client)


def _result(defined: Callable[..., Any]) -> Any:
    """Return the R of a function that returns Request[R], Listing[R] or Steps[R]."""
    return get_args(inspect.get_annotations(defined)["return"])[-1]


def call(defined: Callable[Concatenate[Any, P], Request[R] | Steps[R]]) -> Operation[P, R, Coroutine[Any, Any, R]]:
    """Make a method that returns what the request or the steps bring."""

    def steps(client: Peer, *args: P.args, **kwargs: P.kwargs) -> Steps[R]:
        made = defined(client, *args, **kwargs)
        return made.steps(client) if isinstance(made, Request) else made

    def blocking(self: Blocking, *args: P.args, **kwargs: P.kwargs) -> R:
        return self._run(steps(self, *args, **kwargs))

    async def awaiting(self: Awaiting, *args: P.args, **kwargs: P.kwargs) -> R:
        return await self._run(steps(self, *args, **kwargs))

    return Operation(defined, blocking, awaiting, (_result(defined), _result(defined)))


def listed(defined: Callable[Concatenate[Any, P], Listing[R]]) -> Operation[P, list[R], Coroutine[Any, Any, list[R]]]:
    """Make a method that returns all items of a list."""

    def blocking(self: Blocking, *args: P.args, **kwargs: P.kwargs) -> list[R]:
        return list(self._iterate(defined(self, *args, **kwargs).steps(self)))

    async def awaiting(self: Awaiting, *args: P.args, **kwargs: P.kwargs) -> list[R]:
        return [item async for item in self._iterate(defined(self, *args, **kwargs).steps(self))]

    result = GenericAlias(list, (_result(defined),))
    return Operation(defined, blocking, awaiting, (result, result))


def iterated(defined: Callable[Concatenate[Any, P], Listing[R] | Stream[R]]) -> Operation[P, Iterator[R], AsyncIterator[R]]:
    """Make a method that yields what the list or the steps hand out."""

    def steps(client: Peer, *args: P.args, **kwargs: P.kwargs) -> Stream[R]:
        made = defined(client, *args, **kwargs)
        return made.steps(client) if isinstance(made, Listing) else made

    def blocking(self: Blocking, *args: P.args, **kwargs: P.kwargs) -> Iterator[R]:
        return self._iterate(steps(self, *args, **kwargs))

    def awaiting(self: Awaiting, *args: P.args, **kwargs: P.kwargs) -> AsyncIterator[R]:
        return self._iterate(steps(self, *args, **kwargs))

    first, *others = get_args(inspect.get_annotations(defined)["return"])
    item = get_args(get_args(first)[-1])[0] if others else first  # of Stream[R] and of Listing[R]
    return Operation(defined, blocking, awaiting, (Iterator[item], AsyncIterator[item]))  # type: ignore[valid-type]
