"""A timm model becomes a network with timm's answers; what only looks like one, or is asked to fetch something, is refused."""

import json
import sys
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from safetensors.torch import load_file, save_file

from compression.models import loading
from compression.models.adapters.registry import adapter_of
from compression.models.files.timm_config import is_timm, read_timm
from compression.models.network_folder import network_of
from compression.models.sanitized_folder import sanitized_folder
from compression.models.timm_unpack import read_model
from compression.models.validation.model import check
from compression.schema.errors import CompressionError, ConfigMismatch, MissingResource, UnsupportedArchitecture
from compression.schema.validation import ModelFacts
from tests.support.timm_models import drawn, save_timm

LABELS = ("ant", "bee", "cow")
CONFIG = {"architecture": "test_resnet", "num_classes": 3, "pretrained_cfg": {"input_size": [3, 160, 160]}}


def sent(folder: Path, architecture: str, **more: Any) -> torch.nn.Module:
    """Save a timm model of random weights as hubs have it."""
    model = drawn(architecture, len(LABELS))
    save_timm(model, folder, **more)
    return model


def written(folder: Path, **settings: Any) -> Path:
    (folder / "config.json").write_text(json.dumps(CONFIG | settings))
    return folder


@pytest.mark.parametrize("architecture", ["test_resnet", "test_efficientnet", "test_vit", "test_convnext"])
@torch.no_grad()
def test_a_timm_model_answers_alike(architecture: str, tmp_path: Path) -> None:
    model = sent(tmp_path / "sent", architecture, label_names=list(LABELS))
    facts = check(tmp_path / "sent")
    assert isinstance(facts, ModelFacts), facts
    assert facts.labels == LABELS
    folder = sanitized_folder(tmp_path / "sent", tmp_path / "place")
    found = loading.load_model(folder, LABELS, "image-classification", seed=0)
    pixels = torch.randn(2, *found.config.network.shape)
    assert torch.allclose(found(pixels).logits, model(pixels), rtol=1e-4, atol=1e-4)
    assert found.config.source["library"] == "timm"
    norms = sum(isinstance(module, torch.nn.BatchNorm2d) for module in model.modules())
    assert sum(node.op == "batch_norm" for node in found.config.network.nodes) == norms
    numbers = sum(parameter.numel() for parameter in model.parameters())
    assert sum(parameter.numel() for parameter in found.parameters()) == facts.parameters.total == numbers, "no zero biases"
    assert adapter_of(found).lacks_form(found.config) is None


@torch.no_grad()
def test_masks_are_no_parameters_and_tables_of_distances_count_once(tmp_path: Path) -> None:
    torch.manual_seed(0)
    sizes = {"embed_dim": 8, "depths": (2,), "num_heads": (2,), "window_size": 4}
    model = timm.models.SwinTransformer(img_size=32, num_classes=len(LABELS), **sizes).eval()
    for parameter in model.parameters():
        parameter.normal_(std=0.1)
    trace = read_model(model, (32, 32))
    assert trace.origin.lost is None
    assert sorted(trace.constants.windows.values()) == [4, 4]
    source = {"library": "timm", "config": {}, "fixed": sorted(trace.constants.fixed), "windows": trace.constants.windows}
    network, pixels = network_of(trace.graph, trace.tensors, source, LABELS), torch.randn(2, 3, 32, 32)
    network.train()
    assert torch.allclose(network(pixels).logits, model(pixels), atol=1e-5), "a shared number is the mean of equal ones"
    facts = adapter_of(network).network(network.config)
    numbers = sum(parameter.numel() for parameter in model.parameters())
    assert facts.parameters() == adapter_of(network).parameters_of(network).total == numbers
    held = [name for name, buffer in network.named_buffers() if buffer.numel() > 1]
    assert len(held) == 1
    assert float(network.get_buffer(held[0]).min()) == -100.0
    assert any("no parameters: 1." in note for note in adapter_of(network).notes(network.config))


def test_weights_of_another_model_are_refused(tmp_path: Path) -> None:
    sent(tmp_path, "test_resnet")
    file = load_file(tmp_path / "model.safetensors")
    save_file({name: value for name, value in file.items() if "fc" not in name}, tmp_path / "model.safetensors")
    with pytest.raises(ConfigMismatch, match="the weights are not those of timm's test_resnet"):
        sanitized_folder(tmp_path, tmp_path / "place", LABELS)


def test_a_worker_without_timm_says_what_it_lacks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sent(tmp_path, "test_resnet")
    monkeypatch.setitem(sys.modules, "timm", None)
    (problem,) = check(tmp_path)
    assert isinstance(problem, MissingResource)
    assert "[vision]" in problem.remedy_text
    assert "Export the model as ONNX" in problem.remedy_text


def test_an_architecture_that_timm_does_not_have_is_refused(tmp_path: Path) -> None:
    sent(tmp_path, "test_resnet")
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | {"architecture": "resnet_of_ours"}))
    found = check(tmp_path)
    assert isinstance(found, list)
    assert [problem.param for problem in found] == ["config.json:architecture"]


@pytest.mark.parametrize(
    ("settings", "error", "key"),
    [
        ({"architecture": "hf-hub:someone/model"}, UnsupportedArchitecture, "architecture"),
        ({"architecture": "local-dir:/etc"}, UnsupportedArchitecture, "architecture"),
        ({"model_args": {"checkpoint_path": "weights.pth"}}, UnsupportedArchitecture, "model_args"),
        ({"model_args": {"pretrained": True}}, UnsupportedArchitecture, "model_args"),
        ({"model_args": {"img_size": {"a": 1}}}, UnsupportedArchitecture, "model_args"),
        ({"model_args": {"in_chans": 1}}, UnsupportedArchitecture, "model_args"),
        ({"num_classes": 1}, ConfigMismatch, "num_classes"),
        ({"num_classes": None, "pretrained_cfg": ["num_classes"]}, ConfigMismatch, "num_classes"),
        ({"num_classes": 10**9}, ConfigMismatch, "num_classes"),
    ],
)
def test_settings_that_are_not_plain_are_refused(
    settings: dict[str, Any], error: type[CompressionError], key: str, tmp_path: Path
) -> None:
    with pytest.raises(error) as refused:
        read_timm(written(tmp_path, **settings))
    assert refused.value.param == f"config.json:{key}"


def test_a_config_of_timm_is_known_by_its_architecture(tmp_path: Path) -> None:
    assert is_timm(written(tmp_path))
    assert read_timm(tmp_path).labels is None
    assert read_timm(written(tmp_path, label_names=list(LABELS))).labels == LABELS
    assert read_timm(written(tmp_path, label_names=["ant", "ant", "cow"])).labels is None
    assert not is_timm(written(tmp_path, model_type="resnet"))
    assert not is_timm(tmp_path / "nowhere")
