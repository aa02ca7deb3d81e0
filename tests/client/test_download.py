"""Downloads over real connections that break: what is there under its name is whole and right, or it is not there."""

import hashlib
import json
import os
import shutil
from pathlib import Path

import pytest

from app.jobs import jobs
from client.api import Lathe
from client.commands.profiles import to_profile
from client.commands.serve import RECOMMENDED, downloaded, serve
from client.errors import BadFolder, Problem, WrongHash
from client.transfers.download import SEGMENT, download, local_path
from tests.app.api.conftest import add_artifact_of
from tests.client.conftest import FileServer, Live, served
from tests.client.figures import recommending

SMALL = os.urandom(300_000)
LARGE = os.urandom(1 << 20) * (2 * SEGMENT // (1 << 20)) + b"tail"


@pytest.fixture
def file_server(file_server: FileServer) -> FileServer:
    """One that has a small file, unless a test gives it others."""
    file_server.files = {"model.onnx": SMALL}
    return file_server


def parts(folder: Path) -> list[str]:
    return [path.name for path in folder.rglob("*.part*")]


def leave_part(folder: Path, data: bytes, of: bytes = SMALL) -> None:
    """Leave what an earlier process would of a file."""
    (folder / "int8").mkdir()
    part = folder / "int8" / f"model.onnx.{hashlib.sha256(of).hexdigest()[:8]}.part"
    part.write_bytes(data)
    part.with_name(f"{part.name}.counts").write_bytes(len(data).to_bytes(8, "little"))


def set_room(monkeypatch: pytest.MonkeyPatch, free: int) -> None:
    usage = shutil.disk_usage("/")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=free))


def test_all_files_come_with_their_folders(file_server: FileServer, lathe: Lathe, tmp_path: Path) -> None:
    file_server.files = {"model.onnx": SMALL, "sub/config.json": b"{}", "empty": b""}
    moved: list[int] = []
    folder = download(lathe, file_server.artifact(), tmp_path, moved=lambda _, amount: moved.append(amount))
    assert folder == tmp_path / "int8"
    assert {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()} == file_server.files
    assert sum(moved) == len(SMALL) + 2


@pytest.mark.parametrize("ranges", [True, False])
def test_a_large_file_comes_in_several_ranges_or_whole(
    file_server: FileServer, lathe: Lathe, tmp_path: Path, *, ranges: bool
) -> None:
    file_server.files, file_server.ranges = {"model.onnx": LARGE}, ranges
    folder = download(lathe, file_server.artifact(), tmp_path)
    assert (folder / "model.onnx").read_bytes() == LARGE
    assert not ranges or len({headers["range"] for headers in file_server.asked}) == 2
    assert parts(tmp_path) == []


def test_a_connection_that_breaks_is_taken_up_where_it_broke(file_server: FileServer, lathe: Lathe, tmp_path: Path) -> None:
    file_server.cut_after = [100_000, 50_000]
    moved: list[int] = []
    folder = download(lathe, file_server.artifact(), tmp_path, moved=lambda _, amount: moved.append(amount))
    assert (folder / "model.onnx").read_bytes() == SMALL
    assert sum(moved) == len(SMALL)
    first, second, third = file_server.asked
    assert "range" not in first
    assert 0 < int(second["range"].removeprefix("bytes=").split("-")[0]) <= 100_000
    assert second["if-range"] == f'"{file_server.artifact().files[0].sha256}"'
    assert third["range"] > second["range"]


def test_a_part_of_an_earlier_process_is_not_fetched_again(file_server: FileServer, lathe: Lathe, tmp_path: Path) -> None:
    leave_part(tmp_path, SMALL[:200_000])
    folder = download(lathe, file_server.artifact(), tmp_path)
    assert (folder / "model.onnx").read_bytes() == SMALL
    assert file_server.sent == 100_000


def test_a_file_that_is_there_and_right_is_not_fetched(file_server: FileServer, lathe: Lathe, tmp_path: Path) -> None:
    download(lathe, file_server.artifact(), tmp_path)
    file_server.asked.clear()
    download(lathe, file_server.artifact(), tmp_path)
    assert file_server.asked == []


def test_a_part_of_another_file_is_thrown_away(file_server: FileServer, lathe: Lathe, tmp_path: Path) -> None:
    leave_part(tmp_path, b"x" * 1000)
    file_server.stale = True  # the service says: not the file that your part is of
    folder = download(lathe, file_server.artifact(), tmp_path)
    assert (folder / "model.onnx").read_bytes() == SMALL


def test_parts_as_earlier_versions_left_them_are_removed(file_server: FileServer, lathe: Lathe, tmp_path: Path) -> None:
    (tmp_path / "int8").mkdir()
    for number in range(4):
        (tmp_path / "int8" / f"model.onnx.part{number}").write_bytes(b"old")
    download(lathe, file_server.artifact(), tmp_path)
    assert parts(tmp_path) == []


def test_a_part_of_another_artifact_is_not_taken_for_this_one_s(file_server: FileServer, lathe: Lathe, tmp_path: Path) -> None:
    leave_part(tmp_path, b"x" * 1000, of=b"an older job's")
    folder = download(lathe, file_server.artifact(), tmp_path)
    assert (folder / "model.onnx").read_bytes() == SMALL
    assert parts(tmp_path) == []


