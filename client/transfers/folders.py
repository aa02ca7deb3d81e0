"""Models and datasets in local folders: which files are sent, and what the service is told about them."""

import hashlib
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from client.core.fields import Kind
from client.errors import BadFolder
from client.types import Manifest
from compression.schema.file_names import TERMS
from compression.schema.tasks import IMAGE_FILES

PARALLEL = 4
Moved = Callable[[str, int], None]
"""Is called with (path, bytes moved since the last call), from several threads."""

MODEL_SUFFIXES = frozenset({".json", ".safetensors", ".txt", ".model", ".jinja"})
"""Files that from_pretrained reads at the top of a folder; other formats, samples and caches are not sent."""
WHOLE = {".gguf": "GGUF", ".onnx": "ONNX"}
"""Files that are a whole model. Beside safetensors, which take precedence, they are not sent either."""
DATA_SUFFIXES = {".jsonl": "jsonl", ".csv": "csv", ".tsv": "csv", ".parquet": "parquet", ".npz": "npz", ".txt": "text"}
SPLITS = {name: name for name in ("train", "validation", "test", "unlabelled")} | {
    **dict.fromkeys(("valid", "val", "dev"), "validation"),
    "unlabeled": "unlabelled",
}
OF_IMAGES = "If these are images in a folder for each class, say so: --task image-classification."
TEXT_COLUMNS = {"text": "text", "label": "label"}


@dataclass(frozen=True)
class Local:
    """A model or a dataset in a local folder: what to create, the files to send, and those that are left out."""

    kind: Kind
    body: dict[str, Any]
    files: list[Path]
    left_out: tuple[Path, ...] = ()

    @property
    def bytes(self) -> int:
        """Size of all files together."""
        return sum(path.stat().st_size for path in self.files)


def local_model(folder: Path, name: str | None = None) -> Local:
    """Read the folder that save_pretrained() wrote. Raises BadFolder."""
    files, left = model_files(folder)
    return Local("models", {"name": name or folder.resolve().name}, files, tuple(left))


def local_dataset(
    place: Path, name: str | None = None, *, task: str = "text-classification", columns: Mapping[str, str] | None = None
) -> Local:
    """Read a file (train) or a folder of train.*, validation.*, test.*, unlabelled.*. Raises BadFolder."""
    found, splits = data_files(place)
    body = {
        "name": name or place.resolve().stem,
        "task": task,
        "format": found,
        "columns": dict(columns or TEXT_COLUMNS),
        "splits": {split: [path.name for path in paths] for split, paths in splits.items()},
    }
    return Local("datasets", body, [path for paths in splits.values() for path in paths])


def model_files(folder: Path) -> tuple[list[Path], list[Path]]:
    """Return (files that are sent, files that are left out) of a model's folder. Raises BadFolder."""
    remedy = "Name the folder that save_pretrained() wrote, or one with a GGUF or ONNX file."
    if not folder.is_dir():
        raise BadFolder(f"{folder} is not a folder", remedy=remedy)
    here = sorted(path for path in folder.iterdir() if not path.name.startswith("."))
    taken = [path for path in here if path.is_file() and path.suffix in MODEL_SUFFIXES]
    whole = [path for path in here if path.is_file() and path.suffix in WHOLE]
    if whole and not any(path.suffix == ".safetensors" for path in taken):
        if len(whole) > 1:
            kinds = " and ".join(sorted({WHOLE[path.suffix] for path in whole}))
            raise BadFolder(
                f"{folder} has {len(whole)} {kinds} files, and a model is one",
                remedy="Put the one that is meant into a folder of its own; llama-gguf-split --merge joins parts.",
            )
        taken += whole
    if not taken:
        raise BadFolder(
            f"{folder} holds nothing of a model (no config.json, no *.safetensors, no *.gguf, no *.onnx)", remedy=remedy
        )
    taken = sorted({*taken, *(path for path in here if path.is_file() and TERMS.fullmatch(path.name))})
    return taken, [path for path in here if path not in taken]


def _split_of(path: Path) -> str | None:
    """Return the split that a file's name tells."""
    return SPLITS.get(path.stem.replace("_", "-").replace(".", "-").split("-")[0].lower())


def data_files(place: Path) -> tuple[str, dict[str, list[Path]]]:
    """Return (format, files of each split): a single file is train; in a folder a file's name tells its split."""
    if not place.exists():
        raise BadFolder(
            f"{place} does not exist", remedy="Name a data file, or a folder with train.jsonl and perhaps test.jsonl."
        )
    files = [place] if place.is_file() else sorted(path for path in place.iterdir() if path.suffix in DATA_SUFFIXES)
    splits: dict[str, list[Path]] = {}
    for path in files:
        split = "train" if place.is_file() else _split_of(path)
        if split:
            splits.setdefault(split, []).append(path)
    formats = {DATA_SUFFIXES.get(path.suffix, path.suffix) for paths in splits.values() for path in paths}
    if len(formats) > 1:  # beside rows, a .txt is what somebody wrote about them
        splits = {name: rows for name, paths in splits.items() if (rows := [path for path in paths if path.suffix != ".txt"])}
        formats -= {"text"}
    if "train" not in splits:
        images = place.is_dir() and any(
            path.suffix.lower() in IMAGE_FILES for deep in ("*/*", "*/*/*") for path in place.glob(deep)
        )
        names = ", ".join(f"{split}.jsonl" for split in ("train", "validation", "test", "unlabelled"))
        remedy = f"Call the files {names}; besides .jsonl, the endings .csv, .tsv, .parquet, .npz and .txt are read."
        unread = sorted(path.name for path in place.iterdir() if path.is_file() and _split_of(path) == "train")
        cause = f"{place} has no train split" + (f": {', '.join(unread[:3])} has another ending than is read" if unread else "")
        if any(name.endswith(".json") for name in unread):
            remedy += " Of a JSON array, write each object on a line of its own."
        raise BadFolder(cause, remedy=OF_IMAGES if images else remedy)
    if len(formats) > 1 or not formats <= set(DATA_SUFFIXES.values()):
        raise BadFolder(
            f"{place}: data must be of one format, jsonl, csv, parquet, npz or text, but is {', '.join(sorted(formats))}",
            remedy="Convert the files, or name a folder that holds one format alone.",
        )
    return formats.pop(), splits


def sha256_of(path: Path) -> str:
    """Hash a file in constant memory."""
    with path.open("rb") as source:
        return hashlib.file_digest(source, "sha256").hexdigest()


def manifest(files: Iterable[Path], hashed: Moved | None = None) -> dict[str, tuple[Manifest, Path]]:
    """Hash the files, a few at a time; return name → (manifest, local path)."""

    def promise(path: Path) -> tuple[Manifest, Path]:
        found = Manifest(path=path.name, size=path.stat().st_size, sha256=sha256_of(path))
        if hashed:
            hashed(path.name, found.size)
        return found, path

    with ThreadPoolExecutor(PARALLEL) as pool:
        return {found.path: (found, path) for found, path in pool.map(promise, files)}
