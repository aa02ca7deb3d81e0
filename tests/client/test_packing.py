"""Folders of images by class on their way to the service: packed into Parquet files that are read as the folder is."""

import io
import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet
import pytest
from PIL import Image
from sqlalchemy import update
from sqlalchemy.orm import Session

from app.store.models import Dataset as DatasetRow
from client.api import Lathe
from client.core import endpoints
from client.errors import BadFolder
from client.transfers import image_parquet, packing
from client.transfers.folders import Local, Moved, data_files, manifest
from client.transfers.image_files import fault
from client.transfers.upload import add
from client.types import Manifest
from compression.modalities.image.dataset import load_dataset
from compression.modalities.image.dataset_check import check
from compression.modalities.image.locations import ImageOpener
from compression.schema.errors import UnreadableData
from compression.schema.job_spec import Columns, Data
from compression.schema.validation import DataFacts
from tests.client.conftest import Command, Live
from tests.compression.planning.test_network_rules import model_of
from tests.support.images import encoded, folder_data, pixels

TASK = "image-classification"


@contextmanager
def packed(place: Path, **options: Any) -> Iterator[Local]:
    @contextmanager
    def shown(title: str, size: int) -> Iterator[Moved]:
        told: list[int] = []
        yield lambda _, amount: told.append(amount)
        assert (title, sum(told)) == (f"packing {place.name}", size)

    with packing.dataset_to_send(place, shown, task=TASK, **options) as local:
        yield local


def data_of(local: Local) -> tuple[Data, Path]:
    body = local.body
    data = Data(format=body["format"], columns=Columns(**body["columns"]), splits=body["splits"])
    return data, local.files[0].parent


def cuts(data: bytes) -> Iterator[bytes]:
    return (data[:end] for end in (*range(len(data) - 30, len(data)), *range(1, len(data), 97)))


def test_a_packed_folder_is_read_as_the_folder_is(tmp_path: Path) -> None:
    plain = folder_data(tmp_path, train=12, test=6)
    (tmp_path / "train" / "LICENSE").write_text("")
    (tmp_path / "classes.txt").write_text("cool\nwarm")
    with packed(tmp_path, name="photos") as local:
        assert [path.name for path in local.files] == ["test-00000.parquet", "train-00000.parquet"]
        assert (local.body["name"], local.body["task"], local.body["format"]) == ("photos", TASK, "parquet")
        assert local.left_out == (tmp_path / "classes.txt",)
        data, base = data_of(local)
        (tmp_path / "classes.txt").unlink()
        assert check(data, base) == check(plain, tmp_path)
        one, other = load_dataset(data, base, seed=1), load_dataset(plain, tmp_path, seed=1)
        assert one.facts() == other.facts()
        first, second = ImageOpener(base), ImageOpener(tmp_path)
        for split in one.splits:
            for mine, theirs in zip(one.splits[split].places, other.splits[split].places, strict=True):
                np.testing.assert_array_equal(np.asarray(first.open(mine)), np.asarray(second.open(theirs)))
        first.close()
    assert not base.exists()


def photos(place: Path, *names: str, kind: str = "PNG") -> Path:
    for number, name in enumerate(names):
        (place / name).parent.mkdir(parents=True, exist_ok=True)
        (place / name).write_bytes(encoded(pixels(number % 2, number), kind))
    return place


def test_a_folder_of_classes_is_train_whatever_they_are_called(tmp_path: Path) -> None:
    names = [f"{label}/{number}.png" for label in ("10", "2", "test", "é", "e\u0301") for number in range(4)]
    with packed(photos(tmp_path, *names)) as local:
        data, base = data_of(local)
        facts = check(data, base)
        assert isinstance(facts, DataFacts), facts
        assert facts.labels == ("10", "2", "test", "é")  # in the order of the names, as in a folder
        assert facts.label_counts["train"] == {"10": 4, "2": 4, "test": 4, "é": 8}


