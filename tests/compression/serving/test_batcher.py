"""Requests share batches, each gets its own answer, and none waits for ever."""

import asyncio
import threading
import time
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from compression.modalities.scoring.base import Floats
from compression.serving.batcher import Answered, Batcher, QueueFull, Ran
from compression.serving.batching import BatchRules

RULES = BatchRules(most=8, target=0.05)
ANCHORS = {8: {1: 0.005, 8: 0.006}, 16: {1: 0.005, 8: 0.006}}
"""Rows that cost almost nothing in a batch of others."""


def slow() -> float:
    """Return a clock's seconds to which a pause of the machine is no part of what a batch takes."""
    return time.perf_counter() / 1000


class Model:
    """Doubles a row's first number, once the test lets it."""

    def __init__(self, *, held: bool = False) -> None:
        self.batches: list[list[Any]] = []
        self.go, self.entered = threading.Event(), threading.Event()
        if not held:
            self.go.set()

    def __call__(self, windows: Sequence[Any]) -> Sequence[Floats]:
        self.entered.set()
        self.go.wait(30)
        self.batches.append(list(windows))
        if any(window[0] < 0 for window in windows):
            raise ArithmeticError("a negative row")
        return [np.array([2 * window[0]], np.float32) for window in windows]


def row(number: int, length: int = 4) -> list[int]:
    return [number] * length


async def begun(batcher: Batcher, model: Model) -> "asyncio.Task[Answered]":
    """Ask for row 0 and return once the model has begun with it: all that comes now waits."""
    task = asyncio.create_task(batcher.answer([row(0)]))
    assert await asyncio.to_thread(model.entered.wait, 30)
    return task


async def until(batcher: Batcher, waiting: int) -> None:
    """Wait until so many rows wait."""
    async with asyncio.timeout(30):
        while batcher.waiting != waiting:  # noqa: ASYNC110 (there is no event of it)
            await asyncio.sleep(0)


def test_rows_that_come_during_a_batch_share_the_next_ones() -> None:
    model, heard = Model(held=True), list[Ran]()

    async def story() -> list[float]:
        async with Batcher(model, RULES, anchors=ANCHORS, heard=heard.append, clock=slow) as batcher:
            first = await begun(batcher, model)
            others = [asyncio.create_task(batcher.answer([row(number)])) for number in range(1, 21)]
            await until(batcher, 20)
            model.go.set()
            answers = await asyncio.gather(first, *others)
            assert [one.rows for one in answers] == [1] + 16 * [8] + 4 * [4]
            return [float(one.logits[0][0]) for one in answers]

    assert asyncio.run(story()) == [2.0 * number for number in range(21)]
    assert [len(batch) for batch in model.batches] == [ran.rows for ran in heard] == [1, 8, 8, 4]
    assert all(len(ran.waits) == ran.rows and min(ran.waits) >= 0 for ran in heard)


def test_rows_of_like_length_are_computed_together_and_the_oldest_group_first() -> None:
    model = Model(held=True)

    async def story() -> None:
        async with Batcher(model, RULES, anchors=ANCHORS, clock=slow) as batcher:
            first = await begun(batcher, model)
            tasks = [asyncio.create_task(batcher.answer([row(number, 16 if number % 2 else 5)])) for number in range(1, 9)]
            await until(batcher, 8)
            model.go.set()
            await asyncio.gather(first, *tasks)

    asyncio.run(story())
    assert [[len(window) for window in batch] for batch in model.batches[1:]] == [[16] * 4, [5] * 4]


def test_a_request_of_several_windows_gets_them_in_order() -> None:
    async def story() -> list[float]:
        async with Batcher(Model(), RULES, anchors=ANCHORS) as batcher:
            found = await batcher.answer([row(5), row(1, 16), row(3)])
            return [float(logits[0]) for logits in found.logits]

    assert asyncio.run(story()) == [10, 2, 6]


