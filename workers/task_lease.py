"""Holding a check or a question while its files are fetched, which may take longer than its lease lasts."""

import time
from collections.abc import Callable

import structlog
from sqlalchemy.exc import DBAPIError
from sqlalchemy.orm import Session

from app.store.db import writing

log = structlog.get_logger()


class TakenOver(Exception):
    """The lease ran out all the same, and somebody else has the work now."""


class TaskLease:
    """Renews a lease: now and then while files come, and once more before the child begins, whose time it is made for.

    renew: the write, which says whether the work is still ours.
    """

    def __init__(self, renew: Callable[[Session], bool], every: float) -> None:
        self._renew, self.every = renew, every
        self.asked = time.monotonic()

    def renew_if_due(self) -> None:
        """Renew if it is time to. Raises TakenOver; a database that is away is asked again, for the lease is long."""
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
