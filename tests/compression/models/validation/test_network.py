"""An ONNX network of images: known by its facts, or refused with every reason."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper

from compression.models.files.uploaded import uploaded
from compression.models.validation import model
from tests.compression.models.validation.conftest import judged, reasons
from tests.support.network_graphs import resnet
from tests.support.network_models import drawn_network
from tests.support.onnx_files import Arrays, proto, save

DRAW = np.random.default_rng(3)
PREPROCESSOR = {
    "image_processor_type": "ViTImageProcessor",
    "do_resize": True,
    "size": {"height": 8, "width": 8},
    "resample": 2,
    "do_rescale": True,
    "rescale_factor": 1 / 255,
    "do_normalize": True,
    "image_mean": [0.5, 0.5, 0.5],
    "image_std": [0.5, 0.5, 0.5],
}


def weights(**changes: Any) -> Arrays:
    shapes = {"stem": (6, 3, 3, 3), "block": (6, 6, 3, 3), "head": (4, 6), "bias": (4,)}
    return {name: DRAW.standard_normal(shape).astype(np.float32) for name, shape in shapes.items()} | changes


def network(**changes: Any) -> onnx.ModelProto:
    """Return a small residual network of images of 8 × 8 with four labels."""
    nodes = [
        helper.make_node("Conv", ["image", "stem"], ["a"], pads=[1, 1, 1, 1], strides=[2, 2]),
        helper.make_node("Conv", ["a", "block"], ["b"], pads=[1, 1, 1, 1]),
        helper.make_node("Add", ["a", "b"], ["c"]),
        helper.make_node("GlobalAveragePool", ["c"], ["d"]),
        helper.make_node("Flatten", ["d"], ["e"]),
        helper.make_node("Gemm", ["e", "head", "bias"], ["logits"], transB=1),
    ]
    return proto(nodes, weights(**changes))


@pytest.fixture
def upload(tmp_path: Path) -> Path:
    save(network(), tmp_path)
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(PREPROCESSOR))
    (tmp_path / "config.json").write_text(json.dumps({"id2label": dict(enumerate("abcd"))}))
    return tmp_path


def test_its_facts_are_those_of_the_file(upload: Path) -> None:
    facts = judged(upload)
    assert (facts.family, facts.architecture, facts.labels) == (
        "network",
        "NetworkForImageClassification",
        ("a", "b", "c", "d"),
    )
    assert facts.parameters.total == sum(array.size for array in weights().values())
    assert facts.shape.hidden == 6
    assert facts.network is not None
    assert facts.network.multiply_adds() == 16 * 6 * (27 + 54) + 24
    assert (facts.dtype, facts.bytes) == ("float32", (upload / "model.onnx").stat().st_size)
    assert uploaded(upload).bytes == facts.bytes


def test_labels_without_names_are_left_to_the_data(upload: Path) -> None:
    (upload / "config.json").unlink()
    assert judged(upload).labels is None


def test_a_name_of_two_outputs_gets_their_numbers(upload: Path) -> None:
    (upload / "config.json").write_text(json.dumps({"id2label": dict(enumerate(["crane", "tench", "crane", "dam"]))}))
    assert judged(upload).labels == ("crane", "tench", "crane (2)", "dam")


def test_safetensors_beside_it_take_precedence(upload: Path) -> None:
    (upload / "model.safetensors").write_bytes(b"")
    assert "model_type" in reasons(upload)["unsupported_architecture"]


def test_every_reason_is_told_at_once(upload: Path) -> None:
    (upload / "preprocessor_config.json").unlink()
    save(network(stem=np.full((6, 3, 3, 3), np.inf, np.float32)), upload)
    found = reasons(upload)
    assert "preprocessor_config.json" in found["missing_file"]
    assert "infinite" in found["damaged_checkpoint"]


def test_images_of_another_size_are_refused(upload: Path) -> None:
    (upload / "preprocessor_config.json").write_text(json.dumps({**PREPROCESSOR, "size": {"height": 8, "width": 16}}))
    assert "8 × 16" in reasons(upload)["config_mismatch"]


@pytest.mark.parametrize("names", [{"0": "a"}, {"0": "a", "1": "b", "2": "c", "4": "d"}, ["a", "b", "c", "d"]])
def test_labels_that_are_not_those_of_the_outputs_are_refused(names: Any, upload: Path) -> None:
    (upload / "config.json").write_text(json.dumps({"id2label": names}))
    assert "id2label" in reasons(upload)["config_mismatch"]


def test_two_files_are_refused(upload: Path) -> None:
    (upload / "other.onnx").write_bytes((upload / "model.onnx").read_bytes())
    assert "2 ONNX files" in reasons(upload)["missing_file"]


def test_weights_in_another_file_are_refused_with_a_way_out(upload: Path) -> None:
    (upload / "model.onnx.data").write_bytes(b"1234")
    assert "outside of the ONNX file" in reasons(upload)["unexpected_file"]


def test_one_output_is_no_classification(upload: Path) -> None:
    (upload / "config.json").unlink()
    save(network(head=np.ones((1, 6), np.float32), bias=np.ones(1, np.float32)), upload)
    assert "one output" in reasons(upload)["unsupported_architecture"]


def test_the_engines_own_form_is_refused(tmp_path: Path) -> None:
    drawn_network(resnet((1,))).save_pretrained(tmp_path)
    problems = model.check(tmp_path)
    assert isinstance(problems, list)
    assert problems[0].code == "unsupported_architecture"
    assert "ONNX" in problems[0].remedy_text
