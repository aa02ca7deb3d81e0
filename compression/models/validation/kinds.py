"""The forms in which a model's weights may come beside safetensors: what tells them apart, checks and measures them."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from compression.models.files import gguf_model, safetensors_header
from compression.models.files.timm_config import is_timm
from compression.models.validation import network, timm_network
from compression.schema.errors import CompressionError
from compression.schema.report.measurements import Uploaded
from compression.schema.validation import ModelFacts


@dataclass(frozen=True)
class FolderKind:
    """One form of a model's folder."""

    is_one: Callable[[Path], bool]  #: whether a folder is of this form
    check: Callable[[Path], ModelFacts | list[CompressionError]]  #: its facts, or every reason to refuse it
    uploaded: Callable[[Path], Uploaded]  #: size and type of its weights; raises the first reason why they cannot be read


def kind_of(folder: Path) -> FolderKind | None:
    """Return the form of a folder; None if it has safetensors, or no weights."""
    return next((kind for kind in KINDS if kind.is_one(folder)), None)


def _uploaded_gguf(folder: Path) -> Uploaded:
    path, content = gguf_model.read_model(folder)
    return Uploaded(bytes=path.stat().st_size, dtype=content.dtype)


KINDS = (
    FolderKind(gguf_model.is_one, gguf_model.check, _uploaded_gguf),
    FolderKind(network.is_onnx, network.check_onnx, network.uploaded_onnx),
    FolderKind(is_timm, timm_network.check_timm, safetensors_header.stored),
)
