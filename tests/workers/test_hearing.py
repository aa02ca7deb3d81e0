"""A worker is deaf where work waits, it does nothing, and rings that were sent do not make it look; else it is not."""

import os
import subprocess
import sys

import pytest

from app.core.settings import Settings
from app.store.broker import JOBS, WakeUpSender
from workers.broker_watchdog import MAX_MISSED, BrokerWatchdog, ChildActivity

RING_SECONDS = Settings().ring_seconds


class World:
    """A worker's parent whose clock we hold. The bell sends nothing by itself: a test says when the broker took a ring."""

    def __init__(self) -> None:
        self.activity, self.bell = ChildActivity(), WakeUpSender(Settings())
        self.bell.thread = None
        self.now, self.work, self.broker = 100.0, True, True
        self.rings = 0
        self.watchdog = BrokerWatchdog(self.activity, self.bell, JOBS, RING_SECONDS, clock=lambda: self.now)
        self.bell.send_soon = self.send_soon  # type: ignore[method-assign]

    def send_soon(self, lane: str) -> None:
        assert lane == JOBS
        self.rings += 1
        self.bell.sent += self.broker

    def deaf_within(self, seconds: float, every: float = 3.0) -> float | None:
        """When it is found to be deaf, counted from now."""
        began = self.now
        while self.now - began < seconds:
            if self.watchdog.is_deaf(lambda: self.work):
                return self.now - began
            self.now += every
        return None


def test_rings_that_do_not_arrive_make_it_deaf_and_not_before() -> None:
    world = World()
    assert MAX_MISSED * RING_SECONDS <= world.deaf_within(600) <= 60
    assert world.rings == MAX_MISSED


def test_without_work_nobody_rings() -> None:
    world = World()
    world.work = False
    assert world.deaf_within(600) is None
    assert world.rings == 0


def test_a_broker_that_takes_no_ring_says_nothing_about_ears() -> None:
    world = World()
    world.broker = False
    assert world.deaf_within(600) is None
    assert world.rings > MAX_MISSED


def test_who_looks_is_not_deaf_though_work_goes_on_waiting() -> None:
    world = World()  # its rows may be locked, or others may be faster
    for _ in range(20):
        assert world.deaf_within(MAX_MISSED * RING_SECONDS - 3) is None
        with world.activity.at_work():
            pass


def test_who_is_at_work_is_not_asked_to_hear() -> None:
    world = World()
    with world.activity.at_work():
        assert not world.activity.idle
        assert world.deaf_within(600) is None
    assert world.activity.idle
    assert world.deaf_within(600) is not None


def test_who_looks_while_the_table_is_asked_is_not_deaf() -> None:
    world = World()

    def ask() -> bool:
        if world.bell.sent >= MAX_MISSED:
            with world.activity.at_work():
                pass
        return True

    while world.bell.sent < MAX_MISSED:
        assert not world.watchdog.is_deaf(ask)
        world.now += 3
    assert not world.watchdog.is_deaf(ask), "a wake-up arrived meanwhile"


@pytest.mark.parametrize("ends", ["well", "killed"])
def test_a_child_tells_its_parent(ends: str) -> None:
    script = f"""
import os, signal, time
from workers.broker_watchdog import ChildActivity
activity = ChildActivity()
first, second = os.pipe(), os.pipe()
child = os.fork()
if not child:
    with activity.at_work():
        os.write(first[1], b"x")
        os.read(second[0], 1)
    os._exit(0)
os.read(first[0], 1)
assert activity.polls == 1 and not activity.idle
os.kill(child, signal.SIGKILL) if {ends == "killed"} else os.write(second[1], b"x")
os.waitpid(child, 0)
assert activity.polls == 1 and activity.idle
"""
    subprocess.run([sys.executable, "-c", script], check=True, env={**os.environ}, timeout=120)
