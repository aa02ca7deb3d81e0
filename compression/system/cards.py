"""This machine's NVIDIA cards and the files through which programs reach them, as the driver lists them. Torch-free."""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path("/")
"""Where /proc and /dev are; tests put made ones elsewhere."""
SHARED_NODES = ("nvidiactl", "nvidia-uvm", "nvidia-uvm-tools")
"""Device files in /dev that every program on any card opens."""
VISIBLE = "CUDA_VISIBLE_DEVICES"
SLICE = "MIG-"
"""Begins the name of a MIG slice in CUDA_VISIBLE_DEVICES."""


@dataclass(frozen=True)
class Card:
    """A card, or a MIG slice of one."""

    name: str
    uuid: str  #: what CUDA_VISIBLE_DEVICES calls it; empty if the driver does not tell it
    minor: int  #: its device file is /dev/nvidia<minor>


def list_cards(root: Path = ROOT, visible: str | None = None) -> list[Card]:
    """Return the cards in the order of their PCI addresses, or those that `visible` names, in its order.

    A container may list its host's cards: those without a device file here do not count, for CUDA either.
    visible: a value of CUDA_VISIBLE_DEVICES: numbers in that order, UUIDs or their beginnings, slices of MIG. As CUDA does, it
    ends at the first name that is not there. A slice belongs to the only card, because nothing here tells to which of several.
    """
    listed = filter(None, map(_read, sorted((root / "proc/driver/nvidia/gpus").glob("*/information"))))
    found = [card for card in listed if (root / f"dev/nvidia{card.minor}").exists()]
    if visible is None:
        return found
    chosen = []
    for name in filter(None, (part.strip() for part in visible.split(","))):
        card = _named(found, name)
        if card is None:
            break
        chosen.append(card)
    return chosen


def device_nodes(card: Card, root: Path = ROOT) -> list[Path]:
    """Return the device files that programs on this card open, and of MIG's capabilities those of its slices; existing ones."""
    names = [f"nvidia{card.minor}", *SHARED_NODES]
    if card.uuid.startswith(SLICE):
        names += (f"nvidia-caps/nvidia-cap{minor}" for minor in _slice_minors(root, card.minor))
    return [place for place in (root / "dev" / name for name in names) if place.exists()]


def driver_version(root: Path = ROOT) -> str | None:
    """Return the version of the kernel's driver; None if there is none."""
    try:
        line = (root / "proc/driver/nvidia/version").read_text(errors="replace").partition("\n")[0]
    except OSError:
        return None
    return next((word for word in line.split() if word[0].isdigit() and "." in word), None)


def visible_here() -> str | None:
    """Return which cards this process may use, as CUDA_VISIBLE_DEVICES says; None: all."""
    return os.environ.get(VISIBLE)


def _read(place: Path) -> Card | None:
    lines = (line.partition(":") for line in place.read_text(errors="replace").splitlines())
    facts = {name.strip(): value.strip() for name, _, value in lines}
    minor, uuid = facts.get("Device Minor", ""), facts.get("GPU UUID", "")
    # A driver that no program has used since the start does not know it: GPU-????????-…
    return Card(facts.get("Model", "GPU"), "" if "?" in uuid else uuid, int(minor)) if minor.isdigit() else None


def _named(cards: list[Card], name: str) -> Card | None:
    if name.isdigit():
        return cards[int(name)] if int(name) < len(cards) else None
    if name.startswith(SLICE):
        return Card(f"{cards[0].name} (MIG)", name, cards[0].minor) if len(cards) == 1 else None
    return next((card for card in cards if card.uuid.startswith(name)), None)


def _slice_minors(root: Path, card: int) -> Iterator[str]:
    """Yield the numbers of a card's slices; those that configure or watch MIG are of nobody's here."""
    try:
        lines = (root / "proc/driver/nvidia-caps/mig-minors").read_text("ascii").splitlines()
    except OSError:
        return
    for line in lines:
        name, _, minor = line.partition(" ")
        if name.startswith(f"gpu{card}/"):
            yield minor.strip()
