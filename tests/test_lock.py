"""Lathe is installed by hash: lists, pins and pyproject.toml agree. `make lock` writes them; no index is asked here."""

import re
import tomllib

import pytest

from scripts import lock
from tests.conftest import ROOT

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
PINS = dict(re.findall(r"^([\w.-]+)==(\S+)", lock.CONSTRAINTS.read_text(encoding="utf-8"), re.MULTILINE))
OPEN = {"torch", "torchvision"}
"""Asked for, and not locked: which build is right depends on the machine."""


def releases(way: str) -> dict[str, tuple[str, int]]:
    text = (ROOT / "requirements" / f"{way}.txt").read_text(encoding="utf-8")
    found = re.findall(r"^([\w.-]+)==(\S+)(.*(?:\n    --hash=.*)*)", text, re.MULTILINE)
    return {name: (version, len(re.findall(r"--hash=sha256:[0-9a-f]{64}", rest))) for name, version, rest in found}


def plain(requirement: str) -> str:
    return re.split(r"[^\w.-]", requirement)[0].lower().replace("_", "-")


@pytest.mark.parametrize("way", lock.WAYS)
def test_each_list_holds_what_is_asked_for_by_the_locked_version_and_by_hash(way: str) -> None:
    found = releases(way)
    assert all(number for _, number in found.values())
    assert {name: version for name, (version, _) in found.items() if PINS.get(name, version) != version} == {}
    assert not [name for name in found if lock.LEFT_OPEN.fullmatch(name)]
    project, extras = PROJECT["project"], PROJECT["project"]["optional-dependencies"]
    asked = {plain(each) for each in sum((extras[name] for name in lock.WAYS[way]), project["dependencies"])}
    assert asked - set(found) == (OPEN if "worker" in lock.WAYS[way] else set())
    assert {plain(each) for each in lock.BUILD.split()} <= set(found)


def test_all_that_is_pinned_is_hashed() -> None:
    assert set(PINS) - set(releases("dev")) == set()
    assert set(PROJECT["build-system"]["requires"]) <= set(lock.BUILD.split())


def test_the_licences_of_vendored_files_are_packed() -> None:
    packed = [set(ROOT.glob(pattern)) for pattern in PROJECT["project"]["license-files"]]
    assert all(packed)
    vendored = set(ROOT.glob("app/**/vendor/*.txt"))
    assert len(vendored) > 2
    assert vendored < set.union(*packed)


def test_what_installs_lathe_asks_for_hashes_and_at_once_for_torch_and_what_fits_it() -> None:
    extras = PROJECT["project"]["optional-dependencies"]
    wanted = [each for name in ("worker", "vision") for each in extras[name] if plain(each) in OPEN]
    assert {plain(each) for each in wanted} == OPEN
    for file, ways in (("Dockerfile", ("api", "serve", "worker", "worker")), ("Makefile", ("dev",))):
        text = (ROOT / file).read_text(encoding="utf-8")
        assert re.findall(r"requirements/(\w+)\.txt", text) == list(ways)
        asked = [re.findall(r"'(torch[^']+)'", line) for line in text.splitlines() if "'torch" in line]
        assert asked == [wanted] * sum("worker" in lock.WAYS[way] for way in ways)
        installs = re.findall(r"pip install ([^&\n\\]*)", text)
        assert [each for each in installs if not re.search(r"--no-deps|torch|TORCH", each)] == []
