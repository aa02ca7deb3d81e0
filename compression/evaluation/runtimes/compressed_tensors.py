"""Checkpoints of compressed-tensors in stock transformers on the CPU."""

from importlib.metadata import version
from pathlib import Path

from compression.evaluation.runtimes import transformers
from compression.evaluation.runtimes.transformers import TransformersDecoder, TransformersRunner


def open_folder(folder: Path, *, threads: int) -> TransformersRunner | TransformersDecoder:
    """Open the checkpoint in `folder`. Raises transformers' own errors, ImportError without compressed-tensors.

    On a CPU its weights are dequantized to bfloat16 in the first pass; activations are rounded in each.
    """
    found = transformers.open_folder(folder, threads=threads)
    found.name += f", compressed-tensors {version('compressed-tensors')}"
    return found
