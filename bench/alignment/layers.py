"""Layers and encoders of any width as ONNX graphs, and sessions that run them."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnxruntime
from transformers import BertConfig, BertForSequenceClassification

from compression.evaluation.runtimes import openvino
from compression.evaluation.runtimes.onnx import EXACT_PRODUCTS, FILE, has_vnni
from compression.export.device_table import plan
from compression.export.device_table.layers import drawn_inputs, simulated, write
from compression.export.onnx.exporter import write_onnx
from compression.schema.device_table import FORMS, Form

Feeds = dict[str, npt.NDArray[Any]]
Run = Callable[[], Sequence[npt.NDArray[Any]]]  #: a pass; returns the outputs
READS = {"onnx": plan.READS["onnxruntime"], "openvino": plan.READS["openvino"]}
ROWS, SIDE, HEADS, LAYER = 128, 14, 12, 384
"""Rows of a linear layer, and tokens of an encoder; side of a convolution's image; heads and width of an encoder."""


def linear(width: int, form: Form, folder: Path) -> Feeds:
    """Write a linear layer of width inputs and outputs; return what it reads: (ROWS, width)."""
    write("linear", form, width, width, folder)
    return drawn_inputs("linear", width, ROWS, 1)


def conv(width: int, form: Form, folder: Path) -> Feeds:
    """Write a 3×3 convolution of width channels each way, between rounded values; return (1, width, SIDE, SIDE).

    form: float32 or static-int8, of which convolutions of dynamic-int8 do not differ.
    """
    write("convolution", form, width, width, folder, side=SIDE)
    return drawn_inputs("convolution", width, SIDE * SIDE, 1)


def encoder(form: Form, folder: Path, *, ffn: int = 4 * LAYER, head: int = LAYER // HEADS) -> Feeds:
    """Write a classifier with one layer of an encoder. ffn: units; head: channels of each of HEADS heads."""
    sizes = {"hidden_size": HEADS * head, "intermediate_size": ffn, "num_attention_heads": HEADS, "num_hidden_layers": 1}
    config = BertConfig(vocab_size=64, max_position_embeddings=ROWS, attn_implementation="sdpa", **sizes)
    write_onnx(simulated(BertForSequenceClassification(config), form), folder, int8=form != "float32")
    names = "input_ids", "attention_mask", "token_type_ids"
    return {name: np.full((1, ROWS), int(name != "token_type_ids"), np.int64) for name in names}


def of_ffn(width: int, form: Form, folder: Path) -> Feeds:
    """Write an encoder of feed-forward units."""
    return encoder(form, folder, ffn=width)


def of_heads(width: int, form: Form, folder: Path) -> Feeds:
    """Write an encoder of heads of so many channels."""
    return encoder(form, folder, head=width)


LAYERS: dict[str, tuple[Callable[[int, Form, Path], Feeds], tuple[int, ...], tuple[Form, ...]]] = {
    "linear": (linear, (250, 333, 381), FORMS),
    "conv": (conv, (29, 45, 61), ("float32", "static-int8")),
    "ffn": (of_ffn, (1000, 1333, 1531), FORMS),
    "heads": (of_heads, (29, 31), FORMS),
}
"""By name: how it is written, odd widths by default, and its forms."""


def opened(runtime: str, folder: Path, feeds: Feeds, *, threads: int, joins: bool = True) -> Run:
    """Open folder/model.onnx in a runtime; return a pass. joins: whether ONNX Runtime may join operators."""
    if runtime == "openvino":
        compiled = openvino.OpenVinoRunner(folder / FILE, threads=threads).compiled
        return lambda: list(compiled({one.any_name: feeds[one.any_name] for one in compiled.inputs}).values())
    session = onnx_session(folder / FILE, threads=threads, joins=joins)
    given = {one.name: feeds[one.name] for one in session.get_inputs()}
    return lambda: session.run(None, given)


def onnx_session(path: Path, *, threads: int, joins: bool = True) -> onnxruntime.InferenceSession:
    """Open a file as Lathe's runner does, or without any joined operators."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads, options.log_severity_level = threads, 1, 3
    if not joins:
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    if not has_vnni():
        options.add_session_config_entry(*EXACT_PRODUCTS)
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
