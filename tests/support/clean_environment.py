"""Runs the code of an artifact's card where nothing but what its first line installs can be imported."""

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterable, Sequence
from importlib.metadata import Distribution, distribution
from pathlib import Path

import pytest
from packaging.requirements import Requirement

INSTALLS = "# pip install "
PROGRAM = """
import contextlib, importlib.util, io, json, os, shutil, sys
packages, folder, hidden, images = json.loads(sys.argv[1])
sys.path.append(packages)
assert not [name for name in hidden if importlib.util.find_spec(name)], sys.path
os.chdir(folder)
code = compile(sys.stdin.read(), "card", "exec")
answers = []
for image in images:
    shutil.copyfile(image, "image.jpg")
    with contextlib.redirect_stdout(io.StringIO()) as said:
        exec(code, {})
    answers.append(said.getvalue().strip())
print(json.dumps(answers))
"""


def card_code(folder: Path) -> str:
    """Return the code on the card of an artifact."""
    return (folder / "README.md").read_text("utf-8").split("```python\n")[1].split("```")[0]


def image_answers(folder: Path, images: Sequence[Path], place: Path, hidden: Sequence[str]) -> list[str]:
    """Run the card's code verbatim once for each image; return what it prints.

    place: a folder for links to the packages; hidden: names that must not be importable, to see that the environment is clean.
    """
    code = card_code(folder)
    packages = link_packages(code.partition(INSTALLS)[2].splitlines()[0].split(), place)
    given = [str(packages), str(folder), [*hidden, "app", "compression"], [str(path) for path in images]]
    command = [sys.executable, "-I", "-S", "-c", PROGRAM, json.dumps(given)]
    done = subprocess.run(command, input=code, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    answers: list[str] = json.loads(done.stdout.splitlines()[-1])
    return answers


def link_packages(names: Iterable[str], place: Path) -> Path:
    """Link packages and all that they require into a folder, as if pip had installed them there and nothing else."""
    place.mkdir()
    waiting, seen = [Requirement(name) for name in names], set[tuple[str, frozenset[str]]]()
    while waiting:
        needed = waiting.pop()
        key = (re.sub(r"[-_.]+", "-", needed.name).lower(), frozenset(needed.extras))
        if key not in seen:
            seen.add(key)
            found = distribution(needed.name)
            _link(found, place)
            asked = [Requirement(line) for line in found.requires or ()]
            waiting += [each for each in asked if _applies(each, needed)]
    return place


def install_releases(releases: Sequence[str], place: Path) -> None:
    """Install releases from the index beside linked packages, without what they need. Without an index the test is skipped."""
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", str(place), *releases]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode and "CI" not in os.environ:
        pytest.skip(f"no index of packages here: {done.stderr[-200:]}")
    assert done.returncode == 0, done.stderr


def _applies(each: Requirement, needed: Requirement) -> bool:
    return each.marker is None or any(each.marker.evaluate({"extra": extra}) for extra in ("", *needed.extras))


def _link(found: Distribution, place: Path) -> None:
    tops = {path.parts[0] for path in found.files or () if path.parts[0] not in ("..", "__pycache__")}
    assert tops, f"{found.name} lists no files"
    for top in tops:
        if not (place / top).exists():
            (place / top).symlink_to(Path(str(found.locate_file(top))))
