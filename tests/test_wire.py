"""What is on disk and on the wire stays as it is until somebody says otherwise: `python -m scripts.wire` writes it anew."""

import re
from pathlib import Path
from typing import get_args

import pytest

from app.store.models import EventType
from scripts import wire


@pytest.mark.parametrize("name", list(wire.DOCUMENTS))
def test_keys_on_disk_and_on_the_wire_are_those_on_record(name: str) -> None:
    kept = (wire.GOLDEN / f"{name}.txt").read_text(encoding="utf-8").splitlines()
    found = wire.text(name).splitlines()
    assert {"gone": sorted(set(kept) - set(found)), "new": sorted(set(found) - set(kept))} == {"gone": [], "new": []}


def test_the_job_s_page_listens_for_every_type_of_event() -> None:
    script = Path("app/pages/dashboard/static/job.js").read_text(encoding="utf-8")
    known = re.findall(r'"(\w+)"', "".join(re.findall(r"const (?:ENDS|types) = (.*);", script)))
    assert set(get_args(EventType)) <= set(known)
