"""What writes a family's ONNX graphs node by node, where they are not traced. An adapter names it (`graph_writer`)."""

from abc import ABC, abstractmethod
from pathlib import Path
from pkgutil import resolve_name
from typing import Any

from torch import nn
from transformers import PreTrainedModel

from compression.models.adapters.registry import adapter_of
from compression.quantization.fake_quantize import Simulation


class GraphWriter(ABC):
    """Writes the models of some families."""

    @abstractmethod
    def write(self, model: PreTrainedModel, folder: Path, *, simulation: Simulation | None = None) -> tuple[Path, ...]:
        """Write folder/model.onnx without changing the model; return the paths of all files, that one first.

        simulation: the integers to write, None for float32. Raises UnsupportedArchitecture for a model with a hindrance.
        """

    def hindrance(self, model: nn.Module) -> str | None:  # noqa: ARG002 (some families' own)
        """Return what in a model this does not write, or None."""
        return None

    def config(self, written: dict[str, Any]) -> dict[str, Any]:
        """Return the config.json that lies beside the file. written: the stock one."""
        return written


def writer_of(model: nn.Module) -> GraphWriter | None:
    """Find what writes a model's graph; None if it is traced. Raises TypeError if an adapter names anything else."""
    if (named := adapter_of(model).graph_writer) is None:
        return None
    found = resolve_name(named)
    if not isinstance(found, GraphWriter):
        raise TypeError(f"{named} is no GraphWriter")
    return found
