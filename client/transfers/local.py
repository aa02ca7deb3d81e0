"""What a local folder is to the service: which files are promised, and what is said of them."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from client.core.fields import Kind
from client.transfers.upload import data_files, model_files

TEXT_COLUMNS = {"text": "text", "label": "label"}


@dataclass(frozen=True)
class Local:
    """A model or a dataset that lies here: what to create, the files to send, and those that are left out."""

    kind: Kind
    body: dict[str, Any]
    files: list[Path]
    left_out: tuple[Path, ...] = ()

    @property
    def bytes(self) -> int:
        """All files together."""
        return sum(path.stat().st_size for path in self.files)


def local_model(folder: Path, name: str | None = None) -> Local:
    """Look through the folder that save_pretrained() wrote. Raises BadFolder."""
    files, left = model_files(folder)
    return Local("models", {"name": name or folder.resolve().name}, files, tuple(left))


def local_dataset(
    place: Path, name: str | None = None, *, task: str = "text-classification", columns: Mapping[str, str] | None = None
) -> Local:
    """Look through a file (train) or a folder of train.*, validation.*, test.*, unlabelled.*. Raises BadFolder."""
    found, splits = data_files(place)
    body = {
        "name": name or place.resolve().stem,
        "task": task,
        "format": found,
        "columns": dict(columns or TEXT_COLUMNS),
        "splits": {split: [path.name for path in paths] for split, paths in splits.items()},
    }
    return Local("datasets", body, [path for paths in splits.values() for path in paths])
