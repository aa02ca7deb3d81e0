"""The files that a model or a dataset may have, and their allowed names.

This is a list of allowed files, not of dangerous ones: a file that neither the engine nor stock tools read does not belong in
an upload, and uploaded files are passed on to machines and people who trust them.
"""

import re
import unicodedata
from collections.abc import Iterable, Iterator
from typing import Literal

from compression.schema.errors import UnexpectedFile, UnsafeCheckpoint
from compression.schema.tasks import MODALITIES

WEIGHTS = frozenset({".safetensors", ".gguf", ".onnx"})
TEXTS = frozenset({".json", ".txt", ".jinja", ".md", ".rst"})
"""Configurations, tokenizers, vocabularies, chat templates, cards."""
SENTENCEPIECE = ".model"
ROWS = frozenset({".jsonl", ".json", ".ndjson", ".csv", ".tsv", ".parquet", ".txt", ".md", ".rst"})
TERMS = re.compile(r"readme\.md|(licen[cs]e|notice|copying)([_-][a-z0-9_-]*)?(\.(txt|md|rst))?", re.IGNORECASE)
"""Files that state the licence of a model: the artifacts' cards pass it on."""
PICKLES = frozenset(
    {".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle", ".joblib", ".pdparams", ".npy", ".npz", ".h5", ".hdf5", ".keras"}
)
CODE = frozenset({".py", ".pyc", ".pyd", ".so", ".dll", ".dylib", ".exe", ".sh", ".bat", ".cmd", ".ps1", ".js", ".jar", ".cu"})
DEVICES = re.compile(r"(con|prn|aux|nul|com[0-9]|lpt[0-9]|conin\$|conout\$)(\..*)?", re.IGNORECASE)
"""Windows treats these as devices, whatever follows a full stop."""
UNSEEN = frozenset({"Cc", "Cf", "Cs", "Zl", "Zp"})
"""Unicode's categories of characters that no reader of a list sees: controls, directions, halves of pairs, ends of lines."""
FORBIDDEN = '<>:"|?*'
"""Characters that Windows has no file names with."""
LONGEST_NAME = 240
"""Bytes of a file's or folder's name in UTF-8. Systems take 255; a copy in the making has a suffix."""
MODEL_REMEDY = "Leave it out. A model has *.safetensors, *.gguf or *.onnx, *.json, *.txt, *.model, *.jinja, card and licence."
ONE_ONNX_FILE = (
    "Save the model as one file: torch.onnx.export(..., external_data=False), or onnx.save(onnx.load(path), new_path)."
)
DATA_REMEDY = (
    "Leave it out, or name it by its format: *.jsonl, *.csv, *.tsv, *.parquet, *.txt, *.npz or images, a card and a licence."
)


def portable(path: str) -> str:
    """Return a relative path that means the same file on every system. Raises ValueError."""
    parts = path.split("/")
    if "\\" in path or any(part.startswith(".") or not part for part in parts):
        raise ValueError("must be a relative path with forward slashes, without hidden, empty, '.' or '..' parts")
    if any(character in FORBIDDEN or unicodedata.category(character) in UNSEEN for character in path):
        raise ValueError(f"must have no invisible characters and none of {FORBIDDEN}, which Windows does not take")
    if any(part.startswith("-") for part in parts):
        raise ValueError("no part may begin with '-', which commands take for an option")
    if any(part.endswith((".", " ")) for part in parts):
        raise ValueError("no part may end with '.' or a space, which Windows leaves out")
    if any(len(part.encode()) > LONGEST_NAME for part in parts):
        raise ValueError(f"no part may have more than {LONGEST_NAME} bytes in UTF-8")
    if device := next((part for part in parts if DEVICES.fullmatch(part)), None):
        raise ValueError(f"{device!r} names a device of Windows")
    return path


def folders_of(path: str) -> Iterator[str]:
    """Yield the folders that a path lies in, the outermost first."""
    parts = path.split("/")
    for depth in range(1, len(parts)):
        yield "/".join(parts[:depth])


def collision(paths: Iterable[str]) -> str | None:
    """Describe two paths that are one file on some system; None if none are.

    Some systems ignore case, and some spell é with one character or with two as they like.
    """
    seen: dict[str, str] = {}
    folders: set[str] = set()
    for path in paths:
        name = _folded(path)
        if (other := seen.get(name)) is not None:
            return f"{path!r} twice" if other == path else f"{other!r} and {path!r}, which differ in {_difference(other, path)}"
        seen[name] = path
        folders.update(folders_of(name))
    both = next((path for name, path in sorted(seen.items()) if name in folders), None)
    return f"{both!r} as a file and as a folder" if both else None


def _folded(path: str) -> str:
    return path.casefold() if path.isascii() else unicodedata.normalize("NFC", path.casefold())


def _difference(one: str, other: str) -> str:
    return "case only" if one.casefold() == other.casefold() else "the spelling of characters with accents only"


def check_name(path: str, kind: Literal["model", "dataset"]) -> None:
    """Check that a model or a dataset may have a file. Raises UnsafeCheckpoint, UnexpectedFile."""
    name = path.rpartition("/")[2]
    suffix = f".{name.rpartition('.')[2].lower()}" if "." in name else ""
    rows = ROWS.union(*(modality.data_files for modality in MODALITIES.values()))
    taken = rows if kind == "dataset" else WEIGHTS | TEXTS | {SENTENCEPIECE}
    if suffix in taken or TERMS.fullmatch(name):
        return
    remedy = DATA_REMEDY if kind == "dataset" else MODEL_REMEDY
    if kind == "model" and ".onnx" in name.lower():
        cause = f"{path} holds weights outside of the ONNX file that names it"
        raise UnexpectedFile(cause, param=path, remedy=ONE_ONNX_FILE)
    if suffix in PICKLES:
        more = {"remedy": remedy} if kind == "dataset" else {}
        raise UnsafeCheckpoint(f"{path} is a pickle, which can run code when it is opened", param=path, **more)
    if suffix in CODE:
        raise UnsafeCheckpoint(f"{path} is code, which could run when the {kind} is opened", param=path, remedy=remedy)
    raise UnexpectedFile(f"{path} is no file of a {kind}: nothing here reads one of that name", param=path, remedy=remedy)
