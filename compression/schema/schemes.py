"""The quantization schemes, and what follows from their names. Torch-free.

Their arithmetic is in `quantization.schemes`, their writers in `export.onnx.quantized_linear` and
`export.transformers.torchao_tensors`.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, TypeAlias


@dataclass(frozen=True)
class SchemeSpec:
    """One scheme. Embeddings are int8 per row in all of them."""

    name: str
    precision: Literal["int8", "int4"] = "int8"  #: of the weights of linear layers
    rounds_activations: bool = False  #: to 8 bits: an ONNX file multiplies uint8 by int8, and weights may be portable
    calibrated: bool = False  #: whether activations have one range a layer, from calibration rows
    grouped: bool = False  #: whether `group_size` inputs of an output channel share a scale


SCHEMES = {
    one.name: one
    for one in (
        SchemeSpec("dynamic-int8", rounds_activations=True),
        SchemeSpec("static-int8", rounds_activations=True, calibrated=True),
        SchemeSpec("weight-only-int8"),
        SchemeSpec("weight-only-int4", "int4", grouped=True),
    )
}
if TYPE_CHECKING:
    Scheme: TypeAlias = str
    StreamedScheme: TypeAlias = str
else:
    Scheme = Literal[tuple(SCHEMES)]
    StreamedScheme = Literal[tuple(name for name, one in SCHEMES.items() if not one.calibrated)]
    """Schemes whose integers follow from the weights alone, row by row."""
