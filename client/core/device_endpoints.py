"""The methods of devices and profiles: what users ask, and what a device's own process sends."""

from typing import Any, Unpack

import httpx

from client.core.drivers import call, iterated, listed
from client.core.events import LongPoll
from client.core.fields import ProfileFields
from client.core.protocol import PATIENT, Listing, Peer, Request, Steps, read
from client.core.requests import held, ignored, listing, request
from client.device_types import Claim, Device, DeviceTable, NewDevice, Profile
from compression.schema.device_table import DeviceTable as LayerTimes
from compression.schema.profile import Profile as Measured, ProfileFailure


def _profile(profile_id: str, wait: float = 0) -> Request[Profile]:
    return request("GET", f"profiles/{profile_id}", Profile, **held(wait))


class DeviceEndpoints(Peer):
    """The service's interface to devices."""

    @call
    def register_device(self, name: str) -> Request[NewDevice]:
        """Register a device. Its key is shown this once; only admins may. `delete("devices/ID")` removes it."""
        return request("POST", "devices", NewDevice, {"name": name}, repeatable=False)

    @listed
    def devices(self) -> Listing[Device]:
        """Return the team's devices; with a device's key, that one."""
        return listing("devices", Device)

    @call
    def request_profile(self, artifact_id: str, device: str, **asked: Unpack[ProfileFields]) -> Request[Profile]:
        """Request a profile of an artifact on a device, named by name or id."""
        body = {name: value for name, value in asked.items() if value is not None}
        return request("POST", f"artifacts/{artifact_id}/profiles", Profile, {**body, "device": device})

    @call
    def profile(self, profile_id: str) -> Request[Profile]:
        """Return a profile, with all that was measured once it is done."""
        return _profile(profile_id)

    @call
    def wait_for_profile(self, profile_id: str, *, timeout: float | None = None) -> Steps[Profile]:
        """Return a profile once it is done or has failed. Raises WaitedTooLong after `timeout` seconds."""
        poll, found = LongPoll(timeout), (yield from _profile(profile_id).steps(self))
        while not found.ended:
            before, found = found, (yield from _profile(profile_id, poll.ask(found)).steps(self))
            yield poll.rest(changed=found.state != before.state)
        return found

    @iterated
    def profiles(self, *, job: str | None = None, device: str | None = None) -> Listing[Profile]:
        """Yield the team's profiles, newest first."""
        return listing("profiles", Profile, job=job, device=device)

    @listed
    def device_tables(self) -> Listing[DeviceTable]:
        """Return what is known of single layers' cost: a table for each processor, number of threads and versions."""
        return listing("device-tables", DeviceTable)

    @call
    def device_table(self, table_id: str) -> Request[LayerTimes]:
        """Return a device table with its times."""
        return request("GET", f"device-tables/{table_id}", LayerTimes)

    # With a device's key.

    @call
    def claim_profile(self, device_id: str, *, wait: float = 0) -> Request[Claim | None]:
        """Claim the oldest profile that waits for the device; None if none comes within `wait` seconds."""

        def take(response: httpx.Response) -> Claim | None:
            return None if response.status_code == httpx.codes.NO_CONTENT else read(Claim, response)

        return Request("POST", f"/v1/devices/{device_id}/claim", take, **held(wait))

    @call
    def renew_profile(self, claim: Claim) -> Request[None]:
        """Tell the service that the device still measures."""
        return self._about(claim, "heartbeat")

    @call
    def release_profile(self, claim: Claim) -> Request[None]:
        """Return a profile to the queue."""
        return self._about(claim, "release")

    @call
    def send_profile(self, claim: Claim, outcome: Measured | ProfileFailure) -> Request[None]:
        """Send what was measured, or why nothing could be."""
        name = "profile" if isinstance(outcome, Measured) else "failure"
        return self._about(claim, "result", attempts=PATIENT, **{name: outcome.model_dump(mode="json")})

    def _about(self, claim: Claim, verb: str, attempts: int | None = None, **body: Any) -> Request[None]:
        sent = {"fence": claim.fence, **body}
        return Request("POST", f"/v1/profiles/{claim.profile}/{verb}", ignored, body=sent, attempts=attempts)
