"""Images are listed from folders, Parquet and arrays; every reason to refuse them is found before a job."""

import json
import os
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as arrow
import pyarrow.parquet
import pytest

from compression.modalities.image import sources
from compression.modalities.image.arrays import ArrayImages
from compression.modalities.image.dataset import load_dataset
from compression.modalities.image.dataset_check import check
from compression.modalities.image.locations import ImageOpener, Location
from compression.modalities.image.parquet import ParquetImages
from compression.schema.errors import CompressionError, EmptySplit, MissingFile, UnseenLabel
from compression.schema.file_names import check_name
from compression.schema.job_spec import Columns, Data
from compression.schema.validation import DataFacts
from tests.support.images import CLASSES, encoded, folder_data, npz_data, parquet_data, pixels

SPLITS = {"train": ("train",)}


def write(place: Path, *names: str) -> None:
    for number, name in enumerate(names):
        (place / name).parent.mkdir(parents=True, exist_ok=True)
        (place / name).write_bytes(encoded(pixels(number % 2, number)))


def reasons(data: Data, place: Path) -> list[tuple[str, str]]:
    found = check(data, place)
    assert isinstance(found, list)
    return [(one.code, one.cause) for one in found]


def refused(data: Data, place: Path, code: str, cause: str) -> CompressionError:
    found = check(data, place)
    assert isinstance(found, list), found
    assert [one.code for one in found] == [code], [one.cause for one in found]
    assert cause in found[0].cause
    return found[0]


@pytest.mark.parametrize("made", [folder_data, npz_data, parquet_data])
def test_all_formats_give_the_same_images_and_labels(made: Any, tmp_path: Path) -> None:
    data = made(tmp_path)
    facts, dataset = check(data, tmp_path), load_dataset(data, tmp_path, seed=3)
    assert isinstance(facts, DataFacts)
    assert facts.labels == dataset.labels == (("0", "1") if data.format == "npz" else CLASSES)
    assert facts.rows["train"] == 12
    assert facts.mean_words == 0
    opener = ImageOpener(tmp_path)
    for split in dataset.splits:
        for row in json.loads(json.dumps(dataset.judged(split))):  # as the measuring process gets it
            image = np.asarray(opener.open(Location.of(row))).mean(axis=(0, 1))
            assert (image[0] > image[2]) == bool(row["label"])
    opener.close()


def test_missing_splits_are_carved_with_the_seed_and_the_same_share_of_each_label(tmp_path: Path) -> None:
    data = npz_data(tmp_path, 60)
    one, again, other = (load_dataset(data, tmp_path, seed=seed) for seed in (1, 1, 2))
    assert one == again != other
    assert {name: len(rows) for name, rows in one.splits.items()} == {"train": 42, "validation": 6, "test": 12}
    assert one.facts()["validation"].labels == {"0": 3, "1": 3}
    assert one.carved == {"validation", "test"}
    numbers = sorted(place.number or 0 for rows in one.splits.values() for place in rows.places)
    assert numbers == list(range(60))


def test_names_may_have_spaces_and_any_characters(tmp_path: Path) -> None:
    for split in ("train", "test"):
        write(tmp_path, f"{split}/Straße 東京/ein Bild.PNG", f"{split}/Straße 東京/mehr/noch eins.png", f"{split}/été/ü.jpeg")
        write(tmp_path, *(f"{split}/été/{number}.png" for number in range(4)))
    (tmp_path / "test/été").rename(tmp_path / "test/e\u0301te\u0301")  # as another system spells it
    write(tmp_path, "train/été/README.md", "train/.hidden/x.png", "train/été/.DS_Store", "train/été/Thumbs.db")
    facts = check(Data(format="folder", splits={**SPLITS, "test": ("test",)}), tmp_path)
    assert isinstance(facts, DataFacts), facts
    assert facts.label_counts == {"train": {"Straße 東京": 2, "été": 5}, "test": {"Straße 東京": 2, "été": 5}}


