"""Which cards are there, by the driver's files, and through which device files a program reaches one."""

from pathlib import Path

import pytest

from compression.system.cards import device_nodes, driver_version, list_cards
from tests.support.nvidia import A100, L4, UUIDS, install


def test_cards_are_numbered_by_their_pci_addresses(tmp_path: Path) -> None:
    cards = list_cards(install(tmp_path))
    assert [(card.name, card.uuid, card.minor) for card in cards] == [(A100, UUIDS[0], 1), (L4, UUIDS[1], 0)]
    assert driver_version(tmp_path) == "550.54.15"


def test_a_card_of_the_host_without_a_file_in_this_container_does_not_count(tmp_path: Path) -> None:
    (install(tmp_path) / "dev/nvidia1").unlink()
    assert [card.name for card in list_cards(tmp_path)] == [L4]


def test_without_a_driver_there_is_none(tmp_path: Path) -> None:
    assert list_cards(tmp_path) == []
    assert driver_version(tmp_path) is None


@pytest.mark.parametrize(
    ("visible", "names"),
    [
        ("", []),
        ("1", [L4]),
        ("1,0", [L4, A100]),
        ("0,7,1", [A100]),  # CUDA too ends at the first that is not there
        ("GPU-bbbb", [L4]),
        ("-1", []),
        ("MIG-c0ffee", []),  # of which of the two cards it is nobody says
    ],
)
def test_what_the_variable_of_cuda_leaves(visible: str, names: list[str], tmp_path: Path) -> None:
    assert [card.name for card in list_cards(install(tmp_path), visible)] == names


def test_a_card_has_its_own_device_file_and_the_shared_ones(tmp_path: Path) -> None:
    first, _ = list_cards(install(tmp_path))
    assert [place.name for place in device_nodes(first, tmp_path)] == ["nvidia1", "nvidiactl", "nvidia-uvm", "nvidia-uvm-tools"]
    (tmp_path / "dev/nvidia-uvm-tools").unlink()
    assert "nvidia-uvm-tools" not in {place.name for place in device_nodes(first, tmp_path)}


def test_a_slice_has_the_capabilities_of_its_card_and_not_those_that_configure_it(tmp_path: Path) -> None:
    (install(tmp_path) / "dev/nvidia0").unlink()
    (card,) = list_cards(tmp_path, "MIG-c0ffee")
    assert (card.uuid, card.name) == ("MIG-c0ffee", f"{A100} (MIG)")
    own = [place.name for place in device_nodes(card, tmp_path)]
    assert own == ["nvidia1", "nvidiactl", "nvidia-uvm", "nvidia-uvm-tools", "nvidia-cap130", "nvidia-cap131"]


def test_a_driver_that_nothing_woke_tells_no_uuid(tmp_path: Path) -> None:
    about = install(tmp_path) / "proc/driver/nvidia/gpus/0000:17:00.0/information"
    about.write_text(about.read_text().replace(UUIDS[0], "GPU-????????-????"))
    assert list_cards(tmp_path)[0].uuid == ""
