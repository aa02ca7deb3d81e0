"""The HTTP interface of a served model: POST /v1/predict, and what those who run it ask."""

import asyncio
import hmac
import ipaddress
import math
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

from pydantic import ValidationError
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route

from compression.schema.errors import CompressionError
from compression.schema.prediction import Served
from compression.schema.prediction_request import FILES, INPUTS, RowInputs, asked_for, unfit_input
from compression.schema.tasks import TASKS
from compression.serving import problems
from compression.serving.batcher import Anchors, Batcher, QueueFull
from compression.serving.batching import BatchRules
from compression.serving.metrics import Metrics
from compression.serving.problems import Problem
from compression.serving.served_model import ServedModel

BODY_SECONDS = 20.0
"""Time for a request's body to arrive."""
SHORT = 4096
"""Bytes of a body whose texts are encoded at once, in some tenths of a millisecond."""
READING = 2
"""Others that are read at a time: some kilobytes may be an image of 50 million pixels, of which several copies are held."""


@dataclass(frozen=True)
class Limits:
    """What a server accepts."""

    queue: int  #: rows that may wait; requests that may be open are twice as many
    body: int  #: bytes of a request
    key: str | None = None  #: that requests must carry; None: none need one


class Server:
    """A model behind its batcher, and the routes to it."""

    def __init__(self, model: ServedModel, rules: BatchRules, limits: Limits, anchors: Anchors | None = None) -> None:
        self.model, self.limits = model, limits
        self.metrics = Metrics(model)
        self.batcher = Batcher(
            model.run, rules, length=model.length, most_waiting=limits.queue, anchors=anchors, heard=self.metrics.ran
        )
        self.open, self.reading = 0, asyncio.Semaphore(READING)
        self.short_texts = not FILES & set(TASKS[model.task].asks)  # a small file may be a large image

    def app(self) -> Starlette:
        """Return the ASGI application. Its lifespan starts the batcher, and drains it."""

        @asynccontextmanager
        async def lifespan(_: Starlette) -> AsyncIterator[None]:
            async with self.batcher:
                yield

        routes = [
            Route("/v1/predict", self.predict, methods=["POST"]),
            Route("/metrics", self.show_metrics),
            Route("/healthz", self.healthy),
            Route("/readyz", self.ready),
        ]
        handlers = {Problem: _problem, CompressionError: _unreadable, HTTPException: _refused, Exception: _failed}
        return Starlette(routes=routes, lifespan=lifespan, exception_handlers=handlers)

    async def predict(self, request: Request) -> Response:
        """Predict one row: the inputs that the task reads, as JSON."""
        status = 500
        try:
            found = await self._predict(request)
            status = found.status_code
        except Problem as problem:
            status = problem.kind.status
            raise
        except CompressionError:
            status = 422
            raise
        except ClientDisconnect:
            status = 499
            return Response(status_code=status)  # nobody reads it
        finally:
            self.metrics.requests.labels(str(status)).inc()
        return found

    async def _predict(self, request: Request) -> Response:
        self._check_key(request)
        # Before the body is read: open requests hold one each, and those that wait are among them.
        if self.open >= 2 * self.limits.queue:
            raise _busy(0.0)
        self.open += 1
        try:
            body = await self._body(request)
            started = time.perf_counter()
            given = self._checked(request, body)
            if len(body) <= SHORT and self.short_texts:
                row, asked = self.model.encode(given)
            else:  # on a thread, which is not worth its switches for a short text
                async with self.reading:
                    row, asked = await asyncio.to_thread(self.model.encode, given)
            if len(asked.windows) > self.limits.queue:
                cause = f"it is read in {len(asked.windows)} windows, and the queue has room for {self.limits.queue}"
                raise Problem(problems.INVALID, cause, next(reversed(TASKS[self.model.task].asks)))
            try:
                done = await self.batcher.answer(asked.windows)
            except QueueFull as full:
                raise _busy(full.seconds) from full
            found = self.model.predicted(row, asked, done.logits)
            seconds = time.perf_counter() - started
        finally:
            self.open -= 1
        self.metrics.seconds.observe(seconds)
        served = Served(**found, milliseconds=seconds * 1000, batch=done.rows, runtime=self.model.runner.name)
        return Response(served.model_dump_json(), media_type="application/json")

    def _check_key(self, request: Request) -> None:
        if self.limits.key is None:
            if not _is_here(host := request.url.hostname or ""):
                cause = f"a server without a key answers to 127.0.0.1 and localhost, not to {host[:200]!r}"
                raise Problem(problems.UNAUTHORIZED, f"{cause}; LATHE_SERVE_KEY sets a key")
            return
        scheme, _, sent = request.headers.get("authorization", "").partition(" ")
        if scheme.lower() != "bearer" or not hmac.compare_digest(sent.strip().encode(), self.limits.key.encode()):
            raise Problem(problems.UNAUTHORIZED, "the key is missing or wrong", headers={"WWW-Authenticate": "Bearer"})

    async def _body(self, request: Request) -> bytes:
        """Read the body, within its limits of bytes and time."""
        most = self.limits.body
        declared = request.headers.get("content-length", "")
        if declared.isdigit() and int(declared) > most:
            raise Problem(problems.TOO_LARGE, f"the body has {declared} bytes; the limit is {most}")
        parts, size = [], 0
        try:
            async with asyncio.timeout(BODY_SECONDS):
                async for part in request.stream():
                    size += len(part)
                    if size > most:
                        raise Problem(problems.TOO_LARGE, f"the body is longer than the limit of {most} bytes")
                    parts.append(part)
        except TimeoutError as problem:
            cause = f"the body did not arrive within {BODY_SECONDS:g} s"
            raise Problem(problems.TIMEOUT, cause, headers={"Connection": "close"}) from problem
        return b"".join(parts)

    def _checked(self, request: Request, body: bytes) -> RowInputs:
        """Parse a body, whose inputs must be those of the task."""
        # A page of another site can send other types without asking first.
        if request.headers.get("content-type", "").partition(";")[0].strip().lower() != "application/json":
            raise Problem(problems.INVALID, "the body is not declared as application/json", "content-type")
        try:
            given = RowInputs.model_validate_json(body)
        except ValidationError as error:
            raise problems.of_fields(error) from error
        task = self.model.task
        named = {name for name in INPUTS if getattr(given, name) is not None}
        wanted = asked_for(task, paired=TASKS[task].pair in named if self.model.pairs is None else self.model.pairs)
        if (param := unfit_input(task, wanted, named)) is not None:
            raise Problem(problems.INVALID, f"{task} is asked by {' and '.join(wanted)}", param)
        return given

    async def show_metrics(self, request: Request) -> Response:
        """Show the metrics."""
        self._check_key(request)
        return self.metrics.shown(self.batcher, self.open)

    async def healthy(self, _: Request) -> Response:
        """Say that the process answers."""
        return Response("ok\n", media_type="text/plain")

    async def ready(self, _: Request) -> Response:
        """Say whether requests are taken."""
        alive = self.batcher.alive
        return Response("ready\n" if alive else "not ready\n", 200 if alive else 503, media_type="text/plain")


def _is_here(host: str) -> bool:
    """Return whether a Host header names an address or this machine: a page of another site can have its own name resolve to
    127.0.0.1, and would read what is answered to that name.
    """
    try:
        return bool(ipaddress.ip_address(host))
    except ValueError:
        return host == "localhost" or host.endswith(".localhost")


def _busy(seconds: float) -> Problem:
    cause = "too many rows wait for their turn"
    return Problem(problems.BUSY, cause, headers={"Retry-After": str(max(1, math.ceil(seconds)))})


async def _problem(_: Request, error: Exception) -> Response:
    assert isinstance(error, Problem)  # noqa: S101 (registered for it)
    return problems.answer(error)


async def _unreadable(_: Request, error: Exception) -> Response:
    assert isinstance(error, CompressionError)  # noqa: S101
    return problems.answer(problems.of_error(error))


async def _failed(_: Request, __: Exception) -> Response:
    return problems.answer(Problem(problems.INTERNAL, "an unexpected error occurred"))  # uvicorn logs it


async def _refused(_: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)  # noqa: S101
    kind = problems.METHOD if error.status_code == problems.METHOD.status else problems.NOT_FOUND
    return problems.answer(Problem(kind, str(error.detail), headers=error.headers or {}))
