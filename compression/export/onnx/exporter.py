"""Writes a model as an ONNX file that stock ONNX Runtime opens: FP32 here, and `quantize_graph.to_int8` makes integers of it.

The file has only standard operators, of opset 20 (ONNX Runtime 1.17 and later), or in dynamic-int8 of opset 21 (1.20 and
later), which ONNX Runtime fuses for each machine when it opens the file; the same file stays valid elsewhere. The one exception
is weight-only-int4, whose MatMulNBits is ONNX Runtime's own. Decoders and networks are not traced but written node by node
(`graph_writer`), except classifiers that `decoder` does not support.
"""

import copy
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import onnx
import torch
from torch import nn
from transformers import PreTrainedModel

from compression.evaluation.runtimes.onnx import FILE, OnnxDecoder, OnnxRunner
from compression.export import instruction_sets
from compression.export.exporter import Exporter
from compression.export.onnx.flatten_sequence import flatten_sequence
from compression.export.onnx.graph_writer import writer_of
from compression.export.onnx.quantize_graph import to_int8
from compression.export.onnx.raw_input import with_raw_input
from compression.export.onnx.softmax import spelled_out
from compression.export.onnx.trace import graph, outputs_of
from compression.export.onnx.unfused_experts import unfuse_experts
from compression.modalities.modality import RawInput
from compression.modalities.registry import modality_for
from compression.modalities.scoring.base import Inputs, Runner
from compression.models.architectures import heads
from compression.planning.on_disk import fits_a_graph
from compression.quantization import fake_quantize
from compression.quantization.fake_quantize import Simulation, insert_fake_quantization, simulation_of
from compression.schema.artifact_formats import INTEGERS, ArtifactPrecision
from compression.schema.errors import ExportMismatch
from compression.schema.recipe.base import Task
from compression.schema.report.instruction_sets import ComparedAnswers, NotCompared
from compression.schema.schemes import SCHEMES
from compression.schema.tasks import TASKS


class OnnxExporter(Exporter):
    """ONNX files for ONNX Runtime."""

    def write(self, model: PreTrainedModel, folder: Path, precision: ArtifactPrecision) -> None:
        """Write model.onnx, and model.onnx_data beside it for decoders."""
        (folder / self.path).mkdir(parents=True, exist_ok=True)
        write_onnx(model, folder / self.path, int8=precision in INTEGERS)

    def opens_with(self, precision: ArtifactPrecision, task: Task, *, split: bool) -> str:  # noqa: ARG002
        """Return the call of ONNX Runtime."""
        reads = ", which reads model.onnx_data beside it," if split else ""
        reader = TASKS[task].card.reader
        return f"onnxruntime.InferenceSession('{FILE}'){reads}{f' with {reader}' if reader else ''}"

    def hinders(self, model: nn.Module) -> str | None:
        """Return why its family's writer does not write a model's file, if it is no classifier that traces to at most 2 GiB."""
        writer = writer_of(model)
        traced = not is_language_model(model) and fits_a_graph(sum(parameter.numel() for parameter in model.parameters()))
        return None if writer is None or traced else writer.hindrance(model)

    def config(self, model: PreTrainedModel, folder: Path, max_length: int) -> dict[str, Any]:
        """Return the config with max_length, except for a language model: stock code would limit what it generates."""
        if not is_language_model(model):
            written = super().config(model, folder, max_length)
            return written if (writer := writer_of(model)) is None else writer.config(written)
        # A checkpoint's generation config is written together with its weights.
        model.generation_config.save_pretrained(folder)
        # A stock config leaves out its family's default ids.
        ids = {name: getattr(model.config, name) for name in ("bos_token_id", "eos_token_id")}
        return {**model.config.to_diff_dict(), **ids}

    def take_raw_input(self, folder: Path, raw: RawInput) -> bool:
        """Put the arithmetic before the model into model.onnx."""
        path = folder / self.path / FILE
        proto = with_raw_input(onnx.load(path), raw)
        onnx.checker.check_model(proto)
        path.write_bytes(proto.SerializeToString())
        return True

    def check_interface(self, runner: Runner[Any], model: nn.Module, folder: Path | None = None) -> None:
        """Check the names, types and dimensions of inputs and outputs. Raises ExportMismatch."""
        if isinstance(runner, OnnxDecoder):
            check_cache(runner, model)
        elif isinstance(runner, OnnxRunner):
            labels = int(model.config.num_labels)  # type: ignore[union-attr, arg-type]
            modality, types = modality_for(model), {torch.int64: "tensor(int64)", torch.float32: "tensor(float)"}
            free = modality.free_dimensions(model)
            inputs = {
                name: (types[value.dtype], [place in free[name] for place in range(value.ndim)])
                for name, value in modality.example_inputs(model, 1, 1).items()
            }
            raw = modality.raw_input(folder) if folder is not None else None
            if raw is not None and raw.name in runner.inputs:
                _, free_axes = inputs.pop(raw.replaces)
                inputs[raw.name] = ("tensor(uint8)", [free_axes[raw.order.index(axis)] for axis in range(len(free_axes))])
            compare_interface(runner, labels, inputs, outputs_of(model))

    def compare_processors(
        self, folder: Path, asked: Sequence[Inputs], simulation: Simulation, seconds: float | None
    ) -> ComparedAnswers | NotCompared | None:
        """Compare a file that multiplies 8-bit integers under another instruction set."""
        rounds = SCHEMES[simulation.scheme].rounds_activations
        return instruction_sets.compare(folder / self.path, asked, simulation, seconds) if rounds else None