def test_files_of_an_older_artifact_in_the_folder_do_not_stay(file_server: FileServer, lathe: Lathe, tmp_path: Path) -> None:
    def listing(*paths: str) -> bytes:
        return json.dumps({"files": [{"path": path} for path in paths]}).encode()

    listed = listing("model.onnx", "chat_template.jinja", "../mine")
    file_server.files = {"model.onnx": b"a", "chat_template.jinja": b"a", "manifest.json": listed}
    folder = download(lathe, file_server.artifact(), tmp_path)
    for mine in (folder / "notes.txt", tmp_path / "mine"):
        mine.touch()
    file_server.files = {"model.onnx": b"b", "manifest.json": listing("model.onnx")}
    download(lathe, file_server.artifact(), tmp_path)
    assert sorted(path.name for path in folder.iterdir()) == ["manifest.json", "model.onnx", "notes.txt"]
    assert (tmp_path / "mine").exists()


def test_a_large_file_needs_no_more_room_than_its_size(
    file_server: FileServer, lathe: Lathe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file_server.files = {"model.onnx": LARGE}
    sizes: list[int] = []
    fsync = os.fsync

    def synced(handle: int) -> None:
        sizes.append(sum(path.stat().st_size for path in tmp_path.rglob("model.onnx*")))
        fsync(handle)

    monkeypatch.setattr(os, "fsync", synced)
    set_room(monkeypatch, len(LARGE))
    download(lathe, file_server.artifact(), tmp_path)
    assert len(LARGE) <= max(sizes) < len(LARGE) + 100


def test_room_is_asked_for_what_is_yet_to_come(
    file_server: FileServer, lathe: Lathe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    set_room(monkeypatch, len(SMALL) - 1)
    with pytest.raises(BadFolder, match=f"{len(SMALL)} are yet to come"):
        download(lathe, file_server.artifact(), tmp_path)
    set_room(monkeypatch, len(SMALL))
    download(lathe, file_server.artifact(), tmp_path)
    set_room(monkeypatch, 0)
    download(lathe, file_server.artifact(), tmp_path)


@pytest.mark.parametrize("left", [b"x" * 400_000, b"x" * 300_000])
def test_a_wrong_part_does_no_lasting_harm(file_server: FileServer, lathe: Lathe, tmp_path: Path, left: bytes) -> None:
    leave_part(tmp_path, left)
    if len(left) == len(SMALL):  # complete, so nothing is asked for; its hash gives it away
        with pytest.raises(WrongHash):
            download(lathe, file_server.artifact(), tmp_path)
    folder = download(lathe, file_server.artifact(), tmp_path)
    assert (folder / "model.onnx").read_bytes() == SMALL


@pytest.mark.parametrize("content", [SMALL, LARGE], ids=["one range", "several ranges"])
def test_what_has_another_hash_is_deleted(file_server: FileServer, lathe: Lathe, tmp_path: Path, content: bytes) -> None:
    file_server.files = {"model.onnx": content}
    file_server.ranges = content is SMALL  # with a stale hash in If-Range a true server sends the whole file
    with pytest.raises(WrongHash, match=r"model\.onnx"):
        download(lathe, file_server.artifact(**{"model.onnx": "0" * 64}), tmp_path)
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


def test_another_host_is_sent_neither_key_nor_etag(file_server: FileServer, lathe: Lathe, tmp_path: Path) -> None:
    elsewhere = FileServer(files={"model.onnx": LARGE})
    file_server.files = {"model.onnx": LARGE}
    with served(elsewhere.app()) as url:
        file_server.redirect = url
        folder = download(lathe, file_server.artifact(), tmp_path)
    assert (folder / "model.onnx").read_bytes() == LARGE
    assert all("authorization" in headers for headers in file_server.asked)
    assert elsewhere.asked
    assert not any({"authorization", "if-range"} & set(headers) for headers in elsewhere.asked)
    assert all("range" in headers for headers in elsewhere.asked)


def test_a_file_that_is_gone_is_a_problem_at_once(file_server: FileServer, lathe: Lathe, tmp_path: Path) -> None:
    artifact = FileServer(files={"model.onnx": SMALL}).artifact()
    missing = artifact.model_copy(update={"id": "art_1/x/y"})
    with pytest.raises(Problem) as error:
        download(lathe, missing, tmp_path)
    assert error.value.status == 404


@pytest.mark.parametrize(
    "path", ["../x", "/etc/passwd", "a/../../x", "a\\..\\x", "", "a\0b", ".git/config", "-rf/x", "C:/x", "con"]
)
def test_no_manifest_leads_out_of_the_folder(tmp_path: Path, path: str) -> None:
    with pytest.raises(BadFolder):
        local_path(tmp_path, path)


def test_no_link_leads_out_of_the_folder(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "link").symlink_to(tmp_path)
    with pytest.raises(BadFolder):
        local_path(tmp_path / "in", "link/x")


def test_what_is_served_of_a_job_is_the_form_that_its_report_recommends(
    live: Live, job: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = recommending()

    live.end(job, lambda session, claim: jobs.finish(session, claim, found.model_dump(mode="json"), []))
    facts = [one.model_dump(mode="json") for one in found.artifacts]
    for one in facts:
        add_artifact_of(live.service, job, {"model": one["name"].encode()}, one, one["name"])
    place = downloaded(job, RECOMMENDED, tmp_path)
    assert place.name == found.to_run[0] != found.headline
    assert (place / "model").read_bytes() == place.name.encode()

    with Lathe.from_config() as lathe:
        assert tuple(lathe.artifact(one).name for one in to_profile(lathe, job)) == found.to_run

    # With a folder of the job's name that has both, the format that is asked for is still the one that is served.
    monkeypatch.chdir(tmp_path)
    started: list[list[str]] = []
    monkeypatch.setattr(os, "execv", lambda _, command: started.append(command))
    for kind in (RECOMMENDED, "onnx", RECOMMENDED):
        serve(job, kind=kind)
    served = [Path(command[command.index("serve") + 1]) for command in started]
    assert served == [Path(job) / name for name in (found.to_run[0], found.headline, found.to_run[0])]
