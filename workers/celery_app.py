"""The Celery application of the workers, and what happens when one starts, forks and stops."""

import ctypes
import os
import signal
from typing import Any

from celery import signals

from app.core.settings import get_settings
from app.store import broker, db
from workers.broker_watchdog import ChildActivity
from workers.device_probe import wake_up_target
from workers.folders import sweep
from workers.registration import Registration

PR_SET_PDEATHSIG = 1
LANE = os.environ.get("LATHE_LANE", broker.JOBS)

app = broker.make_celery(get_settings())
app.conf.imports = ("workers.tasks",)
child_activity = ChildActivity()
_registration: Registration | None = None


@signals.worker_init.connect
def _starting(**_: Any) -> None:
    global _registration
    settings = get_settings()
    sweep(settings.scratch)
    _registration = Registration(LANE, settings, child_activity)
    _registration.register()
    db.get_engine().dispose()  # children are forked from here and must not share a connection


@signals.worker_ready.connect
def _ready(**_: Any) -> None:
    if _registration is not None:
        _registration.start()
    # Work may have waited for the first worker.
    broker.wake_up_sender().send_soon(wake_up_target(LANE, get_settings()))


@signals.worker_process_init.connect
def _forked(**_: Any) -> None:
    # A child would outlive a killed parent, and go on under a lease that nobody renews: let it die with the parent.
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    db.get_engine().dispose(close=False)
    db.get_engine.cache_clear()
    sweep(get_settings().scratch)  # what the previous child left, if it was killed


@signals.worker_shutting_down.connect
def _stopping(**_: Any) -> None:
    if _registration is not None:
        _registration.drain()
