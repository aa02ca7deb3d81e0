"""The exporter: ships the headline's model once more, as arrays for a few lines of NumPy, with figures of its own.

Shows `Exporter`, which writes the files and tells how they are opened. `FormatSpec.runtime` names the function that reopens a
folder for verification and measurement.
"""

from pathlib import Path
from typing import Any

import numpy as np
import torch

from compression.export.exporter import Exporter
from compression.models.linear_layers import is_linear
from compression.quantization.dynamic_int8 import integer_rows, levels_of
from lathe_toy.numpy_runtime import FILE


class NumpyExporter(Exporter):
    """model.npz: of each linear layer its weights (integers and one scale an output if it is quantized) and its bias."""

    templates = Path(__file__).parent / "templates"

    def write(self, model: Any, folder: Path, precision: str) -> None:
        found: dict[str, Any] = {}
        for name, layer in model.named_modules():
            if is_linear(layer):
                weight, scale = layer.weight.detach(), torch.ones(len(layer.weight), 1)
                if precision != "float32":
                    weight, scale = integer_rows(weight, levels_of(layer))
                found |= {f"{name}.weight": weight, f"{name}.scale": scale, f"{name}.bias": layer.bias.detach()}
        np.savez(folder / FILE, **{name: array.numpy() for name, array in found.items()})

    def opens_with(self, precision: str, task: str, *, split: bool) -> str:
        return f"numpy.load('{FILE}')"


EXPORTER = NumpyExporter()
