"""The formats of artifacts. Torch-free.

A package that is installed beside Lathe adds a format by an entry point of the group `lathe.exporters` that names a
`FormatSpec`. A job ships it once, at its end: the headline's model in that format, with figures of its own. Which formats
those are is said by the recipe's `artifacts`; if it says nothing, by `by_default`.
"""

import re
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Literal, TypeAlias

from compression.schema.plugins import add_plugins
from compression.schema.schemes import SCHEMES
from compression.schema.specs import FormatLack, FormatSpec

ELSEWHERE = FormatLack("networks that come as ONNX files or from timm are no models of transformers", families=("network",))
ONNX = FormatSpec(
    "onnx",
    engine="compression.export.onnx.exporter:EXPORTER",
    runtime="compression.evaluation.runtimes.onnx:open_folder",
    runs_in="ONNX Runtime",
    weights=("*.onnx", "*.onnx_data"),
    tags=("onnx",),
    primary=True,
    card="compression.evaluation.runtimes.onnx:open_on_card",
    card_lacks="compression.evaluation.runtimes.onnx:lacking_on_card",
)
TRANSFORMERS = FormatSpec(
    "transformers",
    engine="compression.export.transformers.exporter:EXPORTER",
    runtime="compression.evaluation.runtimes.transformers:open_folder",
    runs_in="PyTorch",
    weights=("*.safetensors",),
    lacks=(ELSEWHERE, FormatLack("transformers has no form of a network's integers", networks=True, schemes=tuple(SCHEMES))),
    card="compression.evaluation.runtimes.transformers:open_on_card",
)
TIMM = FormatSpec(
    "timm",
    engine="compression.export.timm.exporter:EXPORTER",
    runtime="compression.evaluation.runtimes.timm:open_folder",
    runs_in="timm",
    weights=("*.safetensors",),
    families=("network",),  # as are networks of ONNX files: the files tell them apart
    card="compression.evaluation.runtimes.timm:open_on_card",
)
BFLOAT16 = replace(
    TRANSFORMERS,
    name="transformers-bf16",
    engine="compression.export.transformers.exporter:HALF",
    by_default=False,
    generates=False,  # a language model's checkpoint ships in both forms
    lacks=(ELSEWHERE,),
)
FLOAT16 = replace(
    ONNX,
    name="onnx-f16",
    engine="compression.export.onnx.half:EXPORTER",
    primary=False,
    by_default=False,
    timed=True,
    generates=False,
)
TRITON = replace(
    ONNX,
    name="triton",
    engine="compression.export.onnx.triton:EXPORTER",
    runtime="compression.evaluation.runtimes.triton:open_folder",
    weights=("models/*/*/*.onnx", "models/*/*/*.onnx_data"),
    tags=("onnx", "triton"),
    primary=False,
    by_default=False,
    served=True,  # its file is the ONNX artifact's, and so are its times
    generates=False,
    card="compression.evaluation.runtimes.triton:open_on_card",
)
FAMILIES = ("gpt2", "llama", "mistral", "qwen2", "qwen3")
"""Decoders that keep keys and values of one width."""
GENAI = replace(
    ONNX,
    name="genai",
    engine="compression.export.onnx.genai:EXPORTER",
    runtime="compression.evaluation.runtimes.genai:open_folder",
    runs_in="onnxruntime-genai",
    tags=("onnx", "onnxruntime-genai"),
    primary=False,
    by_default=False,
    timed=True,
    generates=True,
    families=FAMILIES,
    card=None,  # the package has another build for GPUs
)
COMPRESSED_TENSORS = tuple(
    FormatSpec(
        f"ct-{name}",
        engine=f"compression.export.compressed_tensors.exporter:{name.upper()}",
        runtime="compression.evaluation.runtimes.compressed_tensors:open_folder",
        runs_in="PyTorch, with compressed-tensors",
        weights=("*.safetensors",),
        tags=("compressed-tensors",),
        by_default=False,
        lacks=(
            FormatLack("compressed-tensors has forms of decoders and encoders of text alone", networks=True),
            FormatLack(
                "compressed-tensors leaves the linear layers of {family} (Conv1D) in floating point", families=("gpt2",)
            ),
            FormatLack("compressed-tensors has no form of experts whose weights are in one tensor a layer", experts=True),
        ),
        card="compression.evaluation.runtimes.compressed_tensors:open_on_card",
    )
    for name in ("w8a8", "w4a16", "fp8")
)
"""Checkpoints that transformers and vLLM open."""
GGUF = tuple(
    FormatSpec(
        f"gguf-{form.lower().replace('_', '-')}",
        engine=f"compression.export.gguf.exporter:{form}",
        runtime="compression.evaluation.runtimes.gguf:open_folder",
        runs_in="llama.cpp",
        weights=("*.gguf",),
        tags=("gguf",),
        by_default=False,
        timed=True,
        generates=True,
        families=FAMILIES,
    )
    for form in ("Q8_0", "Q4_0", "BF16")
)
NO_INTEGERS = (
    FormatLack("quantize is null, so that the model has no integers", schemes=(None,)),
    FormatLack(
        "OpenVINO's 8-bit layers read 8-bit activations, which {scheme} leaves in floating point",
        schemes=tuple(name for name, one in SCHEMES.items() if not one.rounds_activations),
    ),
    FormatLack("experts round each token by its own range, which OpenVINO does not read", experts=True),
)
"""Models whose integers OpenVINO does not read."""
OPENVINO = tuple(
    FormatSpec(
        name,
        engine=f"compression.export.openvino.exporter:{exporter}",
        runtime="compression.evaluation.runtimes.openvino:open_folder",
        runs_in="OpenVINO",
        weights=("openvino_model.*",),
        tags=("openvino",),
        by_default=False,
        timed=True,
        ranged=exporter == "INT8",
        generates=False,
        lacks=lacks,
    )
    for name, exporter, lacks in (("openvino-int8", "INT8", NO_INTEGERS), ("openvino-f16", "F16", ()))
)
BUILT_IN = (ONNX, TRANSFORMERS, TIMM, BFLOAT16, FLOAT16, TRITON, *OPENVINO, *COMPRESSED_TENSORS, *GGUF, GENAI)
ARTIFACT_FORMATS = {one.name: one for one in BUILT_IN}
"""Formats by name. A stage ships its model in the primary one, or in the one after it if that cannot be written."""


