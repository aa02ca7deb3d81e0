"""Measure an upload: the bytes of its weights and the type that stores them. Torch-free."""

from collections import Counter
from pathlib import Path

from compression.models.files import safetensors_header
from compression.models.validation.kinds import kind_of
from compression.models.validation.model import FLOATS
from compression.schema.report.measurements import Uploaded


def uploaded(folder: Path) -> Uploaded:
    """Read the size and type of a model's weights. Raises the first reason why they cannot be read."""
    if kind := kind_of(folder):
        return kind.uploaded(folder)
    tensors, problems = safetensors_header.read_weights(folder)
    if problems:
        raise problems[0]
    kinds: Counter[str] = Counter()
    for tensor in tensors:
        kinds[FLOATS.get(tensor.dtype, tensor.dtype.lower())] += tensor.end - tensor.start
    files = {tensor.file for tensor in tensors}
    return Uploaded(bytes=sum((folder / file).stat().st_size for file in files), dtype=kinds.most_common(1)[0][0])
