"""The quantization schemes: a line each, with what follows from a scheme and where its parts are. Torch-free."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, TypeAlias

LAYERS, ONNX, TORCHAO = "compression.quantization", "compression.export.onnx", "compression.export.transformers.torchao_tensors"


@dataclass(frozen=True)
class SchemeSpec:
    """One scheme, with the engine's parts as "module:NAME". Embeddings are int8 per row in all of them, and the weights of
    convolutions int8 per output channel.
    """

    name: str
    linear: str  #: the layer that computes as the artifact does, a `quantization.dynamic_int8.SimulatedLinear`
    onnx: str  #: writes a layer into a graph: (nodes, input, name, layer, bias, output) -> the output's name
    torchao: str  #: its `export.transformers.torchao_tensors.TorchaoWriter`
    precision: Literal["int8", "int4"] = "int8"  #: of the weights of linear layers
    rounds_activations: bool = False  #: to 8 bits: an ONNX file multiplies uint8 by int8, and weights may be portable
    shares_table: bool = False  #: whether a tied output layer multiplies the embedding's own integers
    grouped: bool = False  #: whether `group_size` inputs of an output channel share a scale
    uncalibrated: str | None = None  #: if activations have calibrated ranges: the scheme of layers that have none
    note: str | None = None  #: how its checkpoint differs from its ONNX artifact

    @property
    def calibrated(self) -> bool:
        """Whether activations have one range a layer, from calibration rows."""
        return self.uncalibrated is not None


SCHEMES = {
    one.name: one
    for one in (
        SchemeSpec(
            "dynamic-int8",
            f"{LAYERS}.dynamic_int8:FakeQuantLinear",
            f"{ONNX}.graph_builder:Nodes.dynamic_linear",
            f"{TORCHAO}:DYNAMIC",
            rounds_activations=True,
            shares_table=True,
        ),
        SchemeSpec(
            "static-int8",
            f"{LAYERS}.static_int8:StaticLinear",
            f"{ONNX}.quantized_linear:static_linear",
            f"{TORCHAO}:DYNAMIC",
            rounds_activations=True,
            uncalibrated="dynamic-int8",
            note="torchao's static form is not opened by stock from_pretrained: the transformers checkpoint rounds activations "
            "by their own range, token by token, and has a score of its own.",
        ),
        SchemeSpec(
            "weight-only-int8",
            f"{LAYERS}.weight_only:WeightOnlyLinear",
            f"{ONNX}.quantized_linear:weight_only_int8",
            f"{TORCHAO}:WEIGHT_ONLY",
        ),
        SchemeSpec(
            "weight-only-int4",
            f"{LAYERS}.weight_only:WeightOnlyLinear",
            f"{ONNX}.quantized_linear:weight_only_int4",
            f"{TORCHAO}:GROUPED",
            precision="int4",
            grouped=True,
            note="torchao has no packed 4-bit form for CPUs: the transformers checkpoint holds each 4-bit number in a byte of "
            "its own. It answers as the ONNX artifact does and is larger.",
        ),
    )
}
if TYPE_CHECKING:
    Scheme: TypeAlias = str
    StreamedScheme: TypeAlias = str
else:
    Scheme = Literal[tuple(SCHEMES)]
    StreamedScheme = Literal[tuple(name for name, one in SCHEMES.items() if not one.calibrated)]
    """Schemes whose integers follow from the weights alone, row by row."""
