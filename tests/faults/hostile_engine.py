"""Stands in for `compression/engine/commands/run.py` in a copy of the code: an engine that a model file has taken over.

It does what the job's seed says, with what the test wrote to `forged.json` beside it.
"""

import fcntl
import json
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

FORGED: dict[str, Any] = {}
OUT = Path.cwd() / "out"


class Channel:
    def __init__(self, number: int) -> None:
        self.number = number

    def write(self, data: bytes) -> None:
        while data:
            data = data[os.write(self.number, data) :]

    def say(self, **event: Any) -> None:
        self.write(json.dumps(event).encode() + b"\n")

    def artifact(self, name: str, *files: dict[str, Any]) -> None:
        self.say(type="artifact", artifact={**FORGED["artifact"], "name": name, "files": files})

    def row(self, checkpoint: tuple[dict[str, Any], ...] = (), **changes: Any) -> None:
        self.say(type="stage_finished", row={**FORGED["row"], **changes}, checkpoint=checkpoint)


def a_file_is_a_link_out(channel: Channel) -> None:
    (OUT / "artifacts/x").mkdir(parents=True)
    (OUT / "artifacts/x/file").symlink_to(FORGED["victim"]["place"])
    channel.artifact("x", {**FORGED["victim"]["file"], "path": "file"})


def a_folder_is_a_link_out(channel: Channel) -> None:
    OUT.mkdir()
    place = Path(FORGED["victim"]["place"])
    (OUT / "artifacts").symlink_to(place.parent.parent)
    channel.artifact(place.parent.name, {**FORGED["victim"]["file"], "path": place.name})


def an_artifacts_name_leads_to_anothers_bytes(channel: Channel) -> None:
    deep = OUT / "1/2/3/4/5"
    deep.mkdir(parents=True)
    (OUT / "artifacts").symlink_to(deep)
    folder, _, name = FORGED["victim"]["key"].rpartition("/")
    target = f"../../../../{folder}"
    (OUT / "artifacts" / target).mkdir(parents=True)
    (OUT / "artifacts" / target / name).write_bytes(b"overwritten")
    channel.artifact(target, {**FORGED["overwritten"], "path": name})


def saved_training_is_anothers(channel: Channel) -> None:
    OUT.mkdir()
    (OUT / "checkpoints").symlink_to(FORGED["bystander"])
    channel.say(type="training_saved", stage="baseline", phase="tune", step=1, total=2, folder="training-1", files=[])


def a_file_is_a_pipe(channel: Channel) -> None:
    (OUT / "artifacts/x").mkdir(parents=True)
    os.mkfifo(OUT / "artifacts/x/file")
    channel.artifact("x", {"path": "file", "size": 0, "sha256": "0" * 64})


def a_file_is_another(channel: Channel) -> None:
    (OUT / "artifacts/x").mkdir(parents=True)
    (OUT / "artifacts/x/file").write_bytes(b"not what was promised")
    channel.artifact("x", {**FORGED["overwritten"], "path": "file"})


def a_checkpoints_path_leads_out(channel: Channel) -> None:
    channel.row(({"path": "../../../spec.json", "size": 1, "sha256": "0" * 64},))


def a_flood(channel: Channel) -> None:
    """At first of what costs a worker nothing, so that its bound is near; then of what it stores, for as long as it reads."""
    for _ in range(950):
        channel.say(type="working")
    while True:
        channel.say(type="log", message="look at me")


def a_line_without_end(channel: Channel) -> None:
    for _ in range(8):
        channel.write(b"x" * (1 << 20))


def no_event_at_all(channel: Channel) -> None:
    channel.write(b'{"type": "outcome", "state": "succeeded", "job": "another"}\n')


def numbers_that_are_none(channel: Channel) -> None:
    channel.write(b'{"type":"progress","stage":"baseline","phase":"x","step":1,"total":2,"fraction":0.5,"loss":NaN}\n')


def numbers_beyond_all_bounds(channel: Channel) -> None:
    channel.row(parameters={"total": 10**30, "embedding": 0, "other": 10**30})


def a_pause_that_nobody_asked_for(channel: Channel) -> None:
    channel.say(type="paused")


def a_stage_twice(channel: Channel) -> None:
    channel.row()
    channel.row()


def a_part_that_the_job_has_not(channel: Channel) -> None:
    channel.say(type="part_finished", stage="baseline", part="other", number=0, checkpoint=[])


def a_mean_of_parts_that_the_job_has_not(channel: Channel) -> None:
    channel.row(parts={"other": FORGED["row"]})


def a_report_of_rows_that_never_were(channel: Channel) -> None:
    channel.say(type="finished", report=FORGED["report"])
    os._exit(0)


TRICKS: tuple[Callable[[Channel], None], ...] = (
    a_file_is_a_link_out,
    a_folder_is_a_link_out,
    an_artifacts_name_leads_to_anothers_bytes,
    saved_training_is_anothers,
    a_file_is_a_pipe,
    a_file_is_another,
    a_checkpoints_path_leads_out,
    a_flood,
    a_line_without_end,
    no_event_at_all,
    numbers_that_are_none,
    numbers_beyond_all_bounds,
    a_pause_that_nobody_asked_for,
    a_stage_twice,
    a_part_that_the_job_has_not,
    a_mean_of_parts_that_the_job_has_not,
    a_report_of_rows_that_never_were,
)


def a_tower_of_folders(channel: Channel) -> None:
    """What no recursion removes, in place of a lock too."""
    Path(".held").unlink()
    for start in (".held", "tower"):
        Path(start).mkdir()
        at = os.open(start, os.O_RDONLY)
        for _ in range(1500):
            os.mkdir("d", dir_fd=at)
            deeper = os.open("d", os.O_RDONLY, dir_fd=at)
            os.close(at)
            at = deeper
        os.close(at)
    no_event_at_all(channel)


def a_pipe_for_a_promise(channel: Channel) -> None:
    """What other workers would read to learn how much this job was promised."""
    os.mkfifo(".reserved")
    time.sleep(2)
    no_event_at_all(channel)


def memory_behind_a_descriptor(_: Channel) -> None:
    held = os.memfd_create("held")
    for _block in range(1024):
        os.write(held, bytes(1 << 20))
    time.sleep(60)


def a_crowd(_: Channel) -> None:
    for _child in range(100):
        if os.fork() == 0:
            time.sleep(60)
            os._exit(0)
    time.sleep(60)


def a_turn_that_never_ends(_: Channel) -> None:
    """The host's lock, asked for as the engine does, and kept."""
    asks = os.open(os.environ["LATHE_MEASURE_TURN"], os.O_RDWR | os.O_CREAT)
    fcntl.flock(asks, fcntl.LOCK_EX)
    time.sleep(600)


NEIGHBOURS: tuple[tuple[Callable[[Channel], None], str], ...] = (
    (a_tower_of_folders, "engine_misbehaved"),
    (a_pipe_for_a_promise, "engine_misbehaved"),
    (memory_behind_a_descriptor, "out_of_memory"),
    (a_crowd, "too_many_processes"),
    (a_turn_that_never_ends, ""),
)
"""What harms others on the host, and how it ends; the last one goes on until it is stopped."""


def main(path: Path, events_fd: int, *_: object) -> int:
    """Play the trick that the seed names; then wait to be stopped, which should not take long."""
    channel = Channel(events_fd)
    FORGED.update(json.loads((Path(__file__).parent / "forged.json").read_text("utf-8")))
    (*TRICKS, *(trick for trick, _ in NEIGHBOURS))[json.loads(path.read_text("utf-8"))["recipe"]["train"]["seed"]](channel)
    time.sleep(20)
    return 0
