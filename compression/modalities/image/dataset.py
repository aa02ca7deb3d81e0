"""Reads the user's images from files and splits them; only `check` and encoding decode them. Torch-free.

Validation serves every choice, test only the report. If either is missing, it is carved from train with the recipe's seed, the
same share of each label; `ImageDataset.facts` reports it.
"""

from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path

from compression.modalities.carving import FILL_TRAIN, carved_rows
from compression.modalities.image.locations import Location
from compression.modalities.image.sources import Listing, list_split
from compression.modalities.modality import SPLITS
from compression.modalities.scoring.base import Row
from compression.schema.errors import EmptySplit, SingleLabel, UnseenLabel
from compression.schema.job_spec import Data, check_data
from compression.schema.recipe.base import Split, Task
from compression.schema.report.report import SplitFacts


@dataclass(frozen=True)
class ImageSplit:
    """Images with labels, in the order of the files."""

    places: tuple[Location, ...]
    labels: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.places)

    @classmethod
    def of(cls, listing: Listing) -> "ImageSplit":
        """Create a split from what was listed."""
        return cls(tuple(listing.places), tuple(listing.labels))

    def at(self, rows: list[int]) -> "ImageSplit":
        """Return the rows with these indices, in this order."""
        return ImageSplit(tuple(self.places[row] for row in rows), tuple(self.labels[row] for row in rows))


@dataclass(frozen=True)
class ImageDataset:
    """Three splits whose labels all occur in train."""

    labels: tuple[str, ...]  #: in the order of their ids; a model may have more than the images bear
    splits: dict[Split, ImageSplit]
    carved: frozenset[Split]
    base: Path  #: the folder that messages show paths from
    task: Task = "image-classification"
    unlabelled: tuple[Location, ...] = ()

    def ids(self, split: Split) -> list[int]:
        """Return the ids of a split's labels."""
        numbers = {label: number for number, label in enumerate(self.labels)}
        return [numbers[label] for label in self.splits[split].labels]

    def judged(self, split: Split) -> list[Row]:
        """Return a split's rows in the format of `scoring`."""
        return [place.judged(label) for place, label in zip(self.splits[split].places, self.ids(split), strict=True)]

    def in_order(self, labels: tuple[str, ...]) -> "ImageDataset":
        """Return the dataset with the labels of a model, in the order of its outputs. Raises ValueError if one is missing."""
        if missing := set(self.labels) - set(labels):
            raise ValueError(f"{sorted(missing)} are not among the labels {labels}")
        return replace(self, labels=labels)

    def facts(self) -> dict[str, SplitFacts]:
        """Return a description of each split's content."""
        return {
            name: SplitFacts(rows=len(rows), carved_from_train=name in self.carved, labels=counted(rows.labels))
            for name, rows in self.splits.items()
        }


def counted(labels: tuple[str, ...] | list[str]) -> dict[str, int]:
    """Return the number of images of each label, by name."""
    return dict(sorted(Counter(labels).items()))


def load_dataset(data: Data, base: Path, *, seed: int, task: Task = "image-classification") -> ImageDataset:
    """List all splits and carve the missing ones. Raises the errors of `list_split`, `check_split` and `carved_rows`."""
    check_data(task, data)
    given = {name: list_split(data, name, base) for name in SPLITS if name in data.splits}
    for name, listing in given.items():
        check_split(name, listing, given["train"])
    splits, train = {name: ImageSplit.of(listing) for name, listing in given.items()}, given["train"]
    parts = carved_rows(train.labels, given, seed)
    divided = {name: splits["train"].at(parts[name]) if name in parts else splits[name] for name in SPLITS}
    return ImageDataset(train.ordered(), divided, frozenset(divided) - frozenset(given), base.absolute(), task)


def check_split(name: Split, listing: Listing, train: Listing) -> None:
    """Refuse a split that a model cannot learn from or be scored on. Raises EmptySplit, SingleLabel and UnseenLabel."""
    param = f"data.splits.{name}"
    if not listing.places:
        raise EmptySplit(f"{name} has no images", param=param, remedy=FILL_TRAIN if name == "train" else None)
    known, own = set(train.labels), Counter(listing.labels)
    if name == "train" and len(known) < 2:
        raise SingleLabel(f"all {len(listing.places)} images of train have the label {next(iter(known))!r:.100}", param=param)
    if unseen := sorted(set(own) - known):
        others = f", and {len(unseen) - 1} more labels" if len(unseen) > 1 else ""
        cause = f"{own[unseen[0]]} images of {name} have the label {unseen[0]!r:.100}, which train lacks{others}"
        raise UnseenLabel(cause, param=param)
