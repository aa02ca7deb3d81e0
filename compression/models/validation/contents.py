"""Check each file in a model's folder by its first bytes, whatever its name: no pickle, no native code."""

from pathlib import Path

from compression.models.files import safetensors_header
from compression.schema import file_names
from compression.schema.errors import CompressionError, UnsafeCheckpoint

HEAD = 1 << 16
"""Bytes that are read of each file."""
NATIVE = {
    (b"\x7fELF",): "a program or library of Linux",
    (b"\xfe\xed\xfa", b"\xce\xfa\xed\xfe", b"\xcf\xfa\xed\xfe"): "a program or library of macOS",
    (b"\xca\xfe\xba\xbe", b"\x00asm", b"BC\xc0\xde"): "compiled code",
    (b"#!/",): "a script",
}
"""First bytes → the kind of file that begins with them."""
BEGINS = {".gguf": b"GGUF", ".onnx": b"\x08"}
"""Suffix → the first bytes that a file with this suffix must have."""


def check(folder: Path) -> list[CompressionError]:
    """Return an error for each file that does not belong in a model."""
    problems: list[CompressionError] = []
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            try:
                _check_file(path, path.relative_to(folder).as_posix())
            except CompressionError as problem:
                problems.append(problem)
    return problems


def _check_file(path: Path, name: str) -> None:
    """Check one file. Raises UnsafeCheckpoint and UnexpectedFile."""
    file_names.check_name(name, "model")
    with path.open("rb") as stream:
        head = stream.read(HEAD)
    if safetensors_header.looks_like_pickle(head):
        raise UnsafeCheckpoint(f"{name} is a pickle under another name", param=name)
    suffix = path.suffix.lower()
    if suffix == ".safetensors":
        return  # begins with a length, which may be any bytes: safetensors_header.read_header checks them
    what = next((what for starts, what in NATIVE.items() if head.startswith(starts)), None)
    if what is None and head and suffix in BEGINS and not head.startswith(BEGINS[suffix]):
        what = f"no {suffix} file"
    sentencepiece = suffix == file_names.SENTENCEPIECE and head.startswith(b"\n")
    if what is None and suffix not in file_names.WEIGHTS and b"\0" in head and not sentencepiece:
        what = "a program or library of Windows" if head.startswith(b"MZ") else "no text"
    if what is not None:
        raise UnsafeCheckpoint(f"{name} is {what} under another name", param=name, remedy=file_names.MODEL_REMEDY)