def test_a_row_that_cannot_be_computed_fails_alone() -> None:
    model = Model(held=True)

    async def story() -> list[Any]:
        async with Batcher(model, RULES, anchors=ANCHORS) as batcher:
            first = await begun(batcher, model)
            tasks = [asyncio.create_task(batcher.answer([row(number)])) for number in (1, -1, 2)]
            await until(batcher, 3)
            model.go.set()
            await first
            found = await asyncio.gather(*tasks, return_exceptions=True)
            assert (await batcher.answer([row(4)])).logits[0][0] == 8
            return found

    one, bad, two = asyncio.run(story())
    assert isinstance(bad, ArithmeticError)
    assert (one.logits[0][0], two.logits[0][0]) == (2, 4)


@pytest.mark.parametrize("most", [1, 8])
def test_a_request_all_of_whose_windows_fail_stops_no_later_one(most: int) -> None:
    async def story() -> float:
        async with Batcher(Model(), BatchRules(most=most, target=0.05), anchors=ANCHORS) as batcher, asyncio.timeout(30):
            with pytest.raises(ArithmeticError):
                await batcher.answer([row(-1), row(-2)])
            return float((await batcher.answer([row(4)])).logits[0][0])

    assert asyncio.run(story()) == 8


def test_nothing_is_taken_once_rows_are_no_longer_run() -> None:
    def broken(_: Ran) -> None:
        raise ZeroDivisionError

    async def story() -> None:
        async with Batcher(Model(), RULES, anchors=ANCHORS, heard=broken) as batcher, asyncio.timeout(30):
            asking = asyncio.create_task(batcher.answer([row(1)]))
            while batcher.alive:  # noqa: ASYNC110 (there is no event of it)
                await asyncio.sleep(0)
            asking.cancel()
            with pytest.raises(QueueFull):
                await batcher.answer([row(2)])

    with pytest.raises(ZeroDivisionError):
        asyncio.run(story())


def test_a_full_queue_refuses_and_says_for_how_long() -> None:
    model = Model(held=True)

    async def story() -> None:
        async with Batcher(model, RULES, most_waiting=3, anchors=ANCHORS) as batcher:
            first = await begun(batcher, model)
            waiting = asyncio.create_task(batcher.answer([row(1), row(2)]))
            await until(batcher, 2)
            with pytest.raises(QueueFull) as full:
                await batcher.answer([row(3), row(4)])
            assert full.value.seconds == pytest.approx(0.01, rel=0.05)
            model.go.set()
            await asyncio.gather(first, waiting)
            assert (await batcher.answer([row(3), row(4)])).logits[1][0] == 8

    asyncio.run(story())


def test_what_was_given_up_is_not_computed() -> None:
    model = Model(held=True)

    async def story() -> None:
        async with Batcher(model, RULES, anchors=ANCHORS) as batcher:
            first = await begun(batcher, model)
            gone, kept = (asyncio.create_task(batcher.answer([row(number)])) for number in (1, 2))
            await until(batcher, 2)
            gone.cancel()
            model.go.set()
            await asyncio.gather(first, kept)

    asyncio.run(story())
    assert model.batches == [[row(0)], [row(2)]]


def test_what_waits_at_the_end_is_answered_and_nothing_else_is_taken() -> None:
    model = Model(held=True)

    async def story() -> None:
        batcher = Batcher(model, RULES, anchors=ANCHORS)
        async with batcher:
            tasks = [await begun(batcher, model)]
            tasks += [asyncio.create_task(batcher.answer([row(number)])) for number in range(1, 12)]
            await until(batcher, 11)
            assert batcher.alive
            asyncio.get_running_loop().call_later(0.01, model.go.set)
        assert not batcher.alive
        assert [float(one.logits[0][0]) for one in await asyncio.gather(*tasks)] == [2.0 * number for number in range(12)]
        with pytest.raises(QueueFull):
            await batcher.answer([row(1)])

    asyncio.run(story())
