"""What an engine writes is stored as it was hashed, within bounds, whatever the engine does to it meanwhile."""

import hashlib
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import cast

import pytest

from app.core.settings import Settings
from app.jobs import fencing
from app.store.storage import LocalStorage, Source
from compression.schema.events import ArtifactReady, Event, TrainingSaved, Working
from compression.schema.report.report import File
from tests.client.figures import report
from tests.support.rows import do, submitted
from tests.workers.test_several import Telling, claimed, file, follow
from workers import event_relay
from workers.attempt_ends import Crashed, Failed
from workers.folders import Untrustworthy

pytestmark = pytest.mark.parametrize("database", ["sqlite"], indirect=True)
MIB = 1 << 20


class Meddled(LocalStorage):
    """A storage in which the engine writes to its file once that was opened and looked at, and before it is copied."""

    def __init__(self, root: Path, place: Path, data: bytes) -> None:
        super().__init__(root)
        self.place, self.data = place, data

    def put_file(self, key: str, source: Source) -> None:
        with self.place.open("r+b") as out:  # the same file, not another of its name
            out.write(self.data)
        super().put_file(key, source)


def sent_and_claimed(settings: Settings, folder: Path, **values: int) -> fencing.Claim:
    do(submitted, **values)
    return claimed(settings, folder)


def saved(*files: File) -> TrainingSaved:
    return TrainingSaved(stage="baseline", phase="tune", step=1, total=2, folder="training-1", files=files)


@pytest.mark.parametrize("data", [b"lies", b"weights and no end"], ids=["changed", "longer"])
def test_a_file_that_changes_under_the_copy_is_not_stored(data: bytes, settings: Settings, tmp_path: Path) -> None:
    claim = sent_and_claimed(settings, tmp_path / "1")
    promised = file(tmp_path / "1/out/checkpoints/training-1", "state", b"weights")
    place = tmp_path / "1/out/checkpoints/training-1/state"
    storage = Meddled(tmp_path / "store", place, data)
    with pytest.raises(Untrustworthy, match="not the file"):
        follow(claim, tmp_path / "1", storage, settings, Telling(saved(promised)))
    assert hashlib.sha256(place.read_bytes()).hexdigest() != promised.sha256
    assert [path for path in (tmp_path / "store").rglob("*") if path.is_file()] == []


def test_what_is_stored_of_an_engine_runs_as_nobody_else(settings: Settings, tmp_path: Path) -> None:
    claim = sent_and_claimed(settings, tmp_path / "1")
    place = tmp_path / "1/out/artifacts/a"
    ready = report().artifacts[0].model_copy(update={"name": "a", "files": (file(place, "program", b"#!/bin/sh"),)})
    (place / "program").chmod(0o6755)  # as an engine can that nothing confines
    with pytest.raises(Crashed):  # it ends without a report
        follow(claim, tmp_path / "1", LocalStorage(tmp_path / "store"), settings, Telling(ArtifactReady(artifact=ready)))
    (stored,) = (tmp_path / "store").rglob("program")
    assert stored.stat().st_mode & 0o7111 == 0


class Writing(Telling):
    """An engine that is looked at once before it tells anything, and can be ended."""

    ended = False

    def events(self, _tick: float) -> Iterator[Event]:
        yield cast("Event", None)
        yield from self.told

    def kill(self) -> None:
        self.ended = True


def two_of_three_and_much_that_takes_none(folder: Path) -> None:
    (folder / "engine.log").write_bytes(os.urandom(2 * MIB))
    with (folder / "holes").open("wb") as holes:
        holes.truncate(100 * MIB)
    elsewhere = folder.parent / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "much").write_bytes(os.urandom(4 * MIB))
    for name in ("", "much"):
        (folder / f"link-{name}").symlink_to(elsewhere / name)


def much(folder: Path) -> None:
    (folder / "out/deep").mkdir(parents=True)
    for number in range(4):
        (folder / f"out/deep/{number}").write_bytes(os.urandom(MIB))


def files_without_a_byte(folder: Path) -> None:
    for number in range(800):
        (folder / str(number)).touch()


def too_deep_to_look(folder: Path) -> None:
    at = os.open(folder, os.O_RDONLY)
    for _ in range(20):
        os.mkdir("d" * 250, dir_fd=at)
        deeper = os.open("d" * 250, os.O_RDONLY, dir_fd=at)
        os.close(at)
        at = deeper
    os.close(at)


@pytest.mark.parametrize(
    ("lay", "end", "code"),
    [
        (two_of_three_and_much_that_takes_none, Crashed, None),
        (much, Failed, "disk_full"),
        (files_without_a_byte, Failed, "disk_full"),
        (too_deep_to_look, Untrustworthy, None),
    ],
)
def test_an_engine_whose_folder_fills_up_is_ended(
    lay: Callable[[Path], None],
    end: type[Exception],
    code: str | None,
    settings: Settings,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(event_relay, "DISK_SECONDS", -1.0)
    narrow = settings.model_copy(update={"engine_disk_bytes": MIB})
    claim, engine = sent_and_claimed(settings, tmp_path / "1", disk_bytes=MIB), Writing()
    lay(tmp_path / "1")
    with pytest.raises(end) as caught:
        follow(claim, tmp_path / "1", LocalStorage(tmp_path / "store"), narrow, engine)
    assert getattr(caught.value, "error", {}).get("code") == code
    assert engine.ended == (code is not None)


def test_no_more_is_stored_than_an_engine_may_write(settings: Settings, tmp_path: Path) -> None:
    narrow = settings.model_copy(update={"engine_disk_bytes": MIB})
    claim, storage = sent_and_claimed(settings, tmp_path / "1", disk_bytes=MIB), LocalStorage(tmp_path / "store")
    place = tmp_path / "1/out/artifacts"
    ready = [
        ArtifactReady(artifact=report().artifacts[0].model_copy(update={"name": name, "files": (promised,)}))
        for name, promised in ((name, file(place / name, "holes", bytes(MIB))) for name in "abcd")
    ]
    with pytest.raises(Failed, check=lambda error: error.error["code"] == "disk_full"):
        follow(claim, tmp_path / "1", storage, narrow, Telling(*ready))
    assert sorted(stored.key.split("/")[-2] for stored in storage.objects("")) == ["a", "b", "c"]


class Slow(Writing):
    """An engine between whose words two seconds pass; None is a word that does not come."""

    def __init__(self, now: list[float], *words: Event | None) -> None:
        self.now, self.words = now, words

    def events(self, _tick: float) -> Iterator[Event]:
        for word in self.words:
            self.now[0] += 2
            yield cast("Event", word)


@pytest.mark.parametrize(("word", "code"), [(Working(), "engine_crashed"), (None, "engine_stalled")], ids=["sign", "silence"])
def test_an_engine_that_gives_signs_of_life_does_not_stand_still(
    word: Event | None, code: str, settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [0.0]
    monkeypatch.setattr(event_relay, "time", type("Clock", (), {"monotonic": staticmethod(lambda: now[0])}))
    claim, engine = sent_and_claimed(settings, tmp_path / "1"), Slow(now, *[word] * 4)
    impatient = settings.model_copy(update={"stall_seconds": 3.0})
    with pytest.raises(Crashed, check=lambda error: error.code == code):
        follow(claim, tmp_path / "1", LocalStorage(tmp_path / "store"), impatient, engine)
    assert engine.ended == (code == "engine_stalled")
