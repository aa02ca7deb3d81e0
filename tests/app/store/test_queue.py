"""A wake-up reaches whoever it is for."""

import datetime as dt

import pytest
from celery.worker.request import Request

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
