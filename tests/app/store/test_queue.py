"""A wake-up reaches whoever it is for."""

import datetime as dt

import pytest
from celery.worker.request import Request
from redis import Redis

from app.core.settings import Settings
from app.store import broker


def test_a_worker_whose_clock_is_half_an_hour_ahead_hears_the_bell(monkeypatch: pytest.MonkeyPatch) -> None:
    bell = broker.WakeUpSender(Settings(broker_url="memory://"))

    @bell.celery.task(name=broker.task_name(broker.JOBS))
    def drain() -> None: ...

    assert bell.send(broker.JOBS)
    with bell.celery.connection_for_read() as connection:
        (message,) = [connection.SimpleQueue(broker.queue_name(broker.JOBS)).get(timeout=10)]
        request = Request(message, app=bell.celery, task=drain, decoded=False)

    class Theirs(dt.datetime):
        @classmethod
        def now(cls, tz: dt.tzinfo | None = None) -> "Theirs":
            return super().now(tz) + dt.timedelta(minutes=30)

    monkeypatch.setattr("celery.worker.request.datetime", Theirs)
    assert not request.maybe_expire()


def test_workers_take_no_commands_from_the_broker() -> None:
    assert broker.make_celery(Settings(broker_url="memory://")).conf.worker_enable_remote_control is False


def test_wake_ups_that_nobody_takes_do_not_fill_the_broker(valkey: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(broker, "MOST_WAITING", 5)
    bell, queue = broker.WakeUpSender(Settings(broker_url=valkey)), broker.queue_name(broker.GPU_JOBS)
    with Redis.from_url(valkey) as client:
        client.delete(queue)
        assert all(bell.send(broker.GPU_JOBS) for _ in range(20))
        assert client.llen(queue) == 5
        assert (bell.sent, bell.lost) == (20, 0)  # a worker that is deaf finds out by those that the broker has
        client.lpop(queue, 4)
        bell.send(broker.GPU_JOBS)
        assert client.llen(queue) == 2
        client.delete(queue)
