"""What `lathe up` reads of its workers' settings: as workers do, in its environment and in the home's `.env`."""

import sys
from pathlib import Path

import pytest

from client.embedded import processes
from client.embedded.processes import Watchdog
from client.embedded.up import Plan, environment, locked, python_parts
from client.embedded.worker_settings import read_settings
from client.errors import CannotStart
from tests.conftest import wait_for
from workers.start_settings import MARGIN

DEAF = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('ready', flush=True); time.sleep(600)"


class Clock:
    """A clock on which a second passes at each look at it, and that waits for nothing."""

    def __init__(self) -> None:
        self.now = 0.0

    def monotonic(self) -> float:
        self.now += 1.0
        return self.now

    def sleep(self, _seconds: float) -> None:
        """Return at once."""


@pytest.fixture
def plan(tmp_path: Path) -> Plan:
    return Plan(tmp_path, "127.0.0.1", 1, f"sqlite:///{tmp_path / 'lathe.db'}", None, 2)


def test_workers_are_killed_only_once_the_graces_of_their_settings_are_over(
    plan: Plan, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LATHE_CANCEL_GRACE_SECONDS", "20")
    (plan.home / ".env").write_text("LATHE_DRAIN_GRACE_SECONDS=100\nLATHE_HEARTBEAT_SECONDS=2\n")
    env = environment(plan, "")
    (_, workers, _) = python_parts(plan, read_settings(plan.home, env), env, plan.home)
    deaf = [part for part in workers if part.name.startswith("jobs-")]
    assert len(deaf) == 2
    with locked(plan.home) as lock:
        dog = Watchdog(env, plan.home, lock)
        try:
            for part in deaf:
                part.command = [sys.executable, "-c", DEAF]
                part.start(dog)
            wait_for(lambda: all("ready" in part.last_words() for part in deaf))
            clock = Clock()
            monkeypatch.setattr(processes, "time", clock)
            for part in deaf:
                part.ask_to_stop()
            for part in deaf:
                assert part.alive
                part.stop(lambda: False)
        finally:
            dog.close()
    assert not any(part.alive for part in deaf)
    assert 0 <= clock.now - (2 + 100 + 20 + MARGIN) < 10  # both together: they were asked together


def test_a_setting_that_is_wrong_is_named_before_anything_starts(plan: Plan) -> None:
    (plan.home / ".env").write_text("LATHE_DRAIN_GRACE_SECONDS=long\n")
    with pytest.raises(CannotStart, match="LATHE_DRAIN_GRACE_SECONDS: Input should be a valid number") as refused:
        read_settings(plan.home, environment(plan, ""))
    assert str(plan.home / ".env") in refused.value.remedy_text
    assert "long" not in refused.value.cause
