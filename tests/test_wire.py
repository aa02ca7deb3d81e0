"""What is on disk and on the wire stays as it is until somebody says otherwise: `python -m scripts.wire` writes it anew."""

import pytest

from scripts import wire


@pytest.mark.parametrize("name", list(wire.DOCUMENTS))
def test_keys_on_disk_and_on_the_wire_are_those_on_record(name: str) -> None:
    kept = (wire.GOLDEN / f"{name}.txt").read_text(encoding="utf-8").splitlines()
    found = wire.text(name).splitlines()
    assert {"gone": sorted(set(kept) - set(found)), "new": sorted(set(found) - set(kept))} == {"gone": [], "new": []}
