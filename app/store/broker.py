"""Wake-ups for workers, through Celery. The table is the queue: a message says only that there is work.

A rollback wakes nobody, and a broken broker breaks no commit: messages leave from a thread of their own, after the
outermost commit, at most one at a time a lane. One that is lost costs a keeper's round and nothing else.
"""

import os
import threading
from typing import Any

import structlog
from celery import Celery
from sqlalchemy import event
from sqlalchemy.orm import Session

from app.core.settings import Settings, get_settings

JOBS, CHECKS = "jobs", "checks"
LANES = (JOBS, CHECKS)
"""A lane is a queue with workers of its own: the check of an upload never waits behind hours of training."""

MESSAGE_SECONDS = 3600.0
"""After which a message that nobody took is thrown away unread. The sender's clock says when, the worker's whether it is past:
one whose clock is further ahead hears no ring at all, so this is far more than clocks differ. It need not be less: the keeper
rings every few seconds while work waits, 720 messages in the hour, each of them one look at the table."""

log = structlog.get_logger()


def make_celery(settings: Settings) -> Celery:
    """Configure Celery as DESIGN asks: prefork, early ack, JSON only, no results, no prefetch."""
    app = Celery("lathe", broker=settings.broker_url)
    app.conf.update(
        accept_content=["json"],
        task_serializer="json",
        task_ignore_result=True,
        task_acks_late=False,
        task_create_missing_queues=True,
        task_default_queue=queue_name(JOBS),
        task_routes={task_name(lane): {"queue": queue_name(lane)} for lane in LANES},
        worker_prefetch_multiplier=1,
        worker_disable_prefetch=True,
        worker_concurrency=1,
        worker_send_task_events=False,
        worker_hijack_root_logger=False,
        worker_redirect_stdouts=False,
        broker_connection_retry_on_startup=True,
        broker_connection_max_retries=None,
        broker_transport_options={
            "socket_connect_timeout": 2,
            # The commands here answer in milliseconds. A connection that died without a word (a middlebox forgot it, the
            # broker's machine lost power) is given up after so long, by those that ring as by workers, whose BRPOP no
            # socket timeout watches: kombu drops it when its reply is overdue by the health check's interval.
            "socket_timeout": 5,
            "health_check_interval": 5,
            "socket_keepalive": True,
            "max_retries": 1,
            "interval_start": 0,
            "interval_step": 0.1,
            "interval_max": 0.1,
        },
    )
    return app


def task_name(lane: str) -> str:
    """Name of the Celery task that drains a lane."""
    return f"lathe.{lane}"


def queue_name(lane: str) -> str:
    """Name of the broker's list of a lane."""
    return f"lathe.{lane}"


class WakeUpSender:
    """Rings for a lane without ever making its caller wait. Rings that come while one is under way become one."""

    def __init__(self, settings: Settings) -> None:
        self.celery = make_celery(settings)
        self.pending: set[str] = set()
        self.condition = threading.Condition()
        self.thread: threading.Thread | None = None
        self.sent = 0
        self.lost = 0

    def send_soon(self, lane: str) -> None:
        """Ask for a wake-up; returns at once."""
        with self.condition:
            self.pending.add(lane)
            if self.thread is None:
                self.thread = threading.Thread(target=self._run, name="bell", daemon=True)
                self.thread.start()
            self.condition.notify()

    def send(self, lane: str) -> bool:
        """Send a wake-up from this thread; say whether the broker took it."""
        try:
            self.celery.send_task(
                task_name(lane), queue=queue_name(lane), retry=False, expires=MESSAGE_SECONDS, ignore_result=True
            )
        except Exception as error:
            self.lost += 1
            log.warning("wake_up_lost", lane=lane, error=str(error))
            return False
        self.sent += 1
        return True

    def _run(self) -> None:
        while True:
            with self.condition:
                while not self.pending:
                    self.condition.wait()
                lanes, self.pending = self.pending, set()
            for lane in lanes:
                self.send(lane)


_bell: WakeUpSender | None = None
_bell_lock = threading.Lock()


def wake_up_sender() -> WakeUpSender:
    """Return this process's bell."""
    global _bell
    with _bell_lock:
        if _bell is None:
            _bell = WakeUpSender(get_settings())
        return _bell


def _forget_bell() -> None:
    """In a forked child: the thread that rings stayed behind, so the child makes a bell of its own when it needs one."""
    global _bell, _bell_lock
    _bell, _bell_lock = None, threading.Lock()


os.register_at_fork(after_in_child=_forget_bell)


def wake_after_commit(session: Session, lane: str) -> None:
    """Tell a lane's workers that there is work, once its row is really there."""
    session.info.setdefault("wake", set()).add(lane)


@event.listens_for(Session, "after_commit")
def _ring(session: Session) -> None:
    if session.in_nested_transaction():
        return
    lanes: set[Any] = session.info.pop("wake", set())
    for lane in lanes:
        wake_up_sender().send_soon(lane)


@event.listens_for(Session, "after_rollback")
def _forget(session: Session) -> None:
    session.info.pop("wake", None)
