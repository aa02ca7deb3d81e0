"""The lease of a check or a prediction, renewed while its files are fetched, which may take longer than the lease."""

import time
from collections.abc import Callable

import structlog
from sqlalchemy.exc import DBAPIError
from sqlalchemy.orm import Session

from app.store.db import writing

log = structlog.get_logger()


class TakenOver(Exception):
    """The lease expired all the same, and another worker has the task now."""


class TaskLease:
    """Renews a lease: now and then while files are fetched, and once more before the child starts, whose time limit it covers.

    renew: the write, which returns whether the task is still ours.
    """

    def __init__(self, renew: Callable[[Session], bool], every: float) -> None:
        self._renew, self.every = renew, every
        self.asked = time.monotonic()

    def renew_if_due(self) -> None:
        """Renew if it is time. Raises TakenOver; if the database is away, the next call tries again: the lease is long."""
        if time.monotonic() - self.asked < self.every:
            return
        try:
            self.renew()
        except DBAPIError as error:
            log.warning("not_renewed", error=str(error.orig))

    def renew(self) -> None:
        """Renew now. Raises TakenOver."""
        self.asked = time.monotonic()
        with writing() as session:
            if not self._renew(session):
                raise TakenOver
