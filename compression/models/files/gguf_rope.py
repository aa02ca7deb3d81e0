"""Read scaled positions from a GGUF file: linear scaling from two keys, Llama 3's from a tensor of frequency divisors."""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from compression.models.files import gguf_header
from compression.schema.errors import UnsupportedArchitecture

TENSOR = "rope_freqs.weight"
KEYS = ("rope.scaling.type", "rope.scaling.factor")
LLAMA3 = {"low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 8192}
"""Settings that Llama 3.1, 3.2 and 3.3 have in common; their factors, 8 and 32, are the last divisor."""
BASE = 10_000.0
"""The base of the frequencies if a file does not give it; stock code uses the same."""
REMEDY = "Send the checkpoint that the file was made of, whose config.json says how positions are scaled."


def is_linear(metadata: Mapping[str, Any]) -> bool:
    """Return whether positions are divided by one number and the file gives that number."""
    kind, factor = (metadata.get(f"{metadata['general.architecture']}.{key}") for key in KEYS)
    return kind == "linear" and isinstance(factor, float) and 0 < factor < 1e6


def scaling(path: Path, content: gguf_header.Gguf, head: int) -> dict[str, Any]:
    """Return the stock settings for scaled positions without a base, or raise UnsupportedArchitecture. head: its channels."""
    name = content.metadata["general.architecture"]
    linear = is_linear(content.metadata)
    tensor = next((tensor for tensor in content.tensors if tensor.name == TENSOR), None)
    if tensor is None:
        return {"rope_type": "linear", "factor": content.metadata[f"{name}.{KEYS[1]}"]} if linear else {}
    divisors = np.fromfile(path, "<f4", head // 2, offset=tensor.start) if tensor.dtype == "F32" else np.zeros(0)
    base = content.metadata.get(f"{name}.rope.freq_base", BASE)
    if (
        linear
        or head % 2
        or len(divisors) != head // 2
        or not np.allclose(divisors, _llama3(divisors[-1], base, head), rtol=1e-4, atol=0)
    ):
        cause = f"{TENSOR} scales positions in another way than Llama 3.1 and 3.2 do, which is all that a config could say"
        raise UnsupportedArchitecture(cause, param=f"{path.name}:{TENSOR}", remedy=REMEDY)
    return {"rope_type": "llama3", "factor": float(divisors[-1]), **LLAMA3} if divisors[-1] != 1 else {}


def _llama3(factor: float, base: float, head: int) -> np.ndarray[Any, Any]:
    """Compute the divisors as llama.cpp's converter and stock code do. -> (head // 2,)

    Wavelengths that are short compared to the original context stay, long ones are divided by `factor`, with a smooth change.
    """
    waves = 2 * math.pi * base ** (np.arange(0, head, 2) / head)
    low, high = LLAMA3["low_freq_factor"], LLAMA3["high_freq_factor"]
    smooth = np.clip((LLAMA3["original_max_position_embeddings"] / waves - low) / (high - low), 0, 1)
    return np.asarray(1 / ((1 - smooth) / factor + smooth))
