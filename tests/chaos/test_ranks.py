"""A short run of `make chaos-ranks`."""

from pathlib import Path

import pytest

from tests.chaos import ranks


def test_a_job_whose_processes_are_killed_ends_as_if_nobody_had(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ranks, "LATE", 90.0)  # beside other tests; still less than JOIN_SECONDS, which a deaf process waits
    said: list[str] = []  # this seed draws the first process of a job, then its other one
    assert ranks.rampage(tmp_path, kills=2, seed=2, say=said.append) == []
    assert sum(int(line.split(": ")[1].split()[0]) for line in said) == 2
