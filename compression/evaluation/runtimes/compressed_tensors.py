"""Checkpoints of compressed-tensors in stock transformers, on the CPU or to be scored on a GPU."""

from importlib.metadata import version
from pathlib import Path

from compression.evaluation.runtimes import transformers
from compression.evaluation.runtimes.transformers import TransformersDecoder, TransformersRunner
from compression.modalities.scoring.base import Inputs


def open_folder(folder: Path, *, threads: int) -> TransformersRunner | TransformersDecoder:
    """Open the checkpoint in `folder`. Raises transformers' own errors, ImportError without compressed-tensors.

    On a CPU its weights are dequantized to bfloat16 in the first pass; activations are rounded in each.
    """
    return _named(transformers.open_folder(folder, threads=threads))


def open_on_card(folder: Path, example: Inputs, *, threads: int) -> TransformersRunner | TransformersDecoder:
    """Open the checkpoint in `folder` on the GPU. Raises transformers' and torch's own errors."""
    return _named(transformers.open_on_card(folder, example, threads=threads))


def _named(found: TransformersRunner | TransformersDecoder) -> TransformersRunner | TransformersDecoder:
    found.name += f", compressed-tensors {version('compressed-tensors')}"
    return found
