"""The ONNX file of a Triton model repository, in stock ONNX Runtime, which is Triton's backend. Torch-free."""

from pathlib import Path

from compression.evaluation.runtimes import onnx
from compression.modalities.scoring.base import Inputs

MODEL = "models/model"  #: the model's folder in an artifact's; its name is the model's in Triton, and may be changed
VERSION = f"{MODEL}/1"


def open_folder(folder: Path, *, threads: int) -> onnx.OnnxRunner | onnx.OnnxDecoder:
    """Open the repository's only model. Raises onnxruntime's errors."""
    return onnx.open_folder(folder / VERSION, threads=threads)


def open_on_card(folder: Path, example: Inputs, *, threads: int) -> onnx.OnnxRunner | onnx.OnnxDecoder:
    """Open the repository's only model on the GPU. Raises NotOnCard and onnxruntime's errors."""
    return onnx.open_on_card(folder / VERSION, example, threads=threads)