def test_shards_and_groups_are_of_bounded_size_and_the_same_each_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packing, "SHARD_BYTES", 4000)
    monkeypatch.setattr(image_parquet, "GROUP_BYTES", 1500)
    folder_data(tmp_path, train=30, test=2)
    made = []
    for _ in range(2):
        with packed(tmp_path, columns={"image": "photo", "label": "kind"}) as local:
            made.append({path.name: path.read_bytes() for path in local.files})
            names = [path.name for path in local.files if path.name.startswith("train")]
            tables = [pyarrow.parquet.ParquetFile(local.files[0].with_name(name)) for name in names]
            assert len(tables) > 2
            assert all(table.metadata.num_row_groups > 1 for table in tables[:-1])
            rows = [row for table in tables for row in table.read().to_pylist()]
            data, base = data_of(local)
            assert isinstance(check(data, base), DataFacts)
    assert made[0] == made[1]
    assert [row["kind"] for row in rows] == [0] * 15 + [1] * 15
    assert [row["photo"]["path"] for row in rows[:2]] == ["train/cool/0.png", "train/cool/10.png"]
    assert rows[0]["photo"]["bytes"] == (tmp_path / "train/cool/0.png").read_bytes()
    features = json.loads(tables[0].schema_arrow.metadata[b"huggingface"])["info"]["features"]
    assert features == {"photo": {"_type": "Image"}, "kind": {"names": ["cool", "warm"], "_type": "ClassLabel"}}


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
def test_an_image_that_was_cut_off_is_known_wherever_the_cut_is(kind: str) -> None:
    data = encoded(np.random.default_rng(0).integers(0, 255, (40, 40, 3)).astype(np.uint8), kind)
    assert fault(data) is None
    for part in cuts(data):
        assert fault(part) is not None, len(part)


def test_other_images_are_left_to_the_service() -> None:
    for kind in ("GIF", "BMP", "TIFF"):
        assert fault(encoded(pixels(0, 0), kind)) is None
    progressive = io.BytesIO()
    Image.fromarray(pixels(0, 0, 64)).save(progressive, "JPEG", progressive=True, exif=b"Exif\0\0" + b"\xff\xd9" * 9)
    assert fault(progressive.getvalue()) is None
    assert fault(progressive.getvalue()[:-20]) is not None


def refused(place: Path) -> BadFolder:
    with pytest.raises(BadFolder) as error, packed(place):
        pass
    assert error.value.remedy_text
    return error.value


def test_each_refusal_names_what_is_to_blame(tmp_path: Path) -> None:
    place = photos(tmp_path / "photos", *(f"{label}/{number}.jpg" for label in "ab" for number in range(3)), kind="JPEG")
    whole = (place / "b/1.jpg").read_bytes()
    for content, what in ((whole[:-9], "is cut off after"), (b"<html>", "is no JPEG"), (b"", "is empty")):
        (place / "b/1.jpg").write_bytes(content)
        assert refused(place).cause.startswith(f"{place / 'b/1.jpg'} {what}")
    with (place / "b/1.jpg").open("wb") as large:
        large.truncate(packing.MOST_BYTES + 1)
    assert "b/1.jpg has 33,554,433 bytes" in refused(place).cause
    (place / "b/1.jpg").write_bytes(whole)
    (place / "c").mkdir()
    assert "photos/c has no images" in refused(place).cause
    (place / "c/photo.heic").write_bytes(b"x")
    assert "c/photo.heic is no image" in refused(place).cause
    (place / "c/photo.heic").rename(place / "photo.jpg")
    (place / "c").rmdir()
    assert "photos/photo.jpg is in no class's folder" in refused(place).cause
    assert "one class alone: only" in refused(photos(tmp_path / "alone", "only/1.png", "only/deep/2.png")).cause
    assert "has no train split" in refused(photos(tmp_path / "parts", "val/a/1.png", "test/a/2.png")).cause
    (tmp_path / "bare").mkdir()
    assert "has no folders" in refused(tmp_path / "bare").cause


def test_an_image_that_only_a_decoder_refuses_is_named_by_its_path(tmp_path: Path) -> None:
    folder_data(tmp_path, train=20)
    broken = bytearray(encoded(pixels(0, 0, 40)))
    broken[60:200] = bytes(140)
    (tmp_path / "train/warm/3.png").write_bytes(broken)
    with packed(tmp_path) as local:
        data, base = data_of(local)
        found = check(data, base)
    assert isinstance(found, list)
    assert [type(problem) for problem in found] == [UnreadableData]
    assert found[0].cause.startswith("train/warm/3.png (row 17 of train-00000.parquet) cannot be decoded")


