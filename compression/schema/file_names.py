"""The files that a model or a dataset may have, and their allowed names.

This is a list of allowed files, not of dangerous ones: a file that neither the engine nor stock tools read does not belong in
an upload, and uploaded files are passed on to machines and people who trust them.
"""

import re
from collections.abc import Iterable
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
MODEL_REMEDY = "Leave it out. A model has *.safetensors, *.gguf or *.onnx, *.json, *.txt, *.model, *.jinja, card and licence."
ONE_ONNX_FILE = (
    "Save the model as one file: torch.onnx.export(..., external_data=False), or onnx.save(onnx.load(path), new_path)."
)
DATA_REMEDY = "Leave it out, or name it by its format: *.jsonl, *.csv, *.parquet, *.txt, *.npz or images, a card and a licence."


def portable(path: str) -> str:
    """Return a relative path that means the same file on every system. Raises ValueError."""
    parts = path.split("/")
    if "\\" in path or any(part.startswith(".") or not part for part in parts):
        raise ValueError("must be a relative path with forward slashes, without hidden, empty, '.' or '..' parts")
    if any(part.startswith("-") for part in parts):
        raise ValueError("no part may begin with '-', which commands take for an option")
    if any(part.endswith(".") for part in parts):
        raise ValueError("no part may end with '.', which Windows leaves out")
    if device := next((part for part in parts if DEVICES.fullmatch(part)), None):
        raise ValueError(f"{device!r} names a device of Windows")
    return path


def collision(paths: Iterable[str]) -> str | None:
    """Describe two paths of a manifest that collide on a system that ignores case; None if none do."""
    seen: dict[str, str] = {}
    folders: dict[str, str] = {}
    for path in paths:
        if (other := seen.setdefault(path.casefold(), path)) is not path:
            return f"{path!r} twice" if other == path else f"{other!r} and {path!r}, which differ in case only"
        parts = path.split("/")
        folders |= {"/".join(parts[:depth]).casefold(): "/".join(parts[:depth]) for depth in range(1, len(parts))}
    both = next((path for name, path in sorted(seen.items()) if name in folders), None)
    return f"{both!r} as a file and as a folder" if both else None


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
