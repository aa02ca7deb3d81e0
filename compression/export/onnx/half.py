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

STAYS = {"LayerNormalization", "ReduceMean", "Softmax", "Cos", "Sin", "Sqrt"}
"""Operators that stay in float32: their sums over a row lose most in 16 bits, and angles of positions all that is fine."""
FEEDING = {"Add", "Cast", "Mul", "Pow", "ReduceMean"}
"""Operators that stay so too where an angle or a root is computed from them: a square may be beyond what 16 bits hold."""


class HalfExporter(OnnxExporter):
    """ONNX files in float16."""

    card, library = "onnx_half", "onnx"

    def write(self, model: PreTrainedModel, folder: Path, precision: ArtifactPrecision) -> None:  # noqa: ARG002
        """Write model.onnx."""
        super().write(model, folder, "float32")
        path, data = folder / FILE, folder / f"{FILE}_data"
        plain, beside = onnx.load(path), data.is_file()
        nodes = _feeding(plain.graph)
        with_half: Any = convert_float_to_float16(
            plain, keep_io_types=True, op_block_list=[*DEFAULT_OP_BLOCK_LIST, *STAYS], node_block_list=nodes
        )
        _join(with_half.graph)
        OnnxModel(with_half).topological_sort()  # the converter appends its casts
        data.unlink(missing_ok=True)
        onnx.save_model(with_half, path, save_as_external_data=beside, location=data.name)
        onnx.checker.check_model(str(path))

    def precision_of(self, scheme: Scheme | None, model: nn.Module) -> ArtifactPrecision:  # noqa: ARG002
        """Return float16."""
        return "float16"


def _feeding(graph: onnx.GraphProto) -> list[str]:
    """Return the names of the nodes that angles and roots are computed from, back to a square or to whole numbers."""
    made = {name: node for node in graph.node for name in node.output}
    found, ahead = set[str](), [node for node in graph.node if node.op_type in ("Cos", "Sin", "Sqrt")]
    while ahead:
        for name in ahead.pop().input:
            node = made.get(name)
            if node is not None and node.op_type in FEEDING and node.name not in found:
                found.add(node.name)
                if node.op_type != "Pow":
                    ahead.append(node)
    return sorted(found)


def _join(graph: onnx.GraphProto) -> None:
    """Take out the casts to 16 bits and back that the converter puts between two nodes that stay in float32."""
    halves = {node.output[0]: node.input[0] for node in graph.node if node.name == f"{node.output[0]}_cast_to_fp16_node"}
    wholes = {
        node.output[0]: halves[node.input[0]]
        for node in graph.node
        if node.input and node.input[0] in halves and node.name == f"{node.input[0]}_cast_to_fp32_node"
    }
    for node in graph.node:
        for at, name in enumerate(node.input):
            node.input[at] = wholes.get(name, name)
    used = {name for node in graph.node if node.output[0] not in wholes for name in node.input}
    used |= {one.name for one in graph.output}
    stay = [node for node in graph.node if node.output[0] in used or node.output[0] not in wholes.keys() | halves.keys()]
    del graph.node[:]
    graph.node.extend(stay)


EXPORTER = HalfExporter()
