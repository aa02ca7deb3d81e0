"""Writes a model's ONNX file in float16, for devices that multiply it fast: integers are left out.

ONNX Runtime's converter turns the float32 graph; inputs and outputs stay float32. On processors without such products the
file is small and no faster.
"""

from pathlib import Path
from typing import Any

import onnx
from onnxruntime.transformers.float16 import DEFAULT_OP_BLOCK_LIST, convert_float_to_float16
from onnxruntime.transformers.onnx_model import OnnxModel
from torch import nn
from transformers import PreTrainedModel

from compression.evaluation.runtimes.onnx import FILE
from compression.export.onnx.exporter import OnnxExporter
from compression.schema.artifact_formats import ArtifactPrecision
from compression.schema.schemes import Scheme

STAYS = {"LayerNormalization", "ReduceMean", "Softmax"}
"""Operators that stay in float32: their sums over a row lose most in 16 bits."""


class HalfExporter(OnnxExporter):
    """ONNX files in float16."""

    card, library = "onnx_half", "onnx"

    def write(self, model: PreTrainedModel, folder: Path, precision: ArtifactPrecision) -> None:  # noqa: ARG002
        """Write model.onnx."""
        super().write(model, folder, "float32")
        path = folder / FILE
        with_half: Any = convert_float_to_float16(
            onnx.load(path), keep_io_types=True, op_block_list=[*DEFAULT_OP_BLOCK_LIST, *STAYS]
        )
        OnnxModel(with_half).topological_sort()  # the converter appends its casts
        onnx.checker.check_model(with_half)
        path.write_bytes(with_half.SerializeToString())

    def precision_of(self, scheme: Scheme | None, model: nn.Module) -> ArtifactPrecision:  # noqa: ARG002
        """Return float16."""
        return "float16"


EXPORTER = HalfExporter()
