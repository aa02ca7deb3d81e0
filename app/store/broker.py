"""Wake-ups for workers, through Celery. The table is the queue: a message only says that there is work.

A rollback sends nothing, and a broken broker fails no commit: messages leave from a separate thread, after the outermost
commit, at most one at a time per lane. A lost message delays the work until the keeper's next round, and no more.
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
"""A lane is a queue with its own workers: checking an upload never waits behind hours of training."""
GPU_JOBS = f"{JOBS}.cuda"
"""Wake-ups of the GPU workers of the lane `jobs`: a CPU worker that took one would leave a GPU's job waiting. Nobody takes them
where there is no such worker, so they are sent only if one lives."""

MESSAGE_SECONDS = 3600.0
"""A message that no worker took is discarded after so long. The sender's clock sets the time, the worker's clock checks it: a
worker whose clock is too far ahead would get no message, and an hour is far more than clocks differ. It need not be less: each
costs one look at the table."""
MOST_WAITING = 100
"""Messages of a queue beyond which none is sent: whoever comes finds enough to look. While work waits and its workers are busy,
or there are none, the keeper sends 720 an hour, and only a worker discards old ones: they would fill the broker."""

log = structlog.get_logger()


def make_celery(settings: Settings) -> Celery:
    """Configure Celery: prefork, early ack, JSON only, no results, no prefetch."""
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
        worker_enable_remote_control=False,  # whoever reaches the broker could stop all workers
        worker_send_task_events=False,
        worker_hijack_root_logger=False,
        worker_redirect_stdouts=False,
        broker_connection_retry_on_startup=True,
        broker_connection_max_retries=None,
        broker_transport_options={
            "socket_connect_timeout": 2,
            # These commands take milliseconds. A connection that died silently (dropped by a middlebox, or by a power cut of
            # the broker's machine) is closed after so long, by senders as by workers. A worker's BRPOP has no socket timeout:
            # kombu closes the connection if its reply is overdue by the health check's interval.
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


def task_name(target: str) -> str:
    """Return the name of the Celery task that drains a lane; GPU_JOBS is of the lane `jobs`."""
    return f"lathe.{target.partition('.')[0]}"


def queue_name(target: str) -> str:
    """Return the name of the list in the broker for a lane's wake-ups, or for GPU_JOBS."""
    return f"lathe.{target}"


class WakeUpSender:
    """Sends wake-ups for a lane without blocking the caller. Requests during a send are merged into one."""

    def __init__(self, settings: Settings) -> None:
        self.celery = make_celery(settings)
        self.pending: set[str] = set()
        self.condition = threading.Condition()
        self.thread: threading.Thread | None = None
        self.sent = 0
        self.lost = 0

    def send_soon(self, lane: str) -> None:
        """Request a wake-up; return at once."""
        with self.condition:
            self.pending.add(lane)
            if self.thread is None:
                self.thread = threading.Thread(target=self._run, name="wake-ups", daemon=True)
                self.thread.start()
            self.condition.notify()

    def send(self, lane: str) -> bool:
        """Send a wake-up from this thread; return whether the broker accepted it, or has enough of them."""
        queue, options = queue_name(lane), {"retry": False, "expires": MESSAGE_SECONDS, "ignore_result": True}
        try:
            with self.celery.producer_or_acquire() as producer:
                if producer.channel.queue_declare(queue).message_count < MOST_WAITING:
                    self.celery.send_task(task_name(lane), queue=queue, producer=producer, **options)
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


_sender: WakeUpSender | None = None
_sender_lock = threading.Lock()


def wake_up_sender() -> WakeUpSender:
    """Return this process's sender."""
    global _sender
    with _sender_lock:
        if _sender is None:
            _sender = WakeUpSender(get_settings())
        return _sender


def _forget_sender() -> None:
    """In a forked child the sending thread does not exist, so the child creates its own sender when it needs one."""
    global _sender, _sender_lock
    _sender, _sender_lock = None, threading.Lock()


os.register_at_fork(after_in_child=_forget_sender)


def wake_after_commit(session: Session, lane: str) -> None:
    """Wake a lane's workers once the transaction has committed."""
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
