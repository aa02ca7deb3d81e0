"""A stock image classifier becomes a network's folder with the answers of transformers' own class."""

from pathlib import Path

import pytest
import torch
import transformers
from transformers import PretrainedConfig

from compression.models import loading
from compression.models.adapters.registry import adapter_of
from compression.models.files.preprocessor_config import ImagePreprocessing
from compression.models.sanitized_folder import sanitized_folder
from compression.schema.errors import ConfigMismatch

TASK = "image-classification"
LABELS = ("ant", "bee", "cow")
CONFIGS = {
    "resnet": transformers.ResNetConfig(embedding_size=8, hidden_sizes=[8, 12], depths=[1, 2], layer_type="basic"),
    "vit": transformers.ViTConfig(
        hidden_size=12, num_hidden_layers=2, num_attention_heads=3, intermediate_size=24, image_size=32, patch_size=8
    ),
    "swin": transformers.SwinConfig(image_size=32, patch_size=2, embed_dim=8, depths=[2, 2], num_heads=[2, 4], window_size=4),
}


def sent(folder: Path, config: PretrainedConfig, *, headed: bool = True) -> torch.nn.Module:
    torch.manual_seed(0)
    config.id2label, config.label2id = dict(enumerate(LABELS)), {name: number for number, name in enumerate(LABELS)}
    auto = transformers.AutoModelForImageClassification if headed else transformers.AutoModel
    model = auto.from_config(config).eval()
    model.save_pretrained(folder)
    ImagePreprocessing(size=(32, 32)).write(folder)
    return model


@pytest.mark.parametrize("kind", CONFIGS)
@torch.no_grad()
def test_a_stock_classifier_answers_alike(tmp_path: Path, kind: str) -> None:
    model, pixels = sent(tmp_path / "sent", CONFIGS[kind]), torch.randn(3, 3, 32, 32)
    folder = sanitized_folder(tmp_path / "sent", tmp_path / "place", LABELS)
    found = loading.load_model(folder, LABELS, TASK, seed=0)
    assert found.config.model_type == "network"
    assert torch.allclose(found(pixels).logits, model(pixels).logits, atol=1e-5)
    assert not found.config.pinned
    assert found.config.source["config"]["model_type"] == kind
    assert found.config.fixed <= {name for name, _ in found.named_buffers()}
    assert any(own.numel() > 1 for name, own in found.named_buffers() if name in found.config.fixed) == (kind == "swin")
    family = adapter_of(found)
    facts = family.network(found.config)
    assert facts.parameters() == family.parameters_of(found).total == sum(each.numel() for each in model.parameters())
    assert facts.tied
    assert all(key in facts.widths for keys in facts.tied for key in keys)


def test_a_bare_stock_model_gets_a_head_for_the_datas_labels(tmp_path: Path) -> None:
    sent(tmp_path / "sent", CONFIGS["resnet"], headed=False)
    labels = ("ant", "bee", "cow", "dog")
    folder = sanitized_folder(tmp_path / "sent", tmp_path / "place", labels)
    found = loading.load_model(folder, labels, TASK, seed=3)
    assert found(torch.randn(2, 3, 32, 32)).logits.shape == (2, 4)
    assert loading.head_labels(found.config) == labels


def test_weights_that_are_missing_are_named(tmp_path: Path) -> None:
    sent(tmp_path / "sent", CONFIGS["resnet"])
    config = transformers.ResNetConfig.from_pretrained(tmp_path / "sent")
    config.depths = [2, 2]
    config.save_pretrained(tmp_path / "sent")
    with pytest.raises(ConfigMismatch, match="the weights lack"):
        sanitized_folder(tmp_path / "sent", tmp_path / "place", LABELS)
