"""Locks on cards: of the workers of one home, no two compute on one card, each as if its memory were free."""

import fcntl
import os
import time

import structlog

from app.core.settings import Settings
from compression.system.cards import list_cards, visible_here
from workers.devices import AUTO, Device, DeviceAbsent, find_cards, parse_device

log = structlog.get_logger()
PATIENCE = 60.0
"""Seconds to wait for a card that another worker has: one that is being replaced saves its training first."""
_held: dict[str, int] = {}
"""What this process has locked; its forked children share the open files, its engines do not."""


def take_cards(settings: Settings) -> Device:
    """Return the cards of this worker, locked: those that it names, or for `auto` the first that no other worker has.

    Raises DeviceAbsent for a card that is not there, or is in use for longer than PATIENCE.
    """
    choices = [parse_device(settings.device)[1]]
    if settings.device == AUTO:
        choices += [(number,) for number in range(1, len(list_cards(visible=visible_here())))]
    deadline, holder = time.monotonic() + PATIENCE, ""
    while True:
        for numbers in choices:
            try:
                device = find_cards(numbers, visible=visible_here())
            except DeviceAbsent:
                if numbers == choices[0]:
                    raise
                continue  # a further card whose UUID the driver does not tell yet
            if (has_it := _lock(device, settings)) is None:
                return device
            if not holder:
                holder = has_it
                log.warning("card_in_use", process=holder, note=f"waiting up to {PATIENCE:g} s for a card")
        if time.monotonic() >= deadline:
            raise DeviceAbsent(f"cuda:{','.join(map(str, choices[0]))} is in use by another worker (process {holder}).")
        time.sleep(0.5)


def free_cards() -> None:
    """Release what this process has locked: it computes on the CPU after all."""
    while _held:
        os.close(_held.popitem()[1])


def _lock(device: Device, settings: Settings) -> str | None:
    """Lock all cards of a device, or none; return the process that has one of them."""
    new: list[str] = []
    for card in device.parts or (device,):
        if card.visible in _held:
            continue
        handle = _open(card, settings)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.pread(handle, 20, 0).decode("ascii", "replace").strip() or "unknown"
            os.close(handle)
            for name in new:
                os.close(_held.pop(name))
            return holder
        os.ftruncate(handle, 0)
        os.pwrite(handle, f"{os.getpid()}\n".encode("ascii"), 0)
        _held[card.visible] = handle
        new.append(card.visible)
    return None


def _open(card: Device, settings: Settings) -> int:
    settings.scratch.mkdir(parents=True, exist_ok=True, mode=0o700)
    place = settings.scratch / f"card-{card.visible.replace('/', '_')}.lock"
    return os.open(place, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
