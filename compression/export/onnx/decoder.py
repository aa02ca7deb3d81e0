"""Write a decoder with its language head as ONNX: one graph that reads a prompt at once and goes on token by token.

The graph is written node by node from the stock module tree and not traced: tracing takes seconds a model and some copies of
its weights, and what comes out has an order of nodes of its own. Here a weight is read, rounded, written beside the graph
(`external`) and forgotten, so that the export adds to the model's own memory the largest of its tensors a few times over.
That nothing was overlooked is seen twice: each parameter of the model has to be read, and the file's logits are held against
the engine's before it is shipped (`verify_decoder`).

Names and layout are those of the usual exports, which optimum and transformers.js open; sizes in letters are free:

    input_ids (b, s), position_ids (b, s), attention_mask (b, p + s)                    int64
    past_key_values.N.key (b, KV heads, p, channels), past_key_values.N.value           float32, p is 0 for a prompt
    -> logits (b, s, vocabulary), present.N.key (b, KV heads, p + s, channels), present.N.value

All operators are of the standard's opset 20, in dynamic-int8 21, but for weight-only-int4 (`schemes`). A head that is tied to
the token table shares its bytes with it wherever both are rounded alike: in float32, dynamic-int8 and weight-only-int8.
"""

from pathlib import Path

import onnx
from transformers import PretrainedConfig, PreTrainedModel

from compression.export.onnx import decoder_layers
from compression.export.onnx.classifier_head import Classifier
from compression.export.onnx.decoder_graph import Body, Read
from compression.export.onnx.external_data import External
from compression.models.architectures import heads
from compression.quantization.fake_quantize import Simulation
from compression.schema.errors import UnsupportedArchitecture

FILE, DATA = "model.onnx", "model.onnx_data"


def hindrance(config: PretrainedConfig) -> str | None:
    """Say why a model of this config cannot be written: its family, its activation or how it turns positions; else None."""
    try:
        decoder_layers.of(config)
    except UnsupportedArchitecture as problem:
        return problem.cause
    return None


def write(
    model: PreTrainedModel, folder: Path, *, simulation: Simulation | None = None, read: Read | None = None
) -> tuple[Path, ...]:
    """Write folder/model.onnx and the weights beside it; return both. The model stays as it is.

    model: a stock …ForCausalLM or GPT2LMHeadModel; what is simulated in it does not matter. simulation: the integers that are
    written, None for float32. read: where the weights come from, by default the model itself.

    Raises UnsupportedArchitecture for what a graph is not known for, RuntimeError where a parameter was overlooked.
    """
    states = decoder_layers.of(model.config)
    with External(folder / DATA) as data:
        made = Body if heads.of_architecture(type(model).__name__) is heads.LANGUAGE else Classifier
        body = made(model, data, simulation, read)
        body.logits(states(body))
        proto = body.proto()
    if body.left:
        raise RuntimeError(f"not written: {', '.join(sorted(body.left))}")
    path = folder / FILE
    path.write_bytes(proto.SerializeToString())
    onnx.checker.check_model(str(path))
    return path, folder / DATA
