"""Which device a worker's engines compute on: cards, or the CPU (docs/gpu.md)."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from compression.schema.worker_device import DeviceKind
from compression.system.cards import ROOT, VISIBLE, Card, device_nodes, list_cards, visible_here

AUTO = "auto"
CUDA: DeviceKind = "cuda"


@dataclass(frozen=True)
class Device:
    """A device, one card or several, and what an engine gets in order to reach it and no other."""

    kind: DeviceKind
    visible: str = ""  #: CUDA_VISIBLE_DEVICES of its engines; empty hides all cards
    nodes: tuple[Path, ...] = ()  #: device files that the confinement lets through
    parts: "tuple[Device, ...]" = ()  #: each of several cards by itself

    @property
    def environment(self) -> dict[str, str]:
        """Return the variables that select it."""
        return {VISIBLE: self.visible, "CUDA_DEVICE_ORDER": "PCI_BUS_ID"}


CPU = Device("cpu")


class DeviceAbsent(Exception):
    """The device that the worker is to use is not there, or does not work."""

    code = "device_absent"

    def __init__(self, cause: str, remedy: str | None = None) -> None:
        super().__init__(cause)
        self.cause = cause
        self.remedy = (
            remedy or "Name a card that is there (--device cuda:N), or --device cpu; docs/gpu.md says what a card needs."
        )


def find_card(number: int, root: Path = ROOT, visible: str | None = None) -> Device:
    """Return the card with this number. Raises DeviceAbsent. visible: as CUDA_VISIBLE_DEVICES, which then numbers the cards."""
    cards = list_cards(root, visible)
    if number >= len(cards):
        where = "" if visible is None else f" under {VISIBLE}={visible}"
        names = ", ".join(card.name for card in cards) or "none"
        raise DeviceAbsent(f"cuda:{number} is not there: this machine has {len(cards)} cards{where} ({names}).")
    return card_device(cards[number], number, root)


def find_cards(numbers: Sequence[int], root: Path = ROOT, visible: str | None = None) -> Device:
    """Return the cards with these numbers as one device. Raises DeviceAbsent."""
    found = [find_card(number, root, visible) for number in numbers]
    if len(found) == 1:
        return found[0]
    names = [card.visible for card in found]
    if len(set(numbers)) < len(numbers) or "0" in names:
        listed = ",".join(map(str, numbers))
        raise DeviceAbsent(f"cuda:{listed} is not several cards: a card is named twice, or the driver does not tell its UUID.")
    nodes = tuple(dict.fromkeys(node for card in found for node in card.nodes))
    return Device(CUDA, ",".join(names), nodes, tuple(found))


def card_device(card: Card, number: int, root: Path = ROOT) -> Device:
    """Return the device of a card: by its UUID, because a confined engine sees one card, which is then number 0 to CUDA.

    Raises DeviceAbsent if the driver does not tell the card's UUID yet, unless it is the machine's first: of that the number is
    known, however an engine is confined.
    """
    if not card.uuid and card != list_cards(root)[0]:
        raise DeviceAbsent(
            f"the driver does not tell the UUID of cuda:{number} ({card.name}): nothing has used it since it was loaded.",
            "Run nvidia-smi once as root, or nvidia-persistenced, and start the worker again.",
        )
    return Device(CUDA, card.uuid or "0", tuple(device_nodes(card, root)))


def parse_device(name: str) -> tuple[str, tuple[int, ...]]:
    """Return the kind and the numbers of `auto`, `cpu`, `auto:2` or `cuda:2,3`, which the settings have checked."""
    kind, _, numbers = name.partition(":")
    return kind, tuple(int(number) for number in (numbers or "0").split(","))


def has_cards() -> bool:
    """Return whether the driver lists a card that this process may use."""
    return bool(list_cards(visible=visible_here()))
