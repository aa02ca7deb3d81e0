"""Lists folders of images by class, for those who read them and for those who send them. Torch-free; no image is opened."""

from collections.abc import Iterator
from pathlib import Path

from compression.schema.errors import EmptySplit, UnreadableData
from compression.schema.file_names import TERMS
from compression.schema.tasks import IMAGE_FILES

MOST_BYTES = 32 << 20  #: of an image's file
BESIDE = frozenset({"thumbs.db", "desktop.ini"})
"""Files that systems put into folders of images."""


def class_folders(place: Path) -> Iterator[tuple[Path, list[Path]]]:
    """Yield each class's folder of a split with its images at any depth, both in the order of their names.

    Raises UnreadableData for a file that is no image or in no class's folder, and EmptySplit for a class without images.
    """
    beside = [one for one in sorted(place.iterdir()) if not one.is_dir() and not is_beside(one)]
    if beside:
        remedy = "Put each image into a folder that bears the name of its class."
        raise UnreadableData(f"{place.name}/{beside[0].name} is in no class's folder", param=beside[0].name, remedy=remedy)
    for folder in sorted(one for one in place.iterdir() if one.is_dir() and not one.name.startswith(".")):
        images = list(_images(folder))
        if not images:
            remedy = "Put images into it, or leave the folder out."
            raise EmptySplit(f"{place.name}/{folder.name} has no images", param=folder.name, remedy=remedy)
        yield folder, images


def _images(folder: Path) -> Iterator[Path]:
    for path in sorted(folder.rglob("*")):
        if path.is_dir() or is_beside(path) or any(part.startswith(".") for part in path.relative_to(folder).parts):
            continue
        if path.suffix.lower() not in IMAGE_FILES:
            cause = f"{folder.name}/{path.relative_to(folder)} is no image that is read here"
            remedy = f"Leave it out, or save it in another format. Images end in {', '.join(IMAGE_FILES)}."
            raise UnreadableData(cause, param=path.name, remedy=remedy)
        yield path


def is_beside(path: Path) -> bool:
    """Return whether a file among images is none of the data: hidden, put there by a system, a card or a licence."""
    return path.name.startswith(".") or path.name.lower() in BESIDE or TERMS.fullmatch(path.name) is not None
