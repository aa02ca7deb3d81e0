"""Writes a decoder with its language head as one ONNX graph, which reads a prompt in one pass and then token by token.

The graph is written node by node from the stock module tree and not traced: tracing takes seconds per model and several copies
of its weights. Here each weight is read, rounded, written to the external data file (`external_data`) and freed, so the export
needs a few times the model's largest tensor beside the model. Two checks find a missing weight: each parameter must be read,
and the file's logits are compared with the engine's before it is shipped (`parity_check.verify`).

Names and layout are those of the usual exports, which optimum and transformers.js open. Sizes in letters are free:

    input_ids (b, s), position_ids (b, s), attention_mask (b, p + s)                    int64
    past_key_values.N.key (b, KV heads, p, channels), past_key_values.N.value           float32, p is 0 for a prompt
    -> logits (b, s, vocabulary), present.N.key (b, KV heads, p + s, channels), present.N.value

All operators are of the standard's opset 20, or in dynamic-int8 of opset 21, except in weight-only-int4 (`quantized_linear`).
A head that is tied to the token table shares its bytes if both are rounded alike: in float32, dynamic-int8 and
weight-only-int8.
"""

from pathlib import Path

import onnx
from torch import nn
from transformers import PretrainedConfig, PreTrainedModel

from compression.export.onnx import decoder_layers
from compression.export.onnx.decoder_graph import Body, Read
from compression.export.onnx.graph_writer import GraphWriter
from compression.export.onnx.one_pass import Classifier, Reader
from compression.models.architectures import heads
from compression.quantization.fake_quantize import Simulation
from compression.schema.errors import UnsupportedArchitecture

FILE, DATA = "model.onnx", "model.onnx_data"
GRAPHS: dict[heads.Head, type[Body]] = {heads.LANGUAGE: Body, heads.CLASSIFIER: Classifier, heads.READER: Reader}


def hindrance(config: PretrainedConfig) -> str | None:
    """Return what in a config the graph cannot express (family, activation, rotary embedding, cross-attention), or None."""
    try:
        decoder_layers.writer_of(config)
    except UnsupportedArchitecture as problem:
        return problem.cause
    return None


def write(
    model: PreTrainedModel, folder: Path, *, simulation: Simulation | None = None, read: Read | None = None
) -> tuple[Path, ...]:
    """Write folder/model.onnx and the weights beside it, without changing the model; return both paths.

    model: a stock …ForCausalLM, GPT2LMHeadModel, decoder classifier or reader; its simulated integers are ignored. simulation:
    the integers to write, None for float32. read: reads the weights, by default from the model. Raises
    UnsupportedArchitecture if the config is not supported, RuntimeError if a parameter was not written.
    """
    states = decoder_layers.writer_of(model.config)
    with (folder / DATA).open("xb") as data:
        head = heads.of_architecture(type(model).__name__)
        assert head is not None, "what is shipped has a head"  # noqa: S101
        body = GRAPHS[head](model, data, simulation, read)
        body.logits(states(body))
        proto = body.proto()
    if body.left:
        raise RuntimeError(f"not written: {', '.join(sorted(body.left))}")
    path = folder / FILE
    path.write_bytes(proto.SerializeToString())
    onnx.checker.check_model(str(path))
    return path, folder / DATA


class DecoderWriter(GraphWriter):
    """Writes decoders; a classifier that it does not support is traced."""

    def write(self, model: PreTrainedModel, folder: Path, *, simulation: Simulation | None = None) -> tuple[Path, ...]:
        """Write model.onnx and its weights beside it."""
        return write(model, folder, simulation=simulation)

    def hindrance(self, model: nn.Module) -> str | None:
        """Return what in the model's config the graph cannot express."""
        return hindrance(model.config)


WRITER = DecoderWriter()
