"""Keeps a claimed profile ours while it is measured."""

import threading
from typing import Self

from client.api import Lathe
from client.core.protocol import RETRIED_STATUSES
from client.device_types import Claim
from client.errors import ClientError, Problem

BEATS = 4
"""Heartbeats within a lease."""
SERVER_FAULTS = 500
"""The first status that is the service's own fault."""


def refuses(error: ClientError) -> bool:
    """Return whether the service refuses for good: at a limit, or with a fault of its own, it may accept later."""
    return isinstance(error, Problem) and error.status < SERVER_FAULTS and error.status not in RETRIED_STATUSES


class Lease:
    """Sends heartbeats from a thread. `lost` is set once the service no longer takes them for this claim."""

    def __init__(self, lathe: Lathe, claim: Claim) -> None:
        self.lathe, self.claim = lathe, claim
        self.lost, self.over = threading.Event(), threading.Event()
        self.thread = threading.Thread(target=self._beat, daemon=True)

    def __enter__(self) -> Self:
        self.thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.over.set()

    def _beat(self) -> None:
        while not self.over.wait(self.claim.lease_seconds / BEATS):
            try:
                self.lathe.renew_profile(self.claim)
            except ClientError as error:
                if refuses(error):
                    self.lost.set()
                    return
                # else the service is away or broken for a moment: what is measured meanwhile may still be taken
