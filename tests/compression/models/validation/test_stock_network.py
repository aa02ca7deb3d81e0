"""An upload of a stock image classifier is checked without opening it: files, names, shapes, settings."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers
from safetensors.numpy import load_file, save_file

from compression.models.files.preprocessor_config import ImagePreprocessing
from compression.models.validation.model import check
from compression.schema.validation import ModelFacts
from tests.support.stock_classifiers import CLASSIFIERS, LABELS, RESNET, saved_classifier, stock_classifier


def upload(name: str, folder: Path) -> Path:
    _, size = saved_classifier(name, folder)
    ImagePreprocessing(size=size).write(folder)
    return folder


def changed(folder: Path, **settings: object) -> Path:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | settings))
    return folder


def params(folder: Path) -> list[str | None]:
    found = check(folder)
    assert isinstance(found, list)
    return [problem.param for problem in found]


@pytest.mark.parametrize("name", CLASSIFIERS)
def test_what_stock_code_saves_is_valid(name: str, tmp_path: Path) -> None:
    facts = check(upload(name, tmp_path))
    assert isinstance(facts, ModelFacts), facts
    model, _ = stock_classifier(name)
    assert facts.labels == LABELS
    assert facts.family == model.config.model_type
    assert facts.architecture == type(model).__name__
    assert facts.network is not None
    assert facts.shape.widths == facts.network.widths
    if model.config.model_type != "swin":  # whose tables of distances a network has for each pair of places
        assert facts.parameters.total == sum(parameter.numel() for parameter in model.parameters())


def test_a_bare_model_has_no_labels_and_may_have_a_pooler(tmp_path: Path) -> None:
    config = transformers.ViTConfig(
        hidden_size=12, num_hidden_layers=1, num_attention_heads=3, intermediate_size=20, image_size=16, patch_size=8
    )
    model = transformers.ViTModel(config)
    model.save_pretrained(tmp_path)
    ImagePreprocessing(size=(16, 16)).write(tmp_path)
    facts = check(tmp_path)
    assert isinstance(facts, ModelFacts), facts
    assert facts.labels is None
    assert facts.parameters.total == sum(value.numel() for name, value in model.named_parameters() if "pooler" not in name)


def test_a_file_with_the_names_of_loaded_tensors_is_valid(tmp_path: Path) -> None:
    folder = upload("vit", tmp_path)
    model, _ = stock_classifier("vit")
    state = {name: value.numpy() for name, value in model.state_dict().items()}
    save_file(state, folder / "model.safetensors", {"format": "pt"})
    assert isinstance(check(folder), ModelFacts)


def test_an_index_that_older_versions_saved_is_no_weight(tmp_path: Path) -> None:
    folder = upload("swin", tmp_path)
    name = "swin.encoder.layers.0.blocks.1.attention.self.relative_position_index"
    file = {**load_file(folder / "model.safetensors"), name: np.zeros((9, 9), np.int64)}
    save_file(file, folder / "model.safetensors", {"format": "pt"})
    assert isinstance(check(folder), ModelFacts)


def test_tensors_that_disagree_with_the_config_are_named(tmp_path: Path) -> None:
    folder = upload("resnet", tmp_path)
    file = load_file(folder / "model.safetensors")
    lost = "resnet.encoder.stages.1.layers.1.layer.0.convolution.weight"
    del file[lost]
    file["resnet.more"] = np.zeros(2, np.float32)
    file["classifier.1.bias"] = np.zeros(5, np.float32)
    save_file(file, folder / "model.safetensors", {"format": "pt"})
    assert params(folder) == [
        f"model.safetensors:{lost}",
        "model.safetensors:resnet.more",
        "model.safetensors:classifier.1.bias",
    ]


def test_every_reason_is_told(tmp_path: Path) -> None:
    folder = changed(upload("resnet", tmp_path), layer_type="wide", embedding_size=0)
    assert {"config.json:embedding_size", "config.json:layer_type"} <= set(params(folder))
    (folder / "preprocessor_config.json").unlink()
    assert "preprocessor_config.json" in params(changed(folder, **RESNET))


def test_images_of_another_size_than_the_models_are_refused(tmp_path: Path) -> None:
    folder = upload("vit", tmp_path)
    ImagePreprocessing(size=(32, 32)).write(folder)
    assert params(folder) == ["config.json:image_size"]


def test_a_head_of_another_kind_is_no_classifier(tmp_path: Path) -> None:
    folder = changed(upload("deit", tmp_path), architectures=["DeiTForImageClassificationWithTeacher"])
    assert params(folder) == ["config.json:architectures"]


def test_weights_that_are_no_numbers_are_refused(tmp_path: Path) -> None:
    folder = upload("convnext", tmp_path)
    model, _ = stock_classifier("convnext")
    with torch.no_grad():
        model.classifier.bias[0] = torch.nan
    model.save_pretrained(folder)
    assert params(folder) == ["model.safetensors:'classifier.bias'"]
