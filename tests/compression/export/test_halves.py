"""16 bits of the weights that integers are rounded from: as a checkpoint of transformers, and as an ONNX file."""

import copy
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
import transformers
from onnx import TensorProto
from safetensors import safe_open
from transformers import BertForSequenceClassification

from compression.engine import shipping
from compression.export.exporter import exporter_of
from compression.export.onnx.exporter import write_onnx
from compression.export.onnx.half import EXPORTER
from compression.models.files.preprocessor_config import ImagePreprocessing
from compression.quantization.fake_quantize import insert_fake_quantization
from compression.schema.report.measurements import Latency
from tests.support import decoder_families as decoders
from tests.support.images import encoded, pixels as colors
from tests.support.measuring import briefly
from tests.support.network_files import pixels, session, simulated
from tests.support.network_graphs import resnet
from tests.support.network_models import drawn_network
from tests.support.shipments import shipped
from tests.support.tiny_bert import sentences

LABELS = ("negative", "positive")
HALF_STEP = 2.0**-8  #: of bfloat16, relative; float16's is an eighth of it


@pytest.fixture
def ship(tiny_classifier: BertForSequenceClassification, encoder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setattr(shipping, "measure_artifact", briefly)
    rows = [{"text": text, "label": LABELS.index(label)} for text, label in sentences(40, seed=5)]
    common = {"task": "text-classification", "labels": LABELS, "preprocessor": encoder, "max_length": 16}

    def made(kind: str, precision: str, **changes: Any) -> tuple[Any, Path]:
        model = copy.deepcopy(tiny_classifier)
        if kind != "onnx":
            insert_fake_quantization(model)
        found = shipped(model, tmp_path, rows, kind=kind, precision=precision, **common, **changes)
        return found, tmp_path / "artifacts" / found.artifact.name

    return made


def test_a_checkpoint_in_bfloat16_is_opened_by_transformers_alone(
    ship: Any, tiny_classifier: BertForSequenceClassification
) -> None:
    found, folder = ship("transformers-bf16", "bfloat16")
    assert (found.artifact.trained_as_shipped, found.size.dtype) == (False, "bfloat16")
    with safe_open(folder / "model.safetensors", "pt") as weights:
        assert {weights.get_tensor(name).dtype for name in weights.keys()} == {torch.bfloat16}  # noqa: SIM118
    opened = transformers.AutoModelForSequenceClassification.from_pretrained(folder, local_files_only=True)
    assert not any("quantization" in key for key in opened.config.to_dict())
    for name, weight in tiny_classifier.state_dict().items():
        assert torch.equal(opened.state_dict()[name], weight.to(torch.bfloat16)), name
    card = (folder / "README.md").read_text()
    assert "AutoModelForSequenceClassification.from_pretrained" in card
    assert "All weights and all arithmetic are bfloat16." in card


def test_an_onnx_file_in_float16_answers_as_in_float32_and_is_timed(
    ship: Any, tiny_classifier: BertForSequenceClassification, tmp_path: Path
) -> None:
    _, before = ship("onnx", "float32")
    found, folder = ship("onnx-f16", "float16", baseline=before)
    assert not found.artifact.trained_as_shipped
    assert isinstance(found.artifact.latency, Latency)  # beside the float32 file
    proto = onnx.load(folder / "model.onnx")
    large = [each for each in proto.graph.initializer if np.prod(each.dims) > 64]
    assert {each.data_type for each in large} == {TensorProto.FLOAT16}
    (tmp_path / "plain").mkdir()
    plain = write_onnx(tiny_classifier, tmp_path / "plain", int8=False)
    given = {name: np.ones((2, 8), np.int64) for name in ("input_ids", "attention_mask", "token_type_ids")}
    one, other = (session(onnx.load(path)).run(["logits"], given)[0] for path in (plain, folder / "model.onnx"))
    assert one.dtype == other.dtype == np.float32
    assert 0 < np.abs(one - other).max() <= HALF_STEP * np.abs(one).max()
    assert "Weights and arithmetic are float16, but normalization, softmax" in (folder / "README.md").read_text()


def test_a_decoder_s_file_in_float16_keeps_positions_and_large_sums(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shipping, "measure_artifact", briefly)
    model = decoders.tiny_classifier("llama", vocab_size=4096, max_position_embeddings=1024)
    with torch.no_grad():
        model.model.embed_tokens.weight.mul_(1000)  # squares of what enters the first norm are beyond float16
    ids = torch.randint(3, 512, (1, 700), generator=torch.Generator().manual_seed(0))
    wanted = decoders.logits(model, ids).numpy()
    assert float(model.model.embed_tokens.weight.abs().max()) ** 2 > 65_504
    EXPORTER.write(model, tmp_path, "float16")
    proto = onnx.load(tmp_path / "model.onnx", load_external_data=False)
    (tmp_path / "plain").mkdir()
    plain = write_onnx(model, tmp_path / "plain", int8=False)
    sizes = [
        sum(one.stat().st_size for one in (folder / "model.onnx", folder / "model.onnx_data"))
        for folder in (tmp_path, plain.parent)
    ]
    assert sizes[0] < 0.6 * sizes[1]
    made = {name: node for node in proto.graph.node for name in node.output}
    turns = [node for node in proto.graph.node if node.op_type in ("Cos", "Sin")]
    assert {made[node.input[0]].op_type for node in turns} == {"Mul"}, "with no cast to 16 bits between"
    places = [made[name] for node in turns for name in made[node.input[0]].input if name in made]
    assert {node.op_type for node in places} == {"Cast"}
    assert {node.attribute[0].i for node in places} == {TensorProto.FLOAT}
    large = [each for each in proto.graph.initializer if np.prod(each.dims) > 1024]
    assert {each.data_type for each in large} == {TensorProto.FLOAT16}
    given = {"input_ids": ids.numpy(), "attention_mask": np.ones((1, 700), np.int64)}
    found = onnxruntime.InferenceSession(tmp_path / "model.onnx").run(["logits"], given)[0]
    assert np.isfinite(found).all()
    assert np.abs(found - wanted).max() <= 2 * HALF_STEP * np.abs(wanted).max()


def test_a_network_has_its_file_in_float16_and_only_stock_ones_a_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shipping, "measure_artifact", briefly)
    network = drawn_network(resnet())
    model = simulated(network, "static-int8", 2 * pixels(network))
    rows = []
    for number in range(4):
        (path := tmp_path / f"{number}.png").write_bytes(encoded(colors(number % 2, number, 8)))
        rows.append({"image": str(path), "index": None, "label": number % 2})
    (tmp_path / "source").mkdir()
    ImagePreprocessing.checked(size=(8, 8), exact=(8, 8)).write(tmp_path / "source")
    form = {"task": "image-classification", "labels": tuple("abcde"), "max_length": 0, "kind": "onnx-f16"}
    found = shipped(model, tmp_path, rows, preprocessor=tmp_path / "source", precision="float16", **form)
    proto = onnx.load(tmp_path / "artifacts" / found.artifact.name / "model.onnx")
    assert "QuantizeLinear" not in {node.op_type for node in proto.graph.node}
    assert TensorProto.FLOAT16 in {each.data_type for each in proto.graph.initializer}
    assert exporter_of("transformers-bf16").hinders(model) == "It is no model of transformers."