def test_files_may_be_named_one_by_one(tmp_path: Path) -> None:
    write(tmp_path, *(f"photos/{name}/{number}.png" for number in range(5) for name in ("a", "b")))
    files = tuple(f"photos/{name}/{number}.png" for number in range(5) for name in ("a", "b"))
    facts = check(Data(format="folder", splits={"train": files}), tmp_path)
    assert isinstance(facts, DataFacts)
    assert facts.label_counts == {"train": {"a": 5, "b": 5}}


def test_every_undecodable_image_is_found_before_training(tmp_path: Path) -> None:
    data = folder_data(tmp_path)
    whole = encoded(pixels(0, 0, 64), "JPEG")
    (tmp_path / "train/warm/cut.jpg").write_bytes(whole[:-200])
    (tmp_path / "test/cool/text.png").write_bytes(b"no image")
    found = reasons(data, tmp_path)
    assert [code for code, _ in found] == ["unreadable_data"] * 2
    assert found[0][1].startswith("train/warm/cut.jpg cannot be decoded")
    assert found[1][1].startswith("test/cool/text.png cannot be decoded")


def test_folders_that_say_no_class_are_refused(tmp_path: Path) -> None:
    data = folder_data(tmp_path)
    (tmp_path / "train/empty").mkdir()
    assert "leave the folder out" in refused(data, tmp_path, "empty_split", "train/empty has no images").remedy_text
    (tmp_path / "train/empty").rmdir()
    write(tmp_path, "train/loose.png")
    refused(data, tmp_path, "unreadable_data", "train/loose.png is in no class's folder")
    (tmp_path / "train/loose.png").unlink()
    (tmp_path / "train/warm/photo.heic").write_bytes(b"x")
    assert ".webp" in refused(data, tmp_path, "unreadable_data", "warm/photo.heic is no image").remedy_text
    refused(Data(format="folder", splits={"train": ("nothing",)}), tmp_path, "missing_file", "nothing is not there")


def test_a_class_whose_name_is_not_unicode_is_refused(tmp_path: Path) -> None:
    data = folder_data(tmp_path)
    folder = os.fsencode(tmp_path / "train") + b"/caf\xe9"
    os.mkdir(folder)  # noqa: PTH102 (a name that Path cannot spell)
    Path(os.fsdecode(folder), "x.png").write_bytes(encoded(pixels(0, 0)))
    refused(data, tmp_path, "unreadable_data", "not valid Unicode")


def test_labels_that_teach_nothing_are_refused(tmp_path: Path) -> None:
    data = folder_data(tmp_path)
    write(tmp_path, "test/other/x.png")
    refused(data, tmp_path, "unseen_label", "1 images of test have the label 'other'")
    with pytest.raises(UnseenLabel):
        load_dataset(data, tmp_path, seed=0)
    write(tmp_path, "one/a/x.png", "one/a/y.png")
    refused(Data(format="folder", splits={"train": ("one",)}), tmp_path, "single_label", "all 2 images")
    write(tmp_path, "few/a/x.png", "few/b/y.png")
    refused(Data(format="folder", splits={"train": ("few",)}), tmp_path, "empty_split", "too few to carve")
    with pytest.raises(EmptySplit):
        load_dataset(Data(format="folder", splits={"train": ("few",)}), tmp_path, seed=0)
    with pytest.raises(MissingFile):
        load_dataset(Data(format="npz", splits={"train": ("few.npz",)}), tmp_path, seed=0)


def test_a_format_of_texts_is_refused(tmp_path: Path) -> None:
    refused(Data(format="jsonl", splits=SPLITS), tmp_path, "unreadable_data", "not read from jsonl")


def npz(place: Path, **arrays: Any) -> Data:
    np.savez(place / "x.npz", **arrays)
    return Data(format="npz", splits={"train": ("x.npz",)})


