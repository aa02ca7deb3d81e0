"""Lists the images of a split with their labels, from folders, Parquet and .npz; no image is decoded. Torch-free."""

import unicodedata
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from compression.modalities.image import arrays, parquet
from compression.modalities.image.locations import Location
from compression.modalities.labels import MOST_LABELS, label
from compression.schema.errors import MissingColumn, MissingFile, UnfitLabel, UnreadableData, listed
from compression.schema.job_spec import Data
from compression.schema.recipe.base import Split
from compression.schema.specs import FOLDER
from compression.system.image_folders import class_folders

MOST_ROWS = 5_000_000
SPLIT_NAMES = {"train": ("train",), "validation": ("val", "valid", "validation"), "test": ("test",)}
"""The names of splits in the names of arrays, where one file has them all."""


@dataclass
class Listing:
    """The images of a split with their labels, in the order of the files."""

    places: list[Location] = field(default_factory=list)
    labels: list[str] = field(default_factory=list)
    names: tuple[str, ...] = ()  #: labels in the order of their numbers, if the files have it
    numbered: bool = False  #: whether all labels are whole numbers of arrays or columns, whose order is theirs

    def add(self, place: Location, name: str, split: Split) -> None:
        """Append an image. Raises UnreadableData if there are too many."""
        if len(self.places) == MOST_ROWS:
            cause, remedy = f"{split} has more than {MOST_ROWS:,} images", "Send a sample of them."
            raise UnreadableData(cause, param=f"data.splits.{split}", remedy=remedy)
        self.places.append(place)
        self.labels.append(name)

    def ordered(self) -> tuple[str, ...]:
        """Return the labels that occur, in the order of a model's outputs: by number if they have one, else by name."""
        known = set(self.labels)
        if self.names:
            named = [name for name in dict.fromkeys(self.names) if name in known]
            return (*named, *sorted(known.difference(named)))  # another file may have labels without numbers
        return tuple(sorted(known, key=int) if self.numbered else sorted(known))


def list_split(data: Data, split: Split, base: Path) -> Listing:
    """List a split. base: where relative paths start. Raises the errors of a missing or unreadable file, and of labels."""
    listing = Listing()
    for number, entry in enumerate(data.splits[split]):
        param, path = f"data.splits.{split}[{number}]", (base / entry).absolute()
        if not (path.exists() if data.format == FOLDER else path.is_file()):
            raise MissingFile(f"{entry} is not there", param=param)
        LISTERS[data.format](path, data, split, listing)
    if len(set(listing.labels)) > MOST_LABELS:
        cause = f"{split} has more than {MOST_LABELS} different labels"
        remedy = "Name the column that holds the class of each image, or put each class into one folder."
        raise UnreadableData(cause, param="data.columns.label", remedy=remedy)
    return listing


def _folder(path: Path, data: Data, split: Split, listing: Listing) -> None:  # noqa: ARG001
    if path.is_file():
        listing.add(Location(str(path)), _class_of(path.parent), split)
        return
    for folder, images in class_folders(path):
        name = _class_of(folder)
        for image in images:
            listing.add(Location(str(image)), name, split)


def _class_of(folder: Path) -> str:
    # Some systems spell é with one character and others with two: the same class must have the same name in each split.
    return label(unicodedata.normalize("NFC", folder.name), f"the folder {folder.name!r}", folder.name)


def _parquet(path: Path, data: Data, split: Split, listing: Listing) -> None:
    columns = data.columns
    labels, names = parquet.read_labels(path, columns.image, columns.label)
    for row, name in enumerate(labels):
        listing.add(Location(str(path), row, columns.image), name, split)
    first, other = (names, listing.names) if len(names) > len(listing.names) else (listing.names, names)
    listing.names = tuple(dict.fromkeys((*first, *other)))
    listing.numbered = not listing.names and all(name.removeprefix("-").isdecimal() for name in set(listing.labels))


def _npz(path: Path, data: Data, split: Split, listing: Listing) -> None:
    names, columns = arrays.array_names(path), data.columns
    image = _array(path, names, "image", columns.image, split, ("{}_images", "x_{}", "images", "x"))
    wanted = _array(path, names, "label", columns.label, split, ("{}_labels", "y_{}", "labels", "y"))
    rows, labels = arrays.image_header(path, image).shape[0], arrays.read_labels(path, wanted)
    if rows != len(labels):
        cause = f"{path.name} has {rows:,} images ({image}) and {len(labels):,} labels ({wanted})"
        raise UnfitLabel(cause, param=path.name, remedy="Send one label for each image.")
    for row, value in enumerate(labels.tolist()):
        where = f"row {row + 1} of {path.name}"
        listing.add(Location(str(path), row, image), label(value, where, f"{path.name}:{row + 1}"), split)
    listing.numbered = all(name.removeprefix("-").isdecimal() for name in set(listing.labels))


def _array(path: Path, names: tuple[str, ...], key: str, asked: str, split: Split, usual: tuple[str, ...]) -> str:
    """Return the name of an array: that of `columns`, else the first of the usual ones that the file has."""
    forms = [form.format(name) for form in usual for name in SPLIT_NAMES[split]]
    found = next((name for name in (asked, *forms) if name in names), None)
    if found is None:
        cause = f"{path.name} has no array {asked!r}, {', '.join(dict.fromkeys(forms))}; it has {listed(names)}"
        raise MissingColumn(cause, param=f"data.columns.{key}")
    return found


LISTERS: dict[str, Callable[[Path, Data, Split, Listing], Any]] = {FOLDER: _folder, "parquet": _parquet, "npz": _npz}
