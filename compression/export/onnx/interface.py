"""Checks the names, types and dimensions of an ONNX file's inputs and outputs."""

from typing import Any

import torch
from torch import nn

from compression.evaluation.runtimes.onnx import OnnxDecoder, OnnxRunner
from compression.export.onnx.trace import outputs_of
from compression.modalities.registry import modality_for
from compression.modalities.scoring.base import Runner
from compression.schema.errors import ExportMismatch


def check_names(runner: Runner[Any], model: nn.Module) -> None:
    """Check that a file's inputs and outputs are those of its model. Raises ExportMismatch."""
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
        check_interface(runner, labels, inputs, outputs_of(model))


Interface = dict[str, tuple[str, list[bool]]]  #: input name → its type, and whether each of its dimensions is free


def check_interface(runner: OnnxRunner, labels: int, wanted: Interface, answers: tuple[str, ...]) -> None:
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