def _add(spec: FormatSpec) -> None:
    """Add a format. Raises ValueError if its name is taken or cannot be part of an artifact's name, or if it is primary."""
    if spec.name in ARTIFACT_FORMATS:
        raise ValueError(f"there is already a format {spec.name!r}")
    if not re.fullmatch(r"[a-z0-9]+(-[a-z0-9]+)*", spec.name):
        raise ValueError(f"{spec.name!r} has other characters than a-z, 0-9 and single hyphens")
    if spec.primary:
        raise ValueError(f"the primary format is {ONNX.name}")
    ARTIFACT_FORMATS[spec.name] = spec


add_plugins("lathe.exporters", FormatSpec, _add)


def further_formats(asked: Sequence[str] | None) -> dict[str, FormatSpec]:
    """Return the formats that a job's result is also shipped in. asked: the recipe's `artifacts`; None: those by default."""
    return {
        name: spec
        for name, spec in ARTIFACT_FORMATS.items()
        if not spec.primary and (spec.by_default if asked is None else name in asked)
    }


if TYPE_CHECKING:  # the names are known only after the packages beside this one are loaded
    Kind: TypeAlias = str
else:
    Kind = Literal[tuple(ARTIFACT_FORMATS)]
ArtifactPrecision = Literal["float32", "bfloat16", "float16", "float64", "float8", "int8", "int4", "mixed"]
INTEGERS = ("int8", "int4", "mixed")