EXPORTER = OnnxExporter()
Interface = dict[str, tuple[str, list[bool]]]  #: input name → its type, and whether each of its dimensions is free


def is_language_model(model: nn.Module) -> bool:
    """Return whether a model is a language model: its artifact has a cache and generates text."""
    return heads.of_architecture(type(model).__name__) is heads.LANGUAGE


def compare_interface(runner: OnnxRunner, labels: int, wanted: Interface, answers: tuple[str, ...]) -> None:
    """Check that names, types and free dimensions match the model card. Raises ExportMismatch."""
    inputs = {item.name: (item.type, [isinstance(size, str) for size in item.shape]) for item in runner.session.get_inputs()}
    if inputs != wanted:
        raise ExportMismatch(f"the file's inputs are {inputs}")
    outputs = [(item.name, item.type, item.shape[-1]) for item in runner.session.get_outputs()]
    # The last dimension of start and end logits is the sequence, which is free.
    last = labels if answers == ("logits",) else next((size for _, _, size in outputs if isinstance(size, str)), None)
    if outputs != [(name, "tensor(float)", last) for name in answers]:
        raise ExportMismatch(f"the file's outputs are {outputs}")


def check_cache(runner: OnnxDecoder, model: nn.Module) -> None:
    """Check that a language model's inputs and outputs are those of the usual exports. Raises ExportMismatch."""
    layers = range(int(model.config.num_hidden_layers))  # type: ignore[union-attr, arg-type]
    parts = [f"{number}.{part}" for number in layers for part in ("key", "value")]
    wanted = (
        ["input_ids", "attention_mask", "position_ids", *(f"past_key_values.{part}" for part in parts)],
        ["logits", *(f"present.{part}" for part in parts)],
    )
    found = [item.name for item in runner.session.get_inputs()], [item.name for item in runner.session.get_outputs()]
    if found != wanted:
        raise ExportMismatch(f"the file's inputs and outputs are {found}")


def plain_model(model: nn.Module) -> nn.Module:
    """Return a copy for inference without simulated integers, with eager attention: its graph is shorter than with SDPA (whose
    translation guards against fully masked rows), and ONNX Runtime runs it faster, both in FP32 and in INT8.
    """
    twin = copy.deepcopy(model).to("cpu", torch.float32).eval()
    fake_quantize.remove_fake_quantization(twin)
    if getattr(twin.config, "_experts_implementation", None) is not None:
        twin.set_experts_implementation("batched_mm")  # type: ignore[operator]  # grouped_mm has no operator in the standard
    if twin.config._attn_implementation != "eager":  # type: ignore[union-attr]
        twin.set_attn_implementation("eager")  # type: ignore[operator]  # a method of every PreTrainedModel
    return twin


def write_onnx(model: nn.Module, folder: Path, *, int8: bool, same_softmax: bool = True) -> Path:
    """Write `model`, which does not change, to folder/model.onnx and return that path. int8: write integers for every linear
    layer and embedding, as simulated, or else in dynamic-int8. A family's own `graph_writer` may add files with weights.
    same_softmax: let the softmax of a traced portable model be the same on all processors (`softmax`). Raises RuntimeError if a
    layer is not found in the traced graph.
    """
    writer = writer_of(model)
    if writer is not None and (is_language_model(model) or writer.hindrance(model) is None):
        simulation = (simulation_of(model) or fake_quantize.DYNAMIC) if int8 else None
        return writer.write(model, folder, simulation=simulation)[0]
    twin = plain_model(model)
    experts = tuple(f"{name}." for name in unfuse_experts(twin))
    proto = flatten_sequence(graph(twin))
    if int8:
        if (simulation := simulation_of(model)) is not None:
            insert_fake_quantization(twin, lambda name: not name.startswith(experts), simulation)
            insert_fake_quantization(twin, lambda name: name.startswith(experts), simulation.of_experts)
        proto = to_int8(proto, dict(fake_quantize.quantizable(twin)))
        if simulation is not None and simulation.portable and same_softmax:
            proto = spelled_out(proto)
    onnx.checker.check_model(proto)
    path = folder / FILE
    path.write_bytes(proto.SerializeToString())
    return path