@pytest.mark.parametrize("order", [("named", "numbered"), ("numbered", "named")])
def test_names_in_one_file_and_numbers_in_another_are_names(tmp_path: Path, order: tuple[str, str]) -> None:
    for name, labels in (("named", np.array(["on", "off"])[LABELS]), ("numbered", LABELS)):
        np.savez(tmp_path / f"{name}.npz", images=IMAGES, labels=labels)
    facts = check(Data(format="npz", splits={"train": tuple(f"{name}.npz" for name in order)}), tmp_path)
    assert isinstance(facts, DataFacts), facts
    assert facts.labels == ("0", "1", "off", "on")


IMAGES = np.stack([pixels(number % 2, number) for number in range(10)])
LABELS = np.arange(10) % 2


@pytest.mark.parametrize(
    ("arrays", "labels"),
    [
        ({"images": IMAGES, "labels": LABELS}, ("0", "1")),
        ({"train_images": IMAGES, "train_labels": LABELS[:, None].astype(np.uint8)}, ("0", "1")),
        ({"x": IMAGES[..., 0], "y": np.array(["on", "off"])[LABELS]}, ("off", "on")),
        ({"image": IMAGES[..., :1], "label": np.array([b"a", "é".encode()])[LABELS]}, ("a", "é")),
        ({"x": IMAGES, "y": LABELS * 8 + 2}, ("2", "10")),
    ],
)
def test_arrays_have_usual_names_and_labels_keep_the_order_of_their_numbers(
    arrays: dict[str, Any], labels: tuple[str, ...], tmp_path: Path
) -> None:
    facts = check(npz(tmp_path, **arrays), tmp_path)
    assert isinstance(facts, DataFacts), facts
    assert facts.labels == labels


@pytest.mark.parametrize(
    ("arrays", "code", "cause"),
    [
        ({"images": IMAGES}, "missing_column", "has no array 'label'"),
        ({"x": IMAGES.astype(np.float32), "y": LABELS}, "unreadable_data", "of the type float32, not uint8"),
        ({"x": IMAGES.transpose(0, 3, 1, 2).copy(), "y": LABELS}, "unreadable_data", "the shape (10, 3, 12, 12)"),
        ({"x": IMAGES, "y": LABELS[:5]}, "unfit_label", "10 images (x) and 5 labels (y)"),
        ({"x": IMAGES, "y": LABELS.astype(object)}, "unreadable_data", "holds Python objects"),
        ({"x": IMAGES, "y": LABELS / 2}, "unreadable_data", "these are no labels"),
        ({"x": np.asfortranarray(IMAGES), "y": LABELS}, "unreadable_data", "column by column"),
    ],
)
def test_arrays_that_are_no_images_or_labels_are_refused(arrays: dict[str, Any], code: str, cause: str, tmp_path: Path) -> None:
    refused(npz(tmp_path, **arrays), tmp_path, code, cause)


