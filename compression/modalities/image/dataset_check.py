"""Checks that a dataset's images can be read and trained on: each is decoded once, one in memory at a time. Torch-free."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from compression.modalities.carving import carved_rows
from compression.modalities.image.dataset import check_split, counted
from compression.modalities.image.locations import ImageOpener
from compression.modalities.image.sources import Listing, list_split
from compression.modalities.modality import SPLITS
from compression.schema.errors import CompressionError
from compression.schema.job_spec import Data, check_data
from compression.schema.recipe.base import Split, Task
from compression.schema.validation import DataFacts

MOST_PROBLEMS = 20  #: unreadable images of a split to name


@contextmanager
def _collected(problems: list[CompressionError]) -> Iterator[None]:
    """Append an error of this context to `problems`."""
    try:
        yield
    except CompressionError as problem:
        problems.append(problem)


def check(data: Data, base: Path, task: Task = "image-classification") -> DataFacts | list[CompressionError]:
    """Return the facts about a dataset, or every reason to reject it. Relative paths start at `base`."""
    listings, problems = dict[Split, Listing](), list[CompressionError]()
    with _collected(problems):
        check_data(task, data)
    if problems:
        return problems
    for name in SPLITS:
        if name in data.splits:
            with _collected(problems):
                listings[name] = list_split(data, name, base)
    train = listings.get("train")
    if train is not None:
        for name, listing in listings.items():
            with _collected(problems):
                check_split(name, listing, train)
        if not problems:
            with _collected(problems):
                carved_rows(train.labels, listings, seed=0)
    for listing in listings.values():
        problems += _undecodable(listing, base.absolute())
    if problems or train is None:
        return problems
    return DataFacts(
        task=task,
        labels=train.ordered(),
        rows={name: len(listing.places) for name, listing in listings.items()},
        label_counts={name: counted(listing.labels) for name, listing in listings.items()},
        values={},
        mean_words=0,
        longest_words=0,
    )


def _undecodable(listing: Listing, base: Path) -> list[CompressionError]:
    """Decode all images; return the first problems."""
    opener, problems = ImageOpener(base), list[CompressionError]()
    for place in listing.places:
        with _collected(problems):
            opener.open(place)
        if len(problems) == MOST_PROBLEMS:
            break
    opener.close()
    return problems
