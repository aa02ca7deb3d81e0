"""The loop of `lathe device run`: claim a profile, fetch the artifact, measure it in a process of its own, send the result.

The service and the device's key are all that it needs. SIGTERM and SIGINT hand the current profile back; after SIGKILL its
lease ends, and the service gives it out again.
"""

import contextlib
import signal
import sys
import tempfile
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from time import monotonic

from client.api import Lathe
from client.device_types import Claim
from client.devices.lease import Lease, refuses
from client.devices.measuring import failure, measure
from client.errors import BrokenTransfer, ClientError, Problem, Unreachable, WrongHash
from client.transfers.download import download
from compression.schema.profile import Profile, ProfileFailure
from compression.schema.report.written import plain

PROFILER = (sys.executable, "-m", "compression", "profile", "--die-with-parent")
"""The command that measures; the path of its spec follows."""
ASK = 30.0
"""Seconds that the service may hold a claim back."""
AGAIN = 10.0
"""Seconds until the next claim after the service did not answer."""
HAND_BACKS = 10
"""Times that a profile goes back because its files do not come: an outage of minutes. What lasts longer is said."""
GONE = (404, 409)
"""Statuses of a profile that is no longer ours."""
Outcome = Profile | ProfileFailure


class Stopped(BaseException):
    """A signal ends the wait for work."""


class Runner:
    """Works for one device until it is stopped. `tell` is given what happens, for people."""

    def __init__(self, lathe: Lathe, device_id: str, tell: Callable[[str], None], command: Sequence[str] = PROFILER) -> None:
        self.lathe, self.device_id, self.tell, self.command = lathe, device_id, tell, command
        self.stopped = threading.Event()
        self.waiting = False
        self.absent = dict[str, int]()  #: profile → how often its files did not come

    def stop(self, *_: object) -> None:
        """End the wait for work at once, or the current profile within a second. Handles signals."""
        self.stopped.set()
        if self.waiting:
            raise Stopped

    def run(self) -> None:
        """Work until stopped. Raises Problem if the service refuses the key."""
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self.stop)
        while not self.stopped.is_set():
            claim = self._claim()
            if claim is not None:
                self._work(claim)

    def _claim(self) -> Claim | None:
        """Return the next profile; None if there was none. What is claimed in the moment of a signal waits for its lease."""
        try:
            self.waiting = True
            try:
                return self.lathe.claim_profile(self.device_id, wait=ASK)
            except ClientError as error:
                if refuses(error):
                    raise
                self.tell(f"{error.cause}. Next attempt in {AGAIN:g} s.")
                self.stopped.wait(AGAIN)
                return None
            finally:
                self.waiting = False
        except Stopped:
            return None

    def _work(self, claim: Claim) -> None:
        began = monotonic()
        self.tell(f"{claim.profile}: {claim.artifact.name} ({claim.artifact.kind})")
        with Lease(self.lathe, claim) as lease, tempfile.TemporaryDirectory(prefix="lathe-device-") as place:
            outcome = self._outcome(claim, Path(place), lambda: self.stopped.is_set() or lease.lost.is_set())
        if outcome is None:
            if not lease.lost.is_set():
                with contextlib.suppress(ClientError):  # else its lease ends by itself
                    self.lathe.release_profile(claim)
            self.tell(f"{claim.profile}: {'the service took it back' if lease.lost.is_set() else 'handed back'}")
            return
        self._send(claim, outcome)
        said = (
            f"{plain(outcome.latency.median_ms)} ms" if isinstance(outcome, Profile) else f"{outcome.detail} ({outcome.code})"
        )
        self.tell(f"{claim.profile}: {said}, after {monotonic() - began:.0f} s")

    def _outcome(self, claim: Claim, place: Path, ended: Callable[[], bool]) -> Outcome | None:
        """Fetch and measure; return None if that ended early."""

        def check_end(_path: str, _amount: int) -> None:
            if ended():
                raise InterruptedError("stopped")

        try:
            folder = download(self.lathe, claim.artifact, place, moved=check_end)
            return measure(self.command, folder, claim, ended)
        except InterruptedError:
            return None
        except WrongHash as error:
            return failure("bad_artifact", error.cause, error.remedy_text)
        except (ClientError, OSError) as error:
            if isinstance(error, BrokenTransfer | Unreachable) and not ended() and self._is_outage(claim, error):
                return None
            waits = isinstance(error, Problem) and not refuses(error)  # the service may give the files later
            if ended() or waits or (isinstance(error, Problem) and error.status in GONE):
                return None
            cause, remedy = (error.cause, error.remedy_text) if isinstance(error, ClientError) else (str(error), "")
            return failure("failed", f"The device cannot measure: {cause}", remedy or "Look at the disk of the device.")

    def _is_outage(self, claim: Claim, error: ClientError) -> bool:
        """Return whether a profile whose files did not come goes back, after a pause, and has not too often."""
        self.absent[claim.profile] = self.absent.get(claim.profile, 0) + 1
        if self.absent[claim.profile] > HAND_BACKS:
            return False
        self.tell(f"{claim.profile}: {error.cause}. It is handed back in {AGAIN:g} s.")
        self.stopped.wait(AGAIN)
        return True

    def _send(self, claim: Claim, outcome: Outcome) -> None:
        try:
            self.lathe.send_profile(claim, outcome)
        except Unreachable as error:
            self.tell(f"{claim.profile}: the result is lost: {error.cause}")
        except Problem as error:
            said = "the service refuses the result" if refuses(error) else "the result is lost"
            self.tell(f"{claim.profile}: {said}: {error.cause}")
            if refuses(error) and error.status not in GONE:
                remedy = "Update lathe on the device to the service's version."
                refused = failure("failed", f"The service refuses what the device measured: {error.cause}", remedy)
                with contextlib.suppress(ClientError):
                    self.lathe.send_profile(claim, refused)
