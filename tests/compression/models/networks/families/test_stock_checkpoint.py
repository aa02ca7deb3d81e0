"""A stock classifier is its graph: with the same answers, and back to the same file; cut ones as far as a config can say."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file, save_file
from transformers import AutoModelForImageClassification

from compression.models.adapters.network.module import NetworkConfig, NetworkForImageClassification
from compression.models.networks.channels import channel_groups
from compression.models.networks.cutting import cut_graph
from compression.models.networks.families.builder import StockNetwork
from compression.models.networks.families.registry import FAMILIES
from compression.models.networks.families.stock_checkpoint import network_tensors, stock_form, tied
from compression.models.networks.graph import Graph
from tests.support.stock_classifiers import CLASSIFIERS, LABELS, saved_classifier

TIED = ("resnet", "resnet-basic", "convnext", "convnextv2", "convnextv2-relu", "vit", "vit-heads", "swin", "swin-padded")


def read(folder: Path, size: tuple[int, int]) -> tuple[dict[str, Any], StockNetwork, dict[str, Any]]:
    """Return the config, the network and its tensors of a stock folder."""
    config, file = json.loads((folder / "config.json").read_text()), load_file(folder / "model.safetensors")
    family = FAMILIES[config["model_type"]]
    network = family.graph_of(config, size)
    return config, network, dict(network_tensors(network, family, set(file), file.__getitem__))


def as_model(graph: Graph, tensors: dict[str, Any]) -> NetworkForImageClassification:
    model = NetworkForImageClassification(NetworkConfig(graph=graph.model_dump(mode="json"))).eval()
    model.load_state_dict({name: torch.from_numpy(value) for name, value in tensors.items()})
    return model  # type: ignore[no-any-return]


@torch.no_grad()
def answers(model: Any, rows: int, shape: tuple[int, ...]) -> torch.Tensor:
    drawn = torch.randn(rows, *shape, generator=torch.Generator().manual_seed(rows))
    found: torch.Tensor = model(drawn).logits
    return found


@pytest.mark.parametrize("name", CLASSIFIERS)
def test_a_stock_model_is_its_graph_and_goes_back_to_its_file(name: str, tmp_path: Path) -> None:
    stock, size = saved_classifier(name, tmp_path)
    config, network, tensors = read(tmp_path, size)
    ours = as_model(network.graph, tensors)
    for rows in (1, 3):
        wanted = answers(stock, rows, network.graph.shape)
        assert torch.allclose(answers(ours, rows, network.graph.shape), wanted, rtol=1e-5, atol=1e-5)
    assert wanted.abs().max() > 0.1
    back = stock_form(config, network.graph, tensors, LABELS)
    assert not isinstance(back, str)
    file = load_file(tmp_path / "model.safetensors")
    assert set(back.tensors) == set(file)
    for key, value in file.items():
        assert np.array_equal(back.tensors[key], value)
        assert back.tensors[key].dtype == value.dtype
    assert all(config[key] == value for key, value in back.config.items() if key != "pooler_output_size")


@pytest.mark.parametrize("name", TIED)
def test_a_network_cut_in_its_proportions_is_a_stock_model(name: str, tmp_path: Path) -> None:
    _, size = saved_classifier(name, tmp_path / "whole")
    config, network, tensors = read(tmp_path / "whole", size)
    proportions = {key for keys in tied(config, network.graph) for key in keys}
    kept = {
        group.key: range(1, group.units, 2)
        for group in channel_groups(network.graph)
        if group.key in proportions and group.units % 2 == 0
    }
    cut = cut_graph(network.graph, kept)
    assert cut.graph != network.graph
    narrow = {key: cut.cut(key, tensors[key]) for key in cut.graph.tensors()}
    found = stock_form(config, cut.graph, narrow, LABELS)
    assert not isinstance(found, str), found
    (tmp_path / "cut").mkdir()
    (tmp_path / "cut" / "config.json").write_text(json.dumps(found.config))
    save_file(found.tensors, tmp_path / "cut" / "model.safetensors", {"format": "pt"})
    stock, report = AutoModelForImageClassification.from_pretrained(tmp_path / "cut", output_loading_info=True)
    assert not report["missing_keys"]
    assert not report["unexpected_keys"]
    wanted = answers(as_model(cut.graph, narrow), 2, cut.graph.shape)
    assert torch.allclose(answers(stock, 2, cut.graph.shape), wanted, rtol=1e-5, atol=1e-5)
    assert tuple(stock.config.id2label.values()) == LABELS


@pytest.mark.parametrize("name", ["resnet", "mobilenet", "convnext", "vit", "swin"])
def test_widths_out_of_proportion_are_no_stock_model(name: str, tmp_path: Path) -> None:
    _, size = saved_classifier(name, tmp_path)
    config, network, tensors = read(tmp_path, size)
    inner = [group for group in channel_groups(network.graph) if group.axis in ("channels", "ffn")][1]
    cut = cut_graph(network.graph, {inner.key: range(inner.units - 1)})
    reason = stock_form(config, cut.graph, {key: cut.cut(key, tensors[key]) for key in cut.graph.tensors()}, LABELS)
    called, limits = f"{CLASSIFIERS[name][0]}ForImageClassification", FAMILIES[config["model_type"]].stock.limits
    assert reason == f"transformers' {called} has no model of these widths and blocks. {limits}"


def test_a_removed_block_is_one_block_less_of_its_stage(tmp_path: Path) -> None:
    _, size = saved_classifier("resnet", tmp_path)
    config, network, tensors = read(tmp_path, size)
    cut = cut_graph(network.graph, {}, ["stage1_block1_activation"])
    found = stock_form(config, cut.graph, {key: cut.cut(key, tensors[key]) for key in cut.graph.tensors()}, LABELS)
    assert not isinstance(found, str)
    assert found.config["depths"] == [2, 1]


def test_training_may_part_a_network_from_what_stock_code_makes_of_few_numbers(tmp_path: Path) -> None:
    _, size = saved_classifier("swin", tmp_path)
    config, network, tensors = read(tmp_path, size)
    for name, why in (("stage0_block0_distances.value", "told them apart"), ("stage0_hidden_pairs.value", "changed it")):
        value = tensors[name]
        trained = {**tensors, name: value + np.arange(value.size, dtype=np.float32).reshape(value.shape)}
        reason = stock_form(config, network.graph, trained, LABELS)
        assert isinstance(reason, str)
        assert why in reason


def test_files_of_bare_models_and_of_loaded_ones_have_other_names(tmp_path: Path) -> None:
    stock, size = saved_classifier("vit", tmp_path)
    _, network, tensors = read(tmp_path, size)
    family, state = FAMILIES["vit"], {name: value.numpy() for name, value in stock.state_dict().items()}
    assert set(state) != set(load_file(tmp_path / "model.safetensors"))
    bare = {name.removeprefix("vit."): value for name, value in state.items()}
    for file in (state, bare):
        found = dict(network_tensors(network, family, set(file), file.__getitem__))
        assert set(found) == set(tensors)
        assert all(np.array_equal(found[name], value) for name, value in tensors.items())


def test_inner_channels_behind_a_response_of_all_are_cut_as_if_they_were_zero(tmp_path: Path) -> None:
    _, size = saved_classifier("convnextv2", tmp_path)
    _, network, tensors = read(tmp_path, size)
    inner = [group for group in channel_groups(network.graph) if group.axis == "ffn"]
    assert [group.units for group in inner] == [16, 16, 32]
    cut = cut_graph(network.graph, {group.key: range(0, group.units, 3) for group in inner})
    zeros = {name: value.copy() for name, value in tensors.items()}
    for group in inner:
        for member in group.members:
            if member.dim == 0 or member.tensor.endswith("value"):
                np.moveaxis(zeros[member.tensor], member.dim, 0)[np.arange(group.units) % 3 != 0] = 0.0
    wanted = answers(as_model(network.graph, zeros), 2, network.graph.shape)
    narrow = {key: cut.cut(key, tensors[key]) for key in cut.graph.tensors()}
    assert torch.allclose(answers(as_model(cut.graph, narrow), 2, network.graph.shape), wanted, rtol=1e-5, atol=1e-5)
    assert not torch.allclose(answers(as_model(network.graph, tensors), 2, network.graph.shape), wanted, atol=1e-3)
