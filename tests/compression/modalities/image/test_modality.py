"""The image modality from an artifact's files to an answer, and the code on its card."""

import base64
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper
from PIL import Image
from transformers import ResNetConfig, ResNetForImageClassification

from compression.evaluation.predict import predict
from compression.evaluation.runtimes.onnx import OnnxRunner
from compression.export.onnx import trace
from compression.modalities.image.decoding import decode
from compression.modalities.image.modality import IMAGE
from compression.modalities.image.preprocessing import ImagePreprocessing
from compression.modalities.registry import modality_of
from compression.schema.errors import ConfigMismatch, EmptySplit, UnreadableData
from compression.schema.job_spec import Data
from compression.schema.prediction_request import AnswerSpec, Question
from compression.schema.recipe.recipe import Evaluate
from tests.support.cards import card_of
from tests.support.images import CLASSES, encoded, folder_data, npz_data, of_every_kind, pixels
from tests.support.network_files import answers
from tests.support.network_graphs import mobilenet_v2
from tests.support.network_models import drawn_network

TASK = "image-classification"
WAYS: dict[str, dict[str, Any]] = {
    "crop": {
        "size": (8, 10),
        "shortest": 13,
        "crop": True,
        "interpolation": "bicubic",
        "mean": (0.1, 0.2, 0.3),
        "std": (2, 3, 4),
    },
    "exact": {"size": (9, 7), "exact": (9, 7)},
    "plain": {"size": (8, 8), "crop": True, "scale": 1.0},
    "bgr": {"size": (8, 8), "exact": (8, 8), "channels": "bgr"},
}


def artifact(folder: Path, how: ImagePreprocessing) -> Path:
    """An ONNX file that answers "warm" where red exceeds blue, with its config and preprocessor files."""
    folder.mkdir(exist_ok=True)
    weight = np.array([[-1, 0, 1], [1, 0, -1]], np.float32)
    nodes = [
        helper.make_node("GlobalAveragePool", ["pixel_values"], ["pooled"]),
        helper.make_node("Flatten", ["pooled"], ["flat"]),
        helper.make_node("Gemm", ["flat", "weight"], ["logits"], transB=1),
    ]
    tensor = helper.make_tensor_value_info
    graph = helper.make_graph(
        nodes,
        "mean",
        [tensor("pixel_values", TensorProto.FLOAT, ["batch", 3, *how.size])],
        [tensor("logits", TensorProto.FLOAT, ["batch", 2])],
        [onnx.numpy_helper.from_array(weight, "weight")],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10), folder / "model.onnx")
    (folder / "config.json").write_text(json.dumps({"id2label": dict(enumerate(CLASSES))}))
    how.write(folder)
    return folder


def run_card(kind: str, folder: Path, monkeypatch: pytest.MonkeyPatch, **about: Any) -> dict[str, Any]:
    """Run the code on an artifact's card in its folder, as a user would; return its variables."""
    card = card_of(kind=kind, task=TASK, labels=CLASSES, max_length=0, inputs=("pixel_values",), **about)
    assert "An image classifier for 2 labels (cool, warm)" in card.render()
    assert "tokens" not in card.render()
    monkeypatch.chdir(folder)
    found: dict[str, Any] = {}
    exec(compile(card.usage(), "card", "exec"), found)
    return found


def opens_as_scored(opened: Callable[[Path], Image.Image], place: Path) -> None:
    """Hold what the code on a card opens against what the engine decodes, of images in every form."""
    for path in of_every_kind(place):
        wanted, found = decode(path, path.name), opened(path)
        assert (
            (found.mode, found.size) == (wanted.mode, wanted.size) == ("RGB", (17, 24) if "turned" in path.name else (24, 17))
        )
        np.testing.assert_array_equal(np.asarray(found), np.asarray(wanted), path.name)
        assert np.ptp(np.asarray(found)) > (200 if "16_bits" in path.name else 40), f"{path.name}: its range is kept"


