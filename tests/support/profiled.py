"""Artifacts to profile, written without torch: a tiny classifier of texts as a file of ONNX or OpenVINO, with its manifest."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from compression.evaluation.runtimes.openvino import FILE, imported
from compression.schema.manifest import Interface, Manifest
from compression.schema.profile import ProfileRequest, ProfileSpec
from compression.system.sealed_folder import list_files

VOCABULARY, LONGEST = 50, 64
BRIEF = ProfileRequest(length=8, seconds=0.2)


def classifier(**changes: Any) -> onnx.ModelProto:
    """Return a graph that looks up tokens, takes their mean, and applies a linear layer and an operator, `last`."""
    opset, ir, last = changes.get("opset", 20), changes.get("ir", 9), changes.get("last", "Relu")
    width, outputs = changes.get("width", 16), changes.get("outputs", 3)
    draw = np.random.default_rng(0)
    constants = {
        "table": draw.normal(size=(VOCABULARY, width)).astype(np.float32),
        "weight": draw.normal(size=(width, outputs)).astype(np.float32),
        "places": np.array([1], np.int64),
    }
    nodes = [
        helper.make_node("Gather", ["table", "input_ids"], ["embedded"], "embed"),
        helper.make_node("Cast", ["attention_mask"], ["mask"], "cast", to=TensorProto.FLOAT),
        helper.make_node("Unsqueeze", ["mask", "one"], ["column"], "column"),
        helper.make_node("Mul", ["embedded", "column"], ["kept"], "keep"),
        helper.make_node("ReduceMean", ["kept", "places"], ["mean"], "mean", keepdims=0),
        helper.make_node("MatMul", ["mean", "weight"], ["product"], "project"),
        helper.make_node(last, ["product"], ["logits"], "last"),
    ]
    constants["one"] = np.array([2], np.int64)
    sizes = ["batch", "sequence"]
    given = [helper.make_tensor_value_info(name, TensorProto.INT64, sizes) for name in ("input_ids", "attention_mask")]
    logits = helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", outputs])
    stored = [numpy_helper.from_array(value, name) for name, value in constants.items()]
    graph = helper.make_graph(nodes, "classifier", given, [logits], stored)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=ir)


def described(**changes: Any) -> Interface:
    """Return what its manifest says."""
    axes = {"dtype": "int64", "axes": ("batch", "sequence"), "shape": (None, None), "low": 0}
    inputs = ({"name": "input_ids", "high": VOCABULARY - 1, **axes}, {"name": "attention_mask", "high": 1, "usual": 1, **axes})
    outputs = ({"name": "logits", "dtype": "float32", "axes": ("batch", "axis1"), "shape": (None, 3)},)
    tested = ({"batch": 1, "sequence": 1}, {"batch": 4, "sequence": 12}, {"batch": 1, "sequence": LONGEST})
    whole = {"inputs": inputs, "outputs": outputs, "largest": {"sequence": LONGEST}, "tested": tested}
    return Interface.model_validate({**whole, **changes})


def artifact(folder: Path, kind: str = "onnx", *, proto: onnx.ModelProto | None = None, **interface: Any) -> Path:
    """Write an artifact's folder and return it."""
    folder.mkdir(exist_ok=True)
    graph = folder / "model.onnx"
    graph.write_bytes((proto or classifier()).SerializeToString())
    if kind.startswith("openvino"):
        openvino = imported()
        openvino.save_model(openvino.Core().read_model(graph), folder / FILE)
        graph.unlink()
    (folder / "config.json").write_text(json.dumps({"vocab_size": VOCABULARY}))
    return with_manifest(folder, kind, **interface)


def with_manifest(folder: Path, kind: str, **interface: Any) -> Path:
    """Write the manifest of what is in a folder."""
    (folder / "manifest.json").unlink(missing_ok=True)
    made = Manifest(kind=kind, files=list_files(folder), interface=described(**interface))
    (folder / "manifest.json").write_text(made.model_dump_json())
    return folder


def spec_of(folder: Path, **request: Any) -> ProfileSpec:
    """Return a brief profile's spec."""
    return ProfileSpec(folder=str(folder), request=BRIEF.model_copy(update=request))
