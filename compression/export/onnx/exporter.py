"""Writes a model as an ONNX file that stock ONNX Runtime opens.

This module writes FP32, and `quantize_graph.to_int8` converts it to integers.
The file has only standard operators, of opset 20 (ONNX Runtime 1.17 and later), or in dynamic-int8 of opset 21 (1.20 and
later). ONNX Runtime fuses them for each machine when it opens the file, and the same file stays valid elsewhere. The one
exception is weight-only-int4, whose MatMulNBits is ONNX Runtime's own. Decoders are not traced, except classifiers of a
family that `decoder` does not support.
"""

import copy
from pathlib import Path

import onnx
import torch
from torch import nn

from compression.export.onnx import decoder
from compression.export.onnx.flatten_sequence import flatten_sequence
from compression.export.onnx.quantize_graph import to_int8
from compression.export.onnx.softmax import spelled_out
from compression.export.onnx.trace import graph
from compression.export.onnx.unfused_experts import unfuse_experts
from compression.models.adapters.registry import is_decoder
from compression.models.architectures import heads
from compression.planning.on_disk import fits_a_graph
from compression.quantization.fake_quantize import (
    DYNAMIC,
    insert_fake_quantization,
    quantizable,
    remove_fake_quantization,
    simulation_of,
)

FILE = "model.onnx"


def is_language_model(model: nn.Module) -> bool:
    """Return whether a model is a language model: its artifact has a cache and generates text."""
    return heads.of_architecture(type(model).__name__) is heads.LANGUAGE


def is_written(model: nn.Module) -> bool:
    """Return whether `decoder` writes a model's graph layer by layer, so that it is not traced."""
    return is_decoder(model) and (is_language_model(model) or decoder.hindrance(model.config) is None)


def hindered(model: nn.Module) -> str | None:
    """Return why a decoder has no ONNX file, or None if it has one.

    It has none if `decoder` does not support it and a traced graph would be too large. A classifier that `decoder` does not
    support is traced if its file stays within ONNX's 2 GiB. Models that are not decoders are always traced.
    """
    if not is_decoder(model):
        return None
    traced = not is_language_model(model) and fits_a_graph(sum(parameter.numel() for parameter in model.parameters()))
    return None if traced else decoder.hindrance(model.config)


def plain_model(model: nn.Module) -> nn.Module:
    """Return a copy for inference without simulated integers, with eager attention.

    With eager attention the graph is shorter than with SDPA (whose translation guards against fully masked rows), and ONNX
    Runtime runs it faster, both in FP32 and in INT8.
    """
    twin = copy.deepcopy(model).to("cpu", torch.float32).eval()
    remove_fake_quantization(twin)
    if getattr(twin.config, "_experts_implementation", None) is not None:
        twin.set_experts_implementation("batched_mm")  # type: ignore[operator]  # grouped_mm has no operator in the standard
    if twin.config._attn_implementation != "eager":  # type: ignore[union-attr]
        twin.set_attn_implementation("eager")  # type: ignore[operator]  # a method of every PreTrainedModel
    return twin


def write_onnx(model: nn.Module, folder: Path, *, int8: bool) -> Path:
    """Write `model` to folder/model.onnx and return that path. Does not change the model.

    int8: write integers for every linear layer and embedding: those that `model` simulates, or dynamic-int8 if it simulates
    none. `decoder` writes decoders, with their weights in a second file. Raises RuntimeError if a linear layer or embedding is
    not found in the traced graph.
    """
    if is_written(model):
        simulation = (simulation_of(model) or DYNAMIC) if int8 else None
        return decoder.write(model, folder, simulation=simulation)[0]
    twin = plain_model(model)
    experts = tuple(f"{name}." for name in unfuse_experts(twin))
    proto = flatten_sequence(graph(twin))
    if int8:
        if (simulation := simulation_of(model)) is not None:
            insert_fake_quantization(twin, lambda name: not name.startswith(experts), simulation)
            insert_fake_quantization(twin, lambda name: name.startswith(experts), simulation.of_experts)
        proto = to_int8(proto, dict(quantizable(twin)))
        proto = proto if simulation is None or not simulation.portable else spelled_out(proto)
    onnx.checker.check_model(proto)
    path = folder / FILE
    path.write_bytes(proto.SerializeToString())
    return path