def test_images_without_their_task_are_told_from_rows(tmp_path: Path) -> None:
    folder_data(tmp_path)
    with pytest.raises(BadFolder) as error:
        data_files(tmp_path)
    assert "--task image-classification" in error.value.remedy_text


def test_a_folder_is_not_packed_without_the_package_that_writes_parquet(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder_data(tmp_path)
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    error = refused(tmp_path)
    assert "pyarrow is not installed" in error.cause
    assert ".[images]" in error.remedy_text


def test_parquet_and_arrays_are_sent_as_they_are(tmp_path: Path) -> None:
    (tmp_path / "train.npz").write_bytes(b"")
    with packing.dataset_to_send(tmp_path, None, task=TASK) as local:
        assert (local.body["format"], local.files) == ("npz", [tmp_path / "train.npz"])


def test_submit_packs_a_folder_and_sends_it_once(live: Live, command: Command, tmp_path: Path) -> None:
    model, _ = live.ready(model_of(labels=("cool", "warm", "c", "d", "e")).model_dump(mode="json"))
    folder_data(tmp_path / "my photos")
    submit = ("submit", "--model", model, "--data", str(tmp_path / "my photos"), "--task", TASK, "--dry-run", "--json")
    with Lathe(live.service.url, live.service.database.key) as lathe:
        with packed(tmp_path / "my photos", columns={"text": "text", "label": "label"}) as local:
            sent = add(lathe, "datasets", local.body, manifest(local.files))
        assert (sent.state, sent.file_count) == ("validating", 2)
        facts = {"kind": "dataset", "task": TASK, "labels": ["cool", "warm"], "mean_words": 0, "longest_words": 0}
        facts |= {"rows": {"train": 12}, "label_counts": {"train": {"cool": 6, "warm": 6}}}
        with Session(live.engine) as session, session.begin():
            session.execute(update(DatasetRow).where(DatasetRow.id == sent.id).values(state="ready", facts=facts))
        before = [one.id for one in lathe.uploads("datasets")]
        ran = command(*submit)
        assert [one.id for one in lathe.uploads("datasets")] == before
    assert ran.code == 0, ran.out
    assert json.loads(ran.out)["multiply_adds"] > 0


def test_a_broken_image_ends_submit_before_anything_is_sent(live: Live, command: Command, tmp_path: Path) -> None:
    folder_data(tmp_path)
    (tmp_path / "test/cool/0.png").write_bytes(encoded(pixels(0, 0))[:-4])
    ran = command("submit", "--model", "mdl_x", "--data", str(tmp_path), "--task", TASK, "--json")
    error = json.loads(ran.out)["error"]
    assert (ran.code, error["code"]) == (2, "bad_folder")
    assert "test/cool/0.png is cut off" in error["cause"]


def test_a_long_manifest_travels_in_pages_and_is_taken_up(live: Live, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(endpoints, "MANIFEST_PAGE", 5)
    files = [tmp_path / f"{number:02}.jsonl" for number in range(12)]
    for number, path in enumerate(files):
        path.write_text(f"{number} {tmp_path}")
    local = manifest(files)
    promises = [promise for promise, _ in local.values()]
    body = {"name": "long", "task": "text-classification", "format": "jsonl", "columns": {"text": "text", "label": "label"}}
    body["splits"] = {"train": ["11.jsonl"]}
    rest = {"files": 7, "bytes": sum(promise.size for promise in promises[5:])}
    with Lathe(live.service.url, live.service.database.key) as lathe:
        entries = [promise.model_dump() for promise in promises[:5]]
        begun = lathe.request("POST", "/v1/datasets", body={**body, "files": entries, "rest": rest}).json()["id"]
        for each, path in list(local.values())[:3]:
            lathe.put_file("datasets", begun, each, lambda path=path: [path.read_bytes()])
        moved: list[str] = []
        done = add(lathe, "datasets", body, local, moved=lambda name, _: moved.append(name))
        assert (done.id, done.state, done.file_count) == (begun, "validating", 12)
        assert sorted(moved) == [path.name for path in files[3:]]
        assert [file.path for file in lathe.files("datasets", begun)] == [path.name for path in files]
        many = [Manifest(path=f"{number}.json", size=0, sha256="0" * 64) for number in range(12)]
        made = lathe.create_upload("models", {"name": "m"}, many)
        assert (made.file_count, len(lathe.files("models", made.id))) == (12, 12)