@pytest.mark.parametrize("way", WAYS)
def test_the_card_s_code_gives_the_scored_pixels_and_answers(
    way: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    how = ImagePreprocessing.checked(**WAYS[way])
    folder = artifact(tmp_path / "artifact", how)
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(pixels(1, 3, 40)[:31]).convert("CMYK").save(folder / "image.jpg", exif=exif)
    found = run_card("onnx", folder, monkeypatch, scheme=None)
    scorer = IMAGE.scorer(TASK, Evaluate(), CLASSES)
    reader = scorer.reader(folder)
    (batch,) = reader.batches(reader.ask([{"image": str(folder / "image.jpg")}]).windows, 1)
    np.testing.assert_array_equal(found["pixels"]("image.jpg"), batch.arrays["pixel_values"][0])
    logits = OnnxRunner(folder / "model.onnx", threads=1).logits(batch)
    np.testing.assert_array_equal(found["logits"], logits)
    assert capsys.readouterr().out.strip() == ("cool" if way == "bgr" else "warm")
    opens_as_scored(found["opened"], tmp_path / "kinds")


def test_the_checkpoint_s_card_gives_the_scored_pixels(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    how = ImagePreprocessing(size=(32, 32), shortest=40, crop=True, mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))
    config = ResNetConfig(embedding_size=8, hidden_sizes=[8, 8], depths=[1, 1], num_labels=2, id2label=dict(enumerate(CLASSES)))
    ResNetForImageClassification(config).save_pretrained(tmp_path)
    how.write(tmp_path)
    Image.fromarray(pixels(0, 1, 50)[:37]).save(tmp_path / "image.jpg")
    found = run_card("transformers", tmp_path, monkeypatch, scheme=None)
    reader = IMAGE.scorer(TASK, Evaluate(), CLASSES).reader(tmp_path)
    (batch,) = reader.batches(reader.ask([{"image": str(tmp_path / "image.jpg")}]).windows, 1)
    with torch.no_grad():
        expected = found["model"](torch.from_numpy(batch.arrays["pixel_values"])).logits
    torch.testing.assert_close(found["logits"], expected)
    assert capsys.readouterr().out.strip() in CLASSES
    opens_as_scored(found["opened"], tmp_path / "kinds")


def asked(folder: Path, question: Question, data: Data | None = None) -> AnswerSpec:
    place = str(artifact(folder / "artifact", ImagePreprocessing(size=(8, 8), exact=(8, 8))))
    memory = 1 << 40
    return AnswerSpec(
        task=TASK, labels=CLASSES, original=place, compressed=place, question=question, data=data, memory_bytes=memory
    )


def test_an_uploaded_image_and_a_row_of_the_data_are_answered(tmp_path: Path) -> None:
    image = base64.b64encode(encoded(pixels(1, 5, 30), "JPEG")).decode()
    found = predict(asked(tmp_path, Question(image=image)), tmp_path)
    assert (found.original.label, found.compressed.label) == ("warm", "warm")
    assert found.asked == {"image": "30 × 30 pixels"}
    assert found.picture.startswith("data:image/")
    assert found.expected is None
    data = folder_data(tmp_path)
    found = predict(asked(tmp_path, Question(row=1), data), tmp_path)
    assert found.asked == {"image": "test/cool/2.png"}
    assert found.expected == found.original.label == "cool"
    with pytest.raises(EmptySplit, match="test has no row 6"):
        predict(asked(tmp_path, Question(row=6), data), tmp_path)
    found = predict(asked(tmp_path, Question(row=3, split="train"), npz_data(tmp_path)), tmp_path)
    assert found.asked == {"image": "row 3 of train"}
    assert (found.expected, found.original.label) == ("1", "warm")


@pytest.mark.parametrize(("image", "cause"), [("AAAA", "the image cannot be decoded"), ("AAAAA", "not in base64")])
def test_what_is_no_image_is_refused_with_the_reason(image: str, cause: str, tmp_path: Path) -> None:
    with pytest.raises(UnreadableData, match=cause):
        predict(asked(tmp_path, Question(image=image)), tmp_path)


def test_a_report_shows_pictures_of_rows_with_their_labels(tmp_path: Path) -> None:
    for data in (folder_data(tmp_path), npz_data(tmp_path)):
        dataset = IMAGE.read(data, tmp_path, TASK, 0)
        shown = IMAGE.samples(dataset.judged("test")[:2], ("no", "yes"))
        assert [one.expected for one in shown] == [("no", "yes")[row["label"]] for row in dataset.judged("test")[:2]]
        assert all(one.picture.startswith("data:image/png") and not one.texts for one in shown)


def test_a_preprocessor_must_fit_its_network(tmp_path: Path) -> None:
    config: Any = SimpleNamespace(graph={"shape": [3, 8, 10]})
    ImagePreprocessing(size=(8, 10), exact=(8, 10)).write(tmp_path)
    opened = IMAGE.preprocessor(tmp_path, config, 0)
    assert (opened.length, opened.padding) == (0, 0)
    config.graph["shape"] = [1, 8, 10]
    with pytest.raises(ConfigMismatch, match="3 × 8 × 10, and the model reads 1 × 8 × 10"):
        IMAGE.preprocessor(tmp_path, config, 0)


def test_an_artifact_gets_the_file_in_its_common_form(tmp_path: Path) -> None:
    stock = {"image_processor_type": "ConvNextImageProcessor", "size": {"shortest_edge": 28}, "crop_pct": 0.875}
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(stock))
    (tmp_path / "artifact").mkdir()
    IMAGE.write_preprocessor(tmp_path, tmp_path / "artifact", 0, TASK)
    assert ImagePreprocessing.read(tmp_path / "artifact") == ImagePreprocessing.of_transformers(stock)


def test_inputs_of_a_network_have_its_shape_and_a_free_batch() -> None:
    model: Any = SimpleNamespace(config=SimpleNamespace(graph={"shape": [3, 8, 10]}))
    assert modality_of(TASK) is IMAGE
    assert {name: value.shape for name, value in IMAGE.example_inputs(model, 2, 0).items()} == {"pixel_values": (2, 3, 8, 10)}
    assert IMAGE.free_dimensions(model) == {"pixel_values": {0: ("batch", None)}}


def test_what_reads_and_scores_images_loads_no_torch() -> None:
    code = """
import sys
import compression.modalities.image.dataset_check, compression.modalities.image.questions
from compression.modalities.registry import scorer_of
from compression.schema.recipe.recipe import Evaluate
scorer_of("image-classification", Evaluate(), ("a", "b"))
assert not {"torch", "transformers"} & set(sys.modules)
"""
    subprocess.run([sys.executable, "-c", code], check=True)


@torch.no_grad()
def test_a_network_without_a_writer_of_its_own_would_be_traced_with_its_answers() -> None:
    network = drawn_network(mobilenet_v2())
    images = torch.randn(3, *network.config.network.shape, generator=torch.Generator().manual_seed(0))
    assert torch.allclose(answers(trace.graph(network), images), network(images).logits, rtol=1e-4, atol=1e-4)
