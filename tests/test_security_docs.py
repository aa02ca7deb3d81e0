"""docs/security.md names a test and a wall for each threat; all of them are there."""

import re

import pytest

from tests.conftest import ROOT

TEXT = (ROOT / "docs" / "security.md").read_text(encoding="utf-8")
ROWS = [line.strip("|").split("|") for line in TEXT.splitlines() if line.startswith("| ")][1:]
ROWS = [row for row in ROWS if not row[0].strip().startswith("---")]


def test_there_are_twenty_four_threats() -> None:
    assert len(ROWS) == 24
    assert all(len(row) == 4 for row in ROWS)


@pytest.mark.parametrize("row", ROWS, ids=[f"{number}" for number in range(1, len(ROWS) + 1)])
def test_each_threat_has_its_wall_and_its_test(row: list[str]) -> None:
    tests = re.findall(r"`(tests/[\w/]+\.py)::(test_\w+)`", row[3])
    assert tests
    assert re.sub(r"`[^`]+`|[\s,]", "", row[3]) == ""  # nothing is named in a form that nobody looks up
    for file, name in tests:
        assert re.search(rf"^(async )?def {name}\(", (ROOT / file).read_text(encoding="utf-8"), re.MULTILINE), f"{file}::{name}"


def test_every_file_that_is_named_is_there() -> None:
    named = re.findall(r"`((?:app|workers|compression|deploy|tests|client)/[\w/.]*\w)(?:::\w+)?`", TEXT)
    assert len(named) > 40
    assert [place for place in named if not (ROOT / place).exists()] == []
    links = re.findall(r"\]\(([^)#]+)", TEXT + (ROOT / "SECURITY.md").read_text(encoding="utf-8").replace("docs/", ""))
    assert [place for place in links if not (ROOT / "docs" / place).exists()] == []
