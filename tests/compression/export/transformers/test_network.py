"""A network that came from transformers goes back to it as far as the class that it came from has such a model."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import PreTrainedModel

from compression.evaluation.runtimes.transformers import open_folder
from compression.export.transformers.exporter import EXPORTER
from compression.modalities.scoring.base import Inputs
from compression.models import loading
from compression.models.adapters.registry import adapter_of
from compression.models.adapters.structure import PruningPlan
from compression.models.files.preprocessor_config import ImagePreprocessing
from compression.models.running_statistics import set_training_mode
from compression.models.sanitized_folder import sanitized_folder
from tests.support.network_models import drawn_network
from tests.support.stock_classifiers import LABELS, saved_classifier


class Pixels:
    """Images as a runtime is given them."""

    def __init__(self, shape: tuple[int, ...]) -> None:
        self.arrays = {"pixel_values": np.random.default_rng(0).standard_normal((2, *shape), np.float32)}


def opened(name: str, folder: Path) -> PreTrainedModel:
    """Return a stock classifier as the network that a job opens."""
    _, size = saved_classifier(name, folder / "sent")
    ImagePreprocessing(size=size).write(folder / "sent")
    place = sanitized_folder(folder / "sent", folder / "unpacked", LABELS)
    return loading.load_model(place, LABELS, "image-classification", seed=0)


def tied(model: PreTrainedModel) -> tuple[tuple[str, ...], ...]:
    facts = adapter_of(model).network(model.config)
    assert facts is not None
    assert facts.tied
    return facts.tied


def halved(model: PreTrainedModel, keys: set[str]) -> PreTrainedModel:
    widths = adapter_of(model).shape_of(model.config).widths or {}
    return adapter_of(model).narrowed(model, PruningPlan({key: torch.arange(0, widths[key], 2) for key in keys}, None))


@pytest.mark.parametrize("name", ["resnet", "vit-heads", "swin"])
def test_a_cut_network_is_a_stock_checkpoint_with_its_answers(name: str, tmp_path: Path) -> None:
    model = opened(name, tmp_path)
    small = halved(model, {key for keys in tied(model) for key in keys})
    assert EXPORTER.hinders(small) is None
    EXPORTER.write(small, tmp_path / "made", "float32")
    config = json.loads((tmp_path / "made" / "config.json").read_text())
    assert config["architectures"] == [model.config.source["config"]["architectures"][0]]
    asked: Inputs = Pixels(small.config.network.shape)  # type: ignore[assignment]
    found = open_folder(tmp_path / "made", threads=1).logits(asked)  # type: ignore[arg-type]
    with torch.no_grad():
        wanted = small(torch.from_numpy(asked.arrays["pixel_values"])).logits
    assert np.allclose(found, wanted, rtol=1e-5, atol=1e-5)


def test_a_network_of_other_widths_says_why_it_is_none(tmp_path: Path) -> None:
    model = opened("resnet", tmp_path)
    (first, *_), *_ = tied(model)
    reason = EXPORTER.hinders(halved(model, {first}))
    assert reason is not None
    assert "ResNetForImageClassification has no model of these widths" in reason
    with pytest.raises(TypeError, match="has no model of these widths"):
        EXPORTER.write(halved(model, {first}), tmp_path / "made", "float32")


def test_a_network_from_elsewhere_says_why_it_is_none(tmp_path: Path) -> None:
    model = opened("vit", tmp_path)
    elsewhere = drawn_network(model.config.network)
    assert EXPORTER.hinders(elsewhere) == "It is no model of transformers."


@pytest.mark.parametrize("dropout", [True, False])
def test_a_trained_swin_is_still_a_stock_model(tmp_path: Path, dropout: bool) -> None:
    """Its tables by distance stay tables, though a network has a number for each pair of places."""
    model = opened("swin", tmp_path)
    set_training_mode(model, dropout=dropout)
    before = model.get_parameter("stage0_block0_distances.value").detach().clone()
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
    pixels = torch.randn(4, *model.config.network.shape, generator=torch.Generator().manual_seed(0))
    for _ in range(2):
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(model(pixels).logits, torch.tensor([0, 1, 2, 0])).backward()
        optimizer.step()
    model.eval()
    assert not torch.equal(model.get_parameter("stage0_block0_distances.value"), before)
    assert EXPORTER.hinders(model) is None


def test_datasets_of_one_job_get_heads_of_their_own(tmp_path: Path) -> None:
    """A bare network has as many outputs as the data have labels."""
    model, size = saved_classifier("resnet", tmp_path / "whole")
    bare = type(model).base_model_prefix
    getattr(model, bare).save_pretrained(tmp_path / "sent")
    ImagePreprocessing(size=size).write(tmp_path / "sent")
    for labels in (("a", "b", "c"), tuple("abcdefghij"), ("x", "y", "z")):
        place = sanitized_folder(tmp_path / "sent", tmp_path / "unpacked", labels)
        opened = loading.load_model(place, labels, "image-classification", seed=0)
        arrays = {"pixel_values": torch.zeros(1, 3, *size)}
        assert opened(**arrays).logits.shape == (1, len(labels))
        assert loading.head_labels(opened.config) == labels
