"""Load on what answers one row: so many clients that wait for their answers, or rows that come at random times."""

import asyncio
import json
import math
import random
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass

Ask = Callable[[], Awaitable[None]]
PATIENCE = 5  #: times the target that late answers are waited for after the last row came
TRIES = 3  #: runs of one rate at most


@dataclass(frozen=True)
class Load:
    """The answers to a load."""

    rate: float  #: answers a second
    median_ms: float
    p99_ms: float  #: infinite if one row in a hundred was not answered

    @classmethod
    def of(cls, took: list[float], missing: int, seconds: float) -> "Load":
        """Summarize the seconds of each answer, and how many are missing."""
        every = sorted(took) + [math.inf] * missing or [math.inf]
        return cls(len(took) / seconds, 1000 * every[len(every) // 2], 1000 * every[int(0.99 * len(every))])


async def closed(ask: Ask, clients: int, seconds: float) -> Load:
    """Keep `clients` rows on their way."""
    took: list[float] = []
    started = time.perf_counter()

    async def client() -> None:
        began = started
        while began < started + seconds:
            await ask()
            ended = time.perf_counter()
            took.append(ended - began)
            began = ended

    await asyncio.gather(*(client() for _ in range(clients)))
    return Load.of(took, 0, time.perf_counter() - started)


async def arriving(ask: Ask, rate: float, seconds: float, target: float, seed: int = 0) -> Load:
    """Send `rate` rows a second at random times, whatever is answered. A row's time counts from when it was due.

    target: seconds that an answer may take.
    """
    draw, took = random.Random(seed), list[float]()

    async def one(due: float) -> None:
        await ask()
        took.append(time.perf_counter() - due)

    tasks, started = [], time.perf_counter()
    due = started + draw.expovariate(rate)
    while due < started + seconds:
        if (pause := due - time.perf_counter()) > 0:
            await asyncio.sleep(pause)
        tasks.append(asyncio.create_task(one(due)))
        due += draw.expovariate(rate)
    if tasks:
        _, late = await asyncio.wait(tasks, timeout=PATIENCE * target)
        for task in late:
            task.cancel()
        for task in tasks:
            with suppress(asyncio.CancelledError):
                await task
    return Load.of(took, len(tasks) - len(took), time.perf_counter() - started)


async def capacity(ask: Ask, top: float, target: float, seconds: float, steps: int) -> Load:
    """Return the load at the highest rate whose 99th percentile is within `target` seconds, found by halving below `top`.

    A rate passes if two of three runs do: one pause of the machine makes a hundredth of a few seconds' rows late.
    """
    low, best = 0.0, Load(0.0, math.inf, math.inf)
    for step in range(steps):
        rate = (low + top) / 2
        runs: list[Load] = []
        while len(runs) < TRIES and not _decided(runs, target):
            runs.append(await arriving(ask, rate, seconds, target, seed=TRIES * step + len(runs)))
        if (middle := sorted(runs, key=lambda run: run.p99_ms)[len(runs) // 2]).p99_ms <= 1000 * target:
            low, best = rate, middle
        else:
            top = rate
    return best


def _decided(runs: list[Load], target: float) -> bool:
    """Return whether most of TRIES runs passed, or failed."""
    passed = sum(run.p99_ms <= 1000 * target for run in runs)
    return max(passed, len(runs) - passed) > TRIES // 2


class Connections:
    """Sends one prepared request over HTTP, on as many connections as there are answers to wait for."""

    def __init__(self, port: int, path: str, body: dict[str, str]) -> None:
        self.port, self.idle = port, list[tuple[asyncio.StreamReader, asyncio.StreamWriter]]()
        sent = json.dumps(body).encode()
        head = f"POST {path} HTTP/1.1\r\nHost: bench\r\nContent-Type: application/json\r\nContent-Length: {len(sent)}\r\n\r\n"
        self.request = head.encode() + sent

    async def ask(self) -> None:
        """Send the request and read the answer. Raises SystemExit for any status but 200."""
        reader, writer = await self._connection()
        try:
            writer.write(self.request)
            head = (await reader.readuntil(b"\r\n\r\n")).lower()
            await reader.readexactly(int(head.split(b"content-length:")[1].split(b"\r\n")[0]))
        except BaseException:
            writer.close()  # the rest of an answer that was given up is not read
            raise
        if not head.startswith(b"http/1.1 200"):
            raise SystemExit(f"not a 200: {head!r}")
        self.idle.append((reader, writer))

    async def _connection(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        while self.idle:
            reader, writer = self.idle.pop()
            if not reader.at_eof():
                return reader, writer
            writer.close()  # the server closed it: nothing was asked on it for some seconds
        return await asyncio.open_connection("127.0.0.1", self.port)

    def close(self) -> None:
        """Close all connections."""
        for _, writer in self.idle:
            writer.close()
