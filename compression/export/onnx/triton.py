"""Writes a model as a repository for NVIDIA's Triton, and a Dockerfile for those who serve it without Triton."""

from pathlib import Path

import onnx
from transformers import PreTrainedModel

from compression.evaluation.runtimes.onnx import FILE
from compression.evaluation.runtimes.triton import MODEL, VERSION
from compression.export.onnx.exporter import OnnxExporter
from compression.modalities.modality import RawInput
from compression.schema.artifact_formats import ArtifactPrecision
from compression.schema.recipe.base import Task

LARGEST_BATCH = 32
TYPES = {onnx.TensorProto.FLOAT: "TYPE_FP32", onnx.TensorProto.INT64: "TYPE_INT64", onnx.TensorProto.UINT8: "TYPE_UINT8"}
DOCKERFILE = """\
# A server of this artifact without Triton:
#   docker build -t lathe-serve --target serve LATHE     (once; LATHE: a checkout of Lathe)
#   docker build -t model . && docker run -p 8400:8400 -e LATHE_SERVE_KEY=SECRET model
ARG LATHE_IMAGE=lathe-serve
FROM ${LATHE_IMAGE}
COPY . /artifact
"""


class TritonExporter(OnnxExporter):
    """The ONNX file in the folders that Triton reads, with a config.pbtxt that lets it make batches."""

    card, library, path = "triton", "onnx", f"{VERSION}/"

    def write(self, model: PreTrainedModel, folder: Path, precision: ArtifactPrecision) -> None:
        """Write the repository and the Dockerfile."""
        super().write(model, folder, precision)
        _write_config(folder)
        (folder / "Dockerfile").write_text(DOCKERFILE, "utf-8")

    def take_raw_input(self, folder: Path, raw: RawInput) -> bool:
        """Put the arithmetic before the model into its file."""
        taken = super().take_raw_input(folder, raw)
        _write_config(folder)
        return taken

    def opens_with(self, precision: ArtifactPrecision, task: Task, *, split: bool) -> str:  # noqa: ARG002
        """Return Triton's command."""
        return "tritonserver --model-repository=models; lathe serve ."


def _write_config(folder: Path) -> None:
    graph = onnx.load(folder / VERSION / FILE, load_external_data=False).graph
    (folder / MODEL / "config.pbtxt").write_text(config_of(graph), "utf-8")


def config_of(graph: onnx.GraphProto) -> str:
    """Return Triton's configuration of a graph whose inputs and outputs begin with the batch.

    Triton puts rows together whose other dimensions are alike: texts share a batch if they are padded to one length.
    """
    given = {value.name for value in graph.initializer}
    inputs = ",\n".join(_tensor(value) for value in graph.input if value.name not in given)
    outputs = ",\n".join(map(_tensor, graph.output))
    return (
        f'backend: "onnxruntime"\nmax_batch_size: {LARGEST_BATCH}\n'
        f"input [\n{inputs}\n]\noutput [\n{outputs}\n]\n"
        "dynamic_batching { }\ninstance_group [ { count: 1, kind: KIND_CPU } ]\n"
    )


def _tensor(value: onnx.ValueInfoProto) -> str:
    tensor = value.type.tensor_type
    sizes = [dim.dim_value if dim.HasField("dim_value") else -1 for dim in tensor.shape.dim][1:]
    return f'  {{ name: "{value.name}", data_type: {TYPES[tensor.elem_type]}, dims: {sizes} }}'


EXPORTER = TritonExporter()
