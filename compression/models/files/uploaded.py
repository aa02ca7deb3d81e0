"""Measure an upload: the bytes of its weights and the type that stores them. Torch-free."""

from pathlib import Path

from compression.models.files import safetensors_header
from compression.models.validation.kinds import kind_of
from compression.schema.report.measurements import Uploaded


def uploaded(folder: Path) -> Uploaded:
    """Read the size and type of a model's weights. Raises the first reason why they cannot be read."""
    kind = kind_of(folder)
    return safetensors_header.stored(folder) if kind is None else kind.uploaded(folder)