def test_an_array_that_lies_about_its_size_is_refused(tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", IMAGES)
    data = (tmp_path / "x.npy").read_bytes()
    np.save(tmp_path / "y.npy", LABELS)
    for content, cause in (
        (data.replace(b"(10, 12", b"(99, 12"), "its header says 42768"),
        (data[:-9], "its header says 4320"),
        (b"\x93NUMPY", "x.npz is not readable as npz"),
        (b"no array", "x.npz is not readable as npz"),
    ):
        with zipfile.ZipFile(tmp_path / "x.npz", "w") as archive:
            archive.writestr("x.npy", content)
            archive.write(tmp_path / "y.npy", "y.npy")
        refused(Data(format="npz", splits={"train": ("x.npz",)}), tmp_path, "unreadable_data", cause)
    (tmp_path / "x.npz").write_bytes((tmp_path / "x.npz").read_bytes()[:40])
    refused(Data(format="npz", splits={"train": ("x.npz",)}), tmp_path, "unreadable_data", "x.npz is not readable as npz")


def test_a_damaged_array_is_found_by_its_checksum(tmp_path: Path) -> None:
    data = npz(tmp_path, x=IMAGES, y=LABELS)
    whole = bytearray((tmp_path / "x.npz").read_bytes())
    whole[2000] ^= 255
    (tmp_path / "x.npz").write_bytes(whole)
    assert "Bad CRC" in reasons(data, tmp_path)[0][1]


def test_rows_are_read_in_any_order(tmp_path: Path) -> None:
    parquet_data(tmp_path, 12, group=5)
    npz_data(tmp_path, 12)
    column, array = ParquetImages(tmp_path / "train.parquet", "image"), ArrayImages(tmp_path / "data.npz", "x_train")
    for number in (0, 1, 7, 11, 4, 5, 0, 10):
        assert column.at(number) == encoded(pixels(number % 2, number))
        np.testing.assert_array_equal(array.at(number), pixels(number % 2, number))
    column.close()
    array.close()


@pytest.mark.parametrize(
    ("columns", "code", "cause"),
    [
        ({"image": ["a.png"] * 4, "label": [0, 1, 0, 1]}, "unreadable_data", "not the bytes of image files"),
        ({"picture": [b"x"] * 4, "label": [0, 1, 0, 1]}, "missing_column", "no column 'image'"),
        (
            {"image": [b"x"] * 4, "label": [0.5, 1.0, 0.5, 1.0]},
            "unreadable_data",
            "row 1 of p.parquet: the label is of type float",
        ),
    ],
)
def test_columns_that_are_no_images_or_labels_are_refused(
    columns: dict[str, Any], code: str, cause: str, tmp_path: Path
) -> None:
    arrow.parquet.write_table(arrow.table(columns), tmp_path / "p.parquet")
    refused(Data(format="parquet", splits={"train": ("p.parquet",)}), tmp_path, code, cause)


def test_rows_without_bytes_and_labels_without_names_are_refused(tmp_path: Path) -> None:
    path, data = tmp_path / "train.parquet", parquet_data(tmp_path)
    table = arrow.parquet.read_table(path)
    images = [
        None if number == 2 else {"bytes": None, "path": "x"} if number == 8 else one.as_py()
        for number, one in enumerate(table["image"])
    ]
    arrow.parquet.write_table(table.set_column(0, table.schema.field(0), arrow.array(images, table.schema.field(0).type)), path)
    assert [cause for _, cause in reasons(data, tmp_path)] == [
        f"row {row} of train.parquet has no bytes of an image" for row in (3, 9)
    ]
    labels = arrow.array([-1, *range(11)], arrow.int64())
    arrow.parquet.write_table(table.set_column(1, table.schema.field(1), labels), path)
    refused(data, tmp_path, "unfit_label", "row 1 of train.parquet: the label -1 is none of the 2")
    path.write_bytes(b"PAR1")
    refused(data, tmp_path, "unreadable_data", "not readable as parquet")


def test_columns_and_arrays_may_have_other_names(tmp_path: Path) -> None:
    columns = Columns(image="photo", label="kind")
    arrow.parquet.write_table(
        arrow.table({"photo": [encoded(one) for one in IMAGES], "kind": list("ab" * 5)}), tmp_path / "p.parquet"
    )
    facts = check(Data(format="parquet", columns=columns, splits={"train": ("p.parquet",)}), tmp_path)
    assert isinstance(facts, DataFacts)
    assert facts.labels == ("a", "b")
    np.savez(tmp_path / "x.npz", photo=IMAGES, kind=LABELS, x=IMAGES[:1], y=LABELS[:1])
    facts = check(Data(format="npz", columns=columns, splits={"train": ("x.npz",)}), tmp_path)
    assert isinstance(facts, DataFacts)
    assert facts.rows == {"train": 10}


def test_uploads_may_have_images_and_arrays() -> None:
    for name in ("train/cat/1.JPG", "x.npz", "a b/ü.webp"):
        check_name(name, "dataset")
    for name in ("model.npz", "photo.jpg"):
        with pytest.raises(CompressionError):
            check_name(name, "model")


def test_labels_that_only_one_file_numbers_keep_their_numbers() -> None:
    listing = sources.Listing(labels=["bird", "dog", "ant", "cat"], names=("cat", "dog", "horse"))
    assert listing.ordered() == ("cat", "dog", "ant", "bird")
