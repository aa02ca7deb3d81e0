"""Outages: what keeps a worker from doing its part, and is no fault of the job or the upload in hand."""

import io
import time
from contextlib import suppress

import structlog
from obstore.exceptions import BaseError
from sqlalchemy import update

from app.core.settings import Settings
from app.store.clock import now
from app.store.db import writing
from app.store.models import Worker
from app.store.storage import Storage
from workers.lease import AWAY
from workers.limits import InsufficientDisk

log = structlog.get_logger()
TRIED = ".health/worker"
"""Key of the object that a worker writes to try the storage; of all workers the same, so that killed ones leave one at most."""
RESTS = 12
"""Seconds of a rest for each second of LATHE_BACKOFF_SECONDS: a minute, if that is not set."""


def find_storage_fault(storage: Storage) -> str | None:
    """Return why storage takes no write, or None if it takes one."""
    try:
        storage.put_file(TRIED, io.BytesIO(bytes(4096)))
        storage.delete(TRIED)
    except Exception as error:  # any failure of any storage means the same here
        return type(error).__name__
    return None


def is_outage(error: Exception, storage: Storage) -> bool:
    """Return whether an error says that a disk, the storage or the database failed, and not the work."""
    if isinstance(error, FileNotFoundError):  # one file is lost, or all of them, as in a folder that is not mounted
        return find_storage_fault(storage) is not None
    return isinstance(error, (OSError, BaseError, InsufficientDisk, *AWAY))


class Rest:
    """The time for which a worker claims nothing, so that it does not take every waiting job in vain, one after the other."""

    def __init__(self) -> None:
        self.until = 0.0

    def begin(self, settings: Settings, reason: str, worker_id: str) -> None:
        """Rest from now on, and say so in the worker's row if the database is there."""
        seconds = RESTS * settings.backoff_seconds
        self.until = time.monotonic() + seconds
        log.warning("worker_rests", reason=reason, seconds=seconds)
        with suppress(*AWAY), writing() as session:
            told = {"rests_until": now(seconds), "rest_reason": reason}
            session.execute(update(Worker).where(Worker.id == worker_id).values(told))

    @property
    def is_over(self) -> bool:
        """Return whether the worker may claim again."""
        return time.monotonic() >= self.until
