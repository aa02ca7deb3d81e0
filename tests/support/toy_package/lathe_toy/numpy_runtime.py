"""The runtime of the exporter's format. The measuring process imports it, and it must not load torch."""

from pathlib import Path
from typing import Any

import numpy as np

FILE = "model.npz"


class NumpyRunner:
    """Computes the model with NumPy."""

    name = f"numpy {np.__version__}"

    def __init__(self, path: Path) -> None:
        with np.load(path) as stored:
            self.arrays = dict(stored)
        self.layers = len({name.split(".")[1] for name in self.arrays if name.startswith("layers.")})

    def linear(self, name: str, rows: Any) -> Any:
        """Multiply rows with a layer's weights; if those are integers, by integers with one scale a row."""
        weight, scale, bias = (self.arrays[f"{name}.{part}"] for part in ("weight", "scale", "bias"))
        if weight.dtype != np.int8:
            return rows @ weight.T + bias
        steps = np.maximum(np.abs(rows).max(axis=-1, keepdims=True) / 127, 1e-12).astype(np.float32)
        return np.rint(rows / steps) @ weight.T.astype(np.float32) * steps * scale.T + bias

    def logits(self, batch: Any) -> Any:
        states = batch.arrays["features"]
        for number in range(self.layers):
            up = np.maximum(self.linear(f"layers.{number}.up", states), 0)
            states = states + self.linear(f"layers.{number}.down", up)
        return self.linear("classifier", states).astype(np.float32)


def open_folder(folder: Path, *, threads: int) -> NumpyRunner:
    return NumpyRunner(folder / FILE)
