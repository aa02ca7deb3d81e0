"""Writes a language model as a folder of onnxruntime-genai: the decoder's ONNX file, and genai_config.json beside it.

The file is the ONNX artifact's. The configuration names its inputs and outputs, and has the sizes of the cache, which the
package makes by itself: one width of heads for all layers' keys and values.
"""

from pathlib import Path
from typing import Any

from torch import nn
from transformers import PreTrainedModel

from compression.evaluation.runtimes import onnx as onnx_runtime
from compression.evaluation.runtimes.genai import FILE, lacking
from compression.export.manifest import as_json
from compression.export.onnx.exporter import OnnxExporter, is_language_model
from compression.modalities.scoring.base import Runner
from compression.models.adapters.registry import adapter_of
from compression.quantization.fake_quantize import DYNAMIC, simulation_of
from compression.schema.artifact_formats import INTEGERS, ArtifactPrecision
from compression.schema.recipe.base import Task
from compression.schema.schemes import SCHEMES

LIKE_OTHERS = "decoder"
"""The package's type of a model without anything of its own, whatever its family."""


class GenaiExporter(OnnxExporter):
    """The ONNX file of a decoder with what onnxruntime-genai reads."""

    card = library = "genai"

    def hinders(self, model: nn.Module) -> str | None:
        """Return why the package cannot generate with a model's file, or why it cannot be tried here."""
        if not is_language_model(model):
            return "onnxruntime-genai generates with language models alone."
        if (why := super().hinders(model)) is not None:
            return why
        if adapter_of(model).shape_of(model.config).latent is not None:
            return "onnxruntime-genai keeps keys and values of one width, and this model's have two."
        # Last, since the package is loaded to find out.
        return f"The folder could not be reopened: this worker lacks {missing}." if (missing := lacking()) else None

    def write(self, model: PreTrainedModel, folder: Path, precision: ArtifactPrecision) -> None:
        """Write model.onnx with its weights beside it, and genai_config.json."""
        super().write(model, folder, precision)
        simulation = (simulation_of(model) or DYNAMIC) if precision in INTEGERS else None
        saturates = simulation is not None and SCHEMES[simulation.scheme].rounds_activations and not simulation.portable
        (folder / FILE).write_text(as_json(config_of(model, exact=saturates)), "utf-8")

    def opens_with(self, precision: ArtifactPrecision, task: Task, *, split: bool) -> str:  # noqa: ARG002
        """Return the package's call."""
        return "onnxruntime_genai.Model('.') with tokenizers.Tokenizer.from_file('tokenizer.json')"

    def check_interface(self, runner: Runner[Any], model: nn.Module, folder: Path | None = None) -> None:
        """Accept what opened: the package compares the names and sizes of its configuration with the file's."""


def config_of(model: PreTrainedModel, *, exact: bool) -> dict[str, Any]:
    """Return the package's configuration of a model's file. exact: whether its products need `EXACT_PRODUCTS` on x86."""
    adapter, past = adapter_of(model), onnx_runtime.PAST
    shape = adapter.shape_of(model.config)
    ids = {name: getattr(model.generation_config, name, None) for name in ("bos_token_id", "eos_token_id", "pad_token_id")}
    ids = {name: getattr(model.config, name, None) if value is None else value for name, value in ids.items()}
    decoder = {
        "filename": onnx_runtime.FILE,
        "session_options": dict([onnx_runtime.EXACT_PRODUCTS]) if exact else {},
        "num_hidden_layers": shape.layers,
        "num_attention_heads": shape.heads,
        "num_key_value_heads": shape.groups or shape.heads,
        "head_size": shape.head_size,
        "hidden_size": shape.hidden,
        "inputs": {
            **{name: name for name in ("input_ids", "attention_mask", "position_ids")},
            **{f"past_{part}_names": f"{past}%d.{part}" for part in ("key", "value")},
        },
        "outputs": {"logits": "logits", **{f"present_{part}_names": f"present.%d.{part}" for part in ("key", "value")}},
    }
    about = {"type": LIKE_OTHERS, "vocab_size": shape.vocabulary, "context_length": adapter.max_positions(model.config)}
    known = {name: value for name, value in ids.items() if value is not None}
    search = {"max_length": about["context_length"], "do_sample": False, "past_present_share_buffer": False}
    return {"model": {**about, **known, "decoder": decoder}, "search": search}


EXPORTER = GenaiExporter()
