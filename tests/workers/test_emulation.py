"""A confined engine emulates another processor: nothing that qemu-user needs is refused at any level."""

import sys
from pathlib import Path

import onnx
import pytest
from onnx import TensorProto, helper

from compression.export.instruction_sets import hindrance
from tests.workers.conftest import started
from workers.sandbox import Sandbox

PLUS_ONE = """
import numpy as np
from pathlib import Path
from compression.export.instruction_sets import emulated
(found,) = emulated(Path("plus.onnx"), [{"input_ids": np.array([[1.0, 2.0]], np.float32)}], 100.0)
print(found["logits"].tolist())
"""


@pytest.mark.skipif(hindrance() is not None, reason=str(hindrance()))
def test_a_confined_engine_answers_under_another_instruction_set(confined: Sandbox, tmp_path: Path) -> None:
    folder = tmp_path / "own"
    folder.mkdir()
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 2]) for name in ("input_ids", "logits")]
    one = helper.make_tensor("one", TensorProto.FLOAT, [1], [1.0])
    graph = helper.make_graph(
        [helper.make_node("Add", ["input_ids", "one"], ["logits"])], "plus", values[:1], values[1:], [one]
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=9), folder / "plus.onnx")
    arguments = [sys.executable, "-P", "-c", PLUS_ONE]
    with (folder / "out").open("wb") as out, started(arguments, folder, confined, stdout=out) as child:
        assert child.wait(120) == 0, (folder / "log").read_text()
    assert (folder / "out").read_text().strip() == "[[2.0, 3.0]]"
