"""Room is set aside before a job starts, and counted as taken while the job has not written it yet."""

import os
from collections.abc import Callable
from pathlib import Path
from shutil import disk_usage
from types import SimpleNamespace

import pytest

from app.core.settings import Settings
from app.store.storage import LocalStorage
from compression.system.memory import killed_for_memory
from tests.workers.test_watch import too_deep_to_look
from workers import limits
from workers.folders import RESERVED
from workers.limits import SPARE_BYTES, InsufficientDisk, engine_memory, machine_memory, reserve_disk
from workers.removal import remove_tree

Places = tuple[Path, list[Path], LocalStorage]


@pytest.fixture
def places(tmp_path: Path) -> Places:
    folders = [tmp_path / "scratch" / name for name in ("a", "b")]
    for folder in folders:
        folder.mkdir(parents=True)
    return tmp_path / "scratch", folders, LocalStorage(tmp_path / "store")


def test_what_was_promised_to_one_is_not_promised_to_another(places: Places) -> None:
    scratch, (first, second), storage = places
    most = disk_usage(scratch).free - SPARE_BYTES
    share = round(0.6 * most)
    with reserve_disk(scratch, first, storage, share):
        with pytest.raises(InsufficientDisk, match="scratch"), reserve_disk(scratch, second, storage, share):
            pass
        with reserve_disk(scratch, second, storage, most // 10):
            pass
    with reserve_disk(scratch, second, storage, share):  # the first gave its share back
        pass


def test_what_was_written_counts_once(places: Places) -> None:
    scratch, (first, second), storage = places
    written = 8 << 20
    with reserve_disk(scratch, first, storage, written):
        (first / "weights").write_bytes(os.urandom(written))
        os.sync()
        # All that was promised is on the disk: the disk's own figure says it.
        with reserve_disk(scratch, second, storage, round(0.9 * (disk_usage(scratch).free - SPARE_BYTES))):
            pass


def test_what_is_fetched_takes_nothing_of_what_was_promised(places: Places, monkeypatch: pytest.MonkeyPatch) -> None:
    scratch, (first, second), storage = places
    mib = 1 << 20

    def disk(_: Path) -> SimpleNamespace:
        taken = sum(path.stat().st_size for path in scratch.rglob("*") if path.is_file())
        return SimpleNamespace(total=1 << 40, free=100 * mib + SPARE_BYTES - taken)

    monkeypatch.setattr(limits, "disk_usage", disk)
    with pytest.raises(InsufficientDisk), reserve_disk(scratch, first, storage, 60 * mib, 60 * mib):
        pass
    with reserve_disk(scratch, first, storage, 60 * mib, 8 * mib):
        (first / "model").write_bytes(os.urandom(8 * mib))
        os.sync()
        with reserve_disk(scratch, second, storage, 30 * mib):
            pass
        with pytest.raises(InsufficientDisk), reserve_disk(scratch, second, storage, 36 * mib):
            pass


def test_teachers_outputs_get_half_of_what_nobody_was_promised(places: Places, monkeypatch: pytest.MonkeyPatch) -> None:
    scratch, (first, second), storage = places
    monkeypatch.setattr(limits, "disk_usage", lambda _: SimpleNamespace(free=10**9, total=10**10))
    with reserve_disk(scratch, first, storage, 5 * 10**8, 10**8, most_cached=10**9) as cached:
        assert cached == (4 * 10**8 - SPARE_BYTES) // 2
        with reserve_disk(scratch, second, storage, 10**8, most_cached=10**9) as other:
            assert other == (4 * 10**8 - cached - 10**8 - SPARE_BYTES) // 2
    with reserve_disk(scratch, first, storage, 10**8, most_cached=10**6) as cached:
        assert cached == 10**6
    with reserve_disk(scratch, first, storage, 10**9 - SPARE_BYTES, most_cached=10**9) as cached:
        assert cached == 0


def test_teachers_outputs_take_nothing_of_what_their_job_was_promised(places: Places, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first job has written its teachers' outputs, and nothing yet of the 10 MiB that it needs."""
    scratch, (first, second), storage = places
    mib = 1 << 20

    def disk(_: Path) -> SimpleNamespace:
        taken = sum(path.stat().st_size for path in scratch.rglob("*") if path.is_file())
        return SimpleNamespace(total=1 << 40, free=50 * mib + SPARE_BYTES - taken)

    monkeypatch.setattr(limits, "disk_usage", disk)
    with reserve_disk(scratch, first, storage, 10 * mib, most_cached=20 * mib) as cached:
        assert cached == 20 * mib
        (first / "teacher-task.float16").write_bytes(os.urandom(cached))
        os.sync()
        with pytest.raises(InsufficientDisk), reserve_disk(scratch, second, storage, 22 * mib):
            pass
        with reserve_disk(scratch, second, storage, 18 * mib):
            pass


def test_more_than_there_is_is_refused(places: Places) -> None:
    scratch, (first, _), storage = places
    with pytest.raises(InsufficientDisk), reserve_disk(scratch, first, storage, disk_usage(scratch).total):
        pass
    assert not first.with_name(first.name + RESERVED).exists()
    assert not (first / RESERVED).exists()


LAYS: dict[str, Callable[[Path], object]] = {
    "a pipe": os.mkfifo,
    "an endless file": lambda place: place.symlink_to("/dev/zero"),
    "more than any disk": lambda place: place.write_text(str(10**18)),
    "less than nothing": lambda place: place.write_text(str(-(10**18))),
    "a long number": lambda place: place.write_text("1" * (8 << 20)),
}


@pytest.mark.parametrize("lay", LAYS.values(), ids=LAYS)
def test_what_an_engine_lays_for_a_promise_holds_nobody_up(lay: Callable[[Path], object], places: Places) -> None:
    scratch, (first, second), storage = places
    share = round(0.6 * (disk_usage(scratch).free - SPARE_BYTES))
    lay(first / RESERVED)  # where its engine reaches
    lay(first.with_name(first.name + RESERVED))  # and where only a worker does
    with reserve_disk(scratch, second, storage, share):
        pass


def test_a_promise_lies_where_its_engine_does_not_reach(places: Places) -> None:
    scratch, (first, second), storage = places
    with reserve_disk(scratch, first, storage, 1000):
        assert list(first.iterdir()) == []
        assert sorted(place.name for place in scratch.glob(f"*{RESERVED}")) == [f"a{RESERVED}"]
        with reserve_disk(scratch, second, storage, 1000):
            pass


def test_a_folder_that_cannot_be_looked_through_has_taken_nothing(places: Places) -> None:
    scratch, (first, second), storage = places
    share = round(0.6 * (disk_usage(scratch).free - SPARE_BYTES))
    with reserve_disk(scratch, first, storage, share):
        too_deep_to_look(first)
        with pytest.raises(InsufficientDisk, match="scratch"), reserve_disk(scratch, second, storage, share):
            pass
    remove_tree(first)


def test_an_engine_leaves_memory_to_the_machine() -> None:
    assert 0.5 * machine_memory() < engine_memory(Settings()) < machine_memory()
    assert engine_memory(Settings(engine_memory_bytes=1000)) == 1000
    assert engine_memory(Settings(host_workers=4)) == pytest.approx(engine_memory(Settings()) / 4, abs=1)
    assert killed_for_memory() >= 0
