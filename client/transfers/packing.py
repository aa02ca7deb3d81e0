"""Packs a folder of images by class into Parquet files on the way to the service: a few files travel where thousands lay.

A folder of classes is train; `train`, `validation` and `test` with a folder for each class in each are splits. One image at a
time is in memory, and the Parquet files lie in a temporary folder (TMPDIR) until they are sent. The same images make the same
files, so what was sent once is not sent again.
"""

import unicodedata
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

from client.errors import BadFolder
from client.transfers.folders import DATA_SUFFIXES, SPLITS, TEXT_COLUMNS, Local, Moved, local_dataset
from client.transfers.image_files import fault
from client.transfers.image_parquet import ImageParquet, check_writer
from compression.schema.errors import CompressionError
from compression.schema.specs import FOLDER
from compression.schema.tasks import TASKS
from compression.system.image_folders import MOST_BYTES, class_folders, is_beside

SHARD_BYTES = 256 << 20
"""Bytes of images in a Parquet file; the last one of a split has fewer."""
Shown = Callable[[str, int], AbstractContextManager[Moved | None]]
"""Shows the progress of packing, of which a name and the bytes of all images are known."""


class Image(NamedTuple):
    """An image's file, and the name of its class."""

    path: Path
    label: str


@contextmanager
def dataset_to_send(
    place: Path,
    shown: Shown,
    name: str | None = None,
    *,
    task: str = "text-classification",
    columns: Mapping[str, str] | None = None,
) -> Iterator[Local]:
    """Give a dataset's files: those of `local_dataset`, or a folder of images by class, packed while this is open.

    Raises BadFolder, which names the file or folder that is to blame, or what is not installed.
    """
    if not _is_of_images(place, task):
        yield local_dataset(place, name, task=task, columns=columns)
        return
    check_writer(place)
    images, left_out = _images(place)
    named = {**TEXT_COLUMNS, **(columns or {})}
    size = sum(image.path.stat().st_size for some in images.values() for image in some)
    with TemporaryDirectory(prefix="lathe-") as folder:
        with shown(f"packing {place.resolve().name}", size) as moved:
            files = _pack(place, images, Path(folder), named, moved)
        splits = {split: [path.name for path in paths] for split, paths in files.items()}
        body = {"name": name or place.resolve().name, "task": task, "format": "parquet", "columns": named, "splits": splits}
        yield Local("datasets", body, [path for paths in files.values() for path in paths], left_out)


def _is_of_images(place: Path, task: str) -> bool:
    spec = TASKS.get(task)
    if spec is None or FOLDER not in spec.formats or not place.is_dir():
        return False
    return not any(path.is_file() and DATA_SUFFIXES.get(path.suffix) in spec.formats for path in place.iterdir())


def _images(place: Path) -> tuple[dict[str, list[Image]], tuple[Path, ...]]:
    """Return the images of each split, and what lies beside the splits. Raises BadFolder."""
    here = sorted(path for path in place.iterdir() if not path.name.startswith("."))
    folders = [path for path in here if path.is_dir()]
    if not folders:
        raise BadFolder(f"{place} has no folders", remedy="Put each image into a folder that bears the name of its class.")
    names = {path: SPLITS.get(path.name.lower()) for path in folders}
    if "train" not in names.values():
        if all(names.values()):
            raise BadFolder(f"{place} has no train split", remedy="Call its folders train, validation and test.")
        return {"train": _classes(place, place)}, ()  # a class may be called "test"
    splits: dict[str, list[Image]] = {}
    for path, split in names.items():
        if split is not None:
            splits.setdefault(split, []).extend(_classes(place, path))
    return splits, tuple(path for path in here if names.get(path) is None and not is_beside(path))


def _classes(place: Path, split: Path) -> list[Image]:
    try:
        found = [Image(path, _label(folder)) for folder, paths in class_folders(split) for path in paths]
    except CompressionError as problem:
        raise BadFolder(f"{place}: {problem.cause}", remedy=problem.remedy_text) from problem
    if not found:
        raise BadFolder(f"{split} has no classes", remedy="Put each image into a folder that bears the name of its class.")
    return found


def _label(folder: Path) -> str:
    name = unicodedata.normalize("NFC", folder.name)
    try:
        name.encode()
    except UnicodeEncodeError as problem:
        raise BadFolder(f"the name of the folder {folder.name!a} is not valid Unicode", remedy="Rename it.") from problem
    return name


def _pack(
    place: Path, images: Mapping[str, Sequence[Image]], target: Path, columns: Mapping[str, str], moved: Moved | None
) -> dict[str, list[Path]]:
    """Write the images of each split; return its files. Classes have numbers in the order of their names, as in a folder."""
    names = sorted({image.label for some in images.values() for image in some})
    if len({image.label for image in images["train"]}) < 2:
        remedy = "Name the folder that has a folder for each class, or one with train, validation and test in it."
        raise BadFolder(f"{place} has images of one class alone: {names[0]}", remedy=remedy)
    numbers = {name: number for number, name in enumerate(names)}
    files: dict[str, list[Path]] = {}
    for split, some in images.items():
        left = iter(some)
        image = next(left, None)
        while image is not None:
            path = target / f"{split}-{len(files.setdefault(split, [])):05}.parquet"
            files[split].append(path)
            written = 0
            with ImageParquet(path, names, image=columns.get("image", "image"), label=columns["label"]) as out:
                while image is not None and written < SHARD_BYTES:
                    data, shown = _read(image.path), image.path.relative_to(place).as_posix()
                    out.add(data, shown.encode(errors="replace").decode(), numbers[image.label])
                    written += len(data)
                    if moved:
                        moved(shown, len(data))
                    image = next(left, None)
    return files


def _read(path: Path) -> bytes:
    """Read an image's file. Raises BadFolder if it cannot be one."""
    size = path.stat().st_size
    if size > MOST_BYTES:
        remedy = "Save it with fewer pixels: networks read a few hundred on each side."
        raise BadFolder(f"{path} has {size:,} bytes; {MOST_BYTES:,} are the most of an image", remedy=remedy)
    data = path.read_bytes()
    if wrong := fault(data):
        raise BadFolder(f"{path} {wrong}", remedy="Put a whole copy of it there, or leave it out.")
    return data
