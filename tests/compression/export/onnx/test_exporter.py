"""The ONNX files say what the model says: in FP32 to the last digits, in INT8 what the simulation says."""

import copy
from collections import Counter
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, numpy_helper
from transformers import BertForSequenceClassification, PreTrainedModel

from compression.evaluation.runtimes.onnx import OnnxRunner
from compression.export.onnx.exporter import write_onnx
from compression.export.onnx.trace import inputs_of
from compression.modalities.scoring.base import Floats as Logits
from compression.modalities.text.inputs import Batch
from compression.quantization.dynamic_int8 import integer_rows
from compression.quantization.fake_quantize import insert_fake_quantization, quantizable
from tests.conftest import ROOT
from tests.support.tiny_bert import WORDS


@pytest.fixture(scope="module")
def files(tiny_classifier: BertForSequenceClassification, tmp_path_factory: pytest.TempPathFactory) -> dict[bool, Path]:
    return {int8: write_onnx(tiny_classifier, tmp_path_factory.mktemp("onnx"), int8=int8) for int8 in (False, True)}


def random_batch(rows: int = 24, length: int = 11) -> Batch:
    draw = np.random.default_rng(3)
    mask = (np.arange(length) < draw.integers(3, length + 1, (rows, 1))).astype(np.int64)
    return Batch(draw.integers(5, len(WORDS), (rows, length)) * mask, mask, draw.integers(0, 2, (rows, length)) * mask)


def answers(model: PreTrainedModel, batch: Batch, *, simulated: bool) -> Logits:
    twin = copy.deepcopy(model)
    if simulated:
        insert_fake_quantization(twin)
    with torch.inference_mode():
        return twin(**{name: torch.from_numpy(getattr(batch, name)) for name in inputs_of(twin)}).logits.numpy()


def rms(values: Logits) -> float:
    return float(np.sqrt(np.square(values).mean()))


def test_files_answer_as_model_and_simulation(files: dict[bool, Path], tiny_classifier: BertForSequenceClassification) -> None:
    batch = random_batch()
    found = OnnxRunner(files[False], threads=1).logits(batch)
    assert found == pytest.approx(answers(tiny_classifier, batch, simulated=False), abs=1e-5)
    found = OnnxRunner(files[True], threads=1).logits(batch)
    simulated, plain = (answers(tiny_classifier, batch, simulated=choice) for choice in (True, False))
    # Most rows agree to the last digits; a value on the edge of two integers may fall either way in a few.
    assert np.median(np.abs(found - simulated)) < 1e-5
    assert rms(found - simulated) < 0.5 * rms(plain - simulated)
    assert rms(found - plain) > 0.5 * rms(plain - simulated)


def test_an_answer_does_not_depend_on_who_shares_the_batch(files: dict[bool, Path]) -> None:
    batch = random_batch()
    runner = OnnxRunner(files[True], threads=1)
    together = runner.logits(batch)
    for row, mask in enumerate(batch.attention_mask):
        length = int(mask.sum())
        alone = Batch(*(value[row : row + 1, :length] for value in vars(batch).values()))
        assert runner.logits(alone)[0] == pytest.approx(together[row], abs=1e-5)


def test_layers_are_standard_integer_operators(files: dict[bool, Path], tiny_classifier: BertForSequenceClassification) -> None:
    proto = onnx.load(files[True])
    assert {item.domain for item in proto.opset_import} == {""}
    held = {item.name: numpy_helper.to_array(item) for item in proto.graph.initializer}
    for name, module in quantizable(tiny_classifier):
        integers, scale = integer_rows(module.weight)
        stored = held[f"{name}.weight_int8"]
        stored = stored.T if isinstance(module, torch.nn.Linear) else stored
        assert np.array_equal(stored, integers.numpy())
        assert np.array_equal(held[f"{name}.weight_scale"].ravel(), scale.numpy().ravel())
    tables = [item for item in proto.graph.initializer if item.data_type == TensorProto.FLOAT and len(item.dims) > 1]
    assert all(item.name.endswith("weight_scale") for item in tables)
    operators = Counter(node.op_type for node in proto.graph.node)
    # Query, key and value read one quantized tensor: four quantizations a layer for its six linear layers.
    assert operators["MatMulInteger"] == 6 * 2 + 2
    blocks = [node for node in proto.graph.node if any(attribute.name == "block_size" for attribute in node.attribute)]
    assert [node.op_type for node in blocks] == ["QuantizeLinear"] * (4 * 2 + 2)


def test_zeros_and_equal_weights_are_no_exception(tiny_classifier: BertForSequenceClassification, tmp_path: Path) -> None:
    twin = copy.deepcopy(tiny_classifier)
    first, second = twin.bert.encoder.layer
    with torch.no_grad():
        first.output.LayerNorm.weight.zero_()
        first.output.LayerNorm.bias.zero_()
        for layer in (first.attention.self.key, second.attention.self.query):
            layer.weight.copy_(first.attention.self.query.weight)
    batch = random_batch()
    found = OnnxRunner(write_onnx(twin, tmp_path, int8=True), threads=1).logits(batch)
    assert np.median(np.abs(found - answers(twin, batch, simulated=True))) < 1e-5


def test_the_model_stays_as_is(files: dict[bool, Path], tiny_classifier: BertForSequenceClassification, tmp_path: Path) -> None:
    assert {type(module) for _, module in quantizable(tiny_classifier)} == {torch.nn.Linear, torch.nn.Embedding}
    assert tiny_classifier.config._attn_implementation == "sdpa"


@pytest.mark.parametrize("int8", [False, True])
def test_the_file_tells_nothing_of_the_machine_that_wrote_it(files: dict[bool, Path], int8: bool) -> None:
    content = files[int8].read_bytes()
    for told in (str(ROOT / "compression"), torch.__path__[0], "site-packages", ".py", "stack_trace"):
        assert told.encode() not in content
