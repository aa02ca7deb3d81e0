"""A network that came from timm goes back to it, with what training made of its weights, as long as nothing is cut."""

import copy
import json
from pathlib import Path

import pytest
import timm
import torch

from compression.export.exporter import exporter_of
from compression.export.timm.exporter import EXPORTER
from compression.models import loading
from compression.models.adapters.network.module import NetworkForImageClassification
from compression.models.adapters.registry import adapter_of
from compression.models.adapters.structure import PruningPlan
from compression.models.files.safetensors_header import read_header
from compression.models.files.timm_config import is_timm, read_timm
from compression.models.sanitized_folder import sanitized_folder
from compression.quantization.fake_quantize import Simulation, insert_fake_quantization, simulation_of
from tests.support.images import CLASSES
from tests.support.network_graphs import densenet
from tests.support.network_models import drawn_network
from tests.support.timm_models import drawn, save_timm

SIDE = 32
MEAN = (0.4, 0.5, 0.6)


@pytest.fixture(scope="module")
def network(tmp_path_factory: pytest.TempPathFactory) -> NetworkForImageClassification:
    """A model of timm as a job opens it, after training changed all of its numbers."""
    place = tmp_path_factory.mktemp("timm")
    about = {"mean": list(MEAN), "license": "mit", "custom_load": True, "hf_hub_id": "someone/model", "architecture": "other"}
    save_timm(drawn("test_vit", 2), place / "sent", side=160)
    config = json.loads((place / "sent" / "config.json").read_text())
    config["pretrained_cfg"] |= about
    (place / "sent" / "config.json").write_text(json.dumps(config))
    folder = sanitized_folder(place / "sent", place / "unpacked", CLASSES)
    model: NetworkForImageClassification = loading.load_model(folder, CLASSES, "image-classification", seed=0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    model.eval()
    return model


@pytest.mark.parametrize("simulated", [False, True])
@torch.no_grad()
def test_timm_opens_it_with_the_network_s_answers(
    simulated: bool, network: NetworkForImageClassification, tmp_path: Path
) -> None:
    model = copy.deepcopy(network)
    if simulated:
        insert_fake_quantization(model, lambda _: True, Simulation(scheme="dynamic-int8"))
        assert simulation_of(model) is not None
    assert EXPORTER.hinders(model) is None
    assert EXPORTER.precision_of("static-int8", model) == "float32"
    EXPORTER.write(model, tmp_path / "made", "float32")
    assert min(tensor.start for tensor in read_header(tmp_path / "made" / "model.safetensors")) % 64 == 0
    config = EXPORTER.labelled(EXPORTER.config(model, tmp_path / "made", 0), CLASSES)
    (tmp_path / "made" / "config.json").write_text(json.dumps(config))
    found = timm.create_model(f"local-dir:{tmp_path / 'made'}", pretrained=True).eval()
    pixels = torch.randn(3, *network.config.network.shape)
    torch.testing.assert_close(found(pixels), network(pixels).logits, rtol=1e-4, atol=1e-4)
    assert found.pretrained_cfg["label_names"] == list(CLASSES)


@torch.no_grad()
def test_its_config_says_what_hubs_say_and_nothing_of_other_weights(
    network: NetworkForImageClassification, tmp_path: Path
) -> None:
    EXPORTER.write(network, tmp_path, "float32")
    config = json.loads((tmp_path / "config.json").read_text())
    assert {"architecture", "num_classes", "num_features", "pretrained_cfg", "model_args"} <= set(config)
    assert config["architecture"] == "test_vit"
    about = config["pretrained_cfg"]
    assert (about["mean"], about["input_size"], about["crop_pct"]) == (list(MEAN), [3, 160, 160], 0.875)
    assert not set(about) & {"license", "hf_hub_id", "url", "tag", "origin_url"}
    assert not about.get("custom_load")
    assert is_timm(tmp_path)
    assert read_timm(tmp_path).classes == len(CLASSES)


def test_a_cut_one_says_why_there_is_none(network: NetworkForImageClassification, tmp_path: Path) -> None:
    adapter = adapter_of(network)
    widths = adapter.shape_of(network.config).widths or {}
    key = next(key for key in widths if key.startswith("ffn"))
    small = adapter.narrowed(network, PruningPlan({key: torch.arange(0, widths[key], 2)}, None))
    why = "timm's test_vit has no model of these widths and blocks."
    assert adapter.lacks_form(network.config) is None
    assert adapter.lacks_form(small.config) == EXPORTER.hinders(small) == why
    with pytest.raises(TypeError, match="these widths and blocks"):
        EXPORTER.write(small, tmp_path, "float32")


def test_what_did_not_come_from_timm_has_no_such_form() -> None:
    elsewhere = drawn_network(densenet())
    assert exporter_of("timm").hinders(elsewhere) == "It is no model of timm."
    assert EXPORTER.hinders(torch.nn.Linear(2, 2)) == "It is no model of timm."
    assert adapter_of(elsewhere).lacks_form(elsewhere.config) is None
