"""A short run of `make chaos-ranks`."""

from pathlib import Path

from tests.chaos.ranks import rampage


def test_a_job_whose_processes_are_killed_ends_as_if_nobody_had(tmp_path: Path) -> None:
    said: list[str] = []
    assert rampage(tmp_path, kills=3, seed=7, say=said.append) == []
    assert sum(int(line.split(": ")[1].split()[0]) for line in said) == 3
