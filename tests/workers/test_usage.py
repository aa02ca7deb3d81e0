"""What engines take is counted, however it is hidden; what takes too much is ended, with a code."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from app.core.settings import Settings
from app.store.storage import LocalStorage
from compression.schema.events import Log
from tests.workers.test_engine import run as run
from tests.workers.test_several import follow
from tests.workers.test_watch import Writing, sent_and_claimed
from workers import event_relay, usage as usages
from workers.attempt_ends import Failed
from workers.engine import Engine
from workers.folders import Untrustworthy
from workers.usage import Usage, find_excess

MIB = 1 << 20
READY = "print(json.dumps({'type': 'log', 'message': 'ready'}), file=pipe, flush=True)\nsys.stdin.readline()\n"
FILLED = "fd = os.memfd_create('m')\nblock = b'x' * (1 << 20)\nfor _ in range(64): os.write(fd, block)\n"
HIDING: dict[str, str] = {
    "written and not mapped": FILLED,
    "mapped, not touched and closed": f"import mmap\n{FILLED}kept = mmap.mmap(fd, 64 << 20)\nos.close(fd)\n",
    "shared, touched and given back": (
        "import mmap\nkept = mmap.mmap(-1, 64 << 20)\nfor at in range(0, 64 << 20, 4096): kept[at] = 1\n"
        "kept.madvise(mmap.MADV_DONTNEED)\n"
    ),
    "kept by a child": f"{FILLED}\nif os.fork() == 0: sys.stdin.readline(); os._exit(0)\nos.close(fd)\n",
}


def ready(engine: Engine) -> Usage:
    next(event for event in engine.events(0.1) if isinstance(event, Log))
    return engine.usage()


@pytest.mark.parametrize("code", HIDING.values(), ids=HIDING)
def test_memory_that_no_process_shows_is_counted_once(code: str, run: Callable[[str], Engine]) -> None:
    with run(READY.replace("ready", "plain")) as engine:
        plain = ready(engine).memory_bytes
    with run(code + READY) as engine:
        # A forked child's pages count for both: that is some mebibytes, and not another 64.
        assert plain + 60 * MIB < ready(engine).memory_bytes < plain + 100 * MIB


def test_unprivileged_a_mapped_object_counts_as_full(run: Callable[[str], Engine], monkeypatch: pytest.MonkeyPatch) -> None:
    looked, real = [], os.stat

    def stat(path: str) -> os.stat_result:
        if "/map_files/" in path:
            looked.append(path)
            raise PermissionError  # as to everybody who is not root
        return real(path)

    with run(HIDING["mapped, not touched and closed"] + READY) as engine:
        next(event for event in engine.events(0.1) if isinstance(event, Log))
        monkeypatch.setattr(usages.os, "stat", stat)
        found = engine.usage()
    assert looked
    assert 64 * MIB <= sum(found.shared.values()) < 80 * MIB


def test_processes_threads_and_open_files_are_counted(run: Callable[[str], Engine]) -> None:
    with run(READY) as engine:
        plain = ready(engine)
    code = (
        "import threading, time\n"
        "for _ in range(20):\n    if os.fork() == 0: sys.stdin.readline(); os._exit(0)\n"
        "for _ in range(30): threading.Thread(target=time.sleep, args=(600,), daemon=True).start()\n"
        "files = [open('/dev/null') for _ in range(40)]\n"
    )
    with run(code + READY) as engine:
        found = ready(engine)
        # A C library may have a thread of its own by then.
        assert found.processes == plain.processes + 20
        assert 50 <= found.threads - plain.threads <= 60
        assert found.descriptors >= plain.descriptors + 40
        engine.kill()
        engine.process.wait()
        assert engine.usage().processes == 0


def test_nobody_hides_what_it_has_open_by_being_undumpable(run: Callable[[str], Engine]) -> None:
    code = "import ctypes\nctypes.CDLL(None).prctl(4, 0, 0, 0, 0)\n" + FILLED
    with run(code + READY) as engine:
        assert ready(engine).memory_bytes > 64 * MIB
        status = Path(f"/proc/{max(pid for _, pid in usages._tree(engine.process.pid))}").stat()
        assert status.st_uid == Path("/proc/self").stat().st_uid  # of an undumpable one, root's


def test_a_process_that_hides_what_others_show_is_found(run: Callable[[str], Engine], monkeypatch: pytest.MonkeyPatch) -> None:
    with run(READY) as engine:
        assert ready(engine).shows

        def refused(*_: Any) -> None:
            raise PermissionError  # as of a program that its user may run and not read

        monkeypatch.setattr(usages, "_add_open", refused)
        engine.usage()  # once: it may be about to end
        with pytest.raises(Untrustworthy, match="hides its open files"):
            engine.usage()


LITTLE = Settings(engine_memory_bytes=100, engine_processes=10, engine_tasks=50)


@pytest.mark.parametrize(
    ("found", "code", "cause"),
    [
        (Usage(10, 50, 50, 50), None, ""),
        (Usage(1, 1, 101), "out_of_memory", "101 bytes of memory, the limit is 100"),
        (Usage(1, 1, 50, 10, shared={(1, 1): 30, (1, 2): 30}), "out_of_memory", "110 bytes"),
        (Usage(1, 1, 50, 60, shared={(1, 1): 30}), "out_of_memory", "110 bytes"),
        (Usage(11, 11), "too_many_processes", "11 processes, the limit is LATHE_ENGINE_PROCESSES 10"),
        (Usage(1, 51), "too_many_processes", "51 threads, the limit is LATHE_ENGINE_TASKS 50"),
        (Usage(1, 1, descriptors=100_001), "too_many_processes", "open files"),
    ],
)
def test_what_is_too_much_has_a_code_a_cause_and_a_remedy(found: Usage, code: str | None, cause: str) -> None:
    error = find_excess(found, LITTLE)
    assert (error and error["code"]) == code
    if error is not None:
        assert cause in error["cause"]
        assert error["remedy"]


class Greedy(Writing):
    def usage(self) -> Usage:
        return Usage(processes=1000)


@pytest.mark.parametrize("database", ["sqlite"], indirect=True)
def test_an_engine_of_too_many_processes_is_ended(settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(event_relay, "MEMORY_SECONDS", -1.0)
    claim, engine = sent_and_claimed(settings, tmp_path / "1"), Greedy()
    with pytest.raises(Failed, check=lambda error: error.error["code"] == "too_many_processes"):
        follow(claim, tmp_path / "1", LocalStorage(tmp_path / "store"), settings, engine)
    assert engine.ended
