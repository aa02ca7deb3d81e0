"""What a stock config.json says of an image classifier, and what is refused of it."""

from typing import Any

import pytest

from compression.models.networks.channels import channel_groups
from compression.models.networks.families.registry import FAMILIES
from compression.models.networks.families.stock_checkpoint import tied
from compression.models.networks.value_shapes import value_shapes
from compression.schema.errors import ConfigMismatch, UnsafeCheckpoint, UnsupportedArchitecture

RESNET = {"embedding_size": 8, "hidden_sizes": [16, 32], "depths": [2, 2]}
SWIN = {"embed_dim": 8, "depths": [2, 3], "num_heads": [2, 2], "image_size": 20, "patch_size": 2, "window_size": 3}
REFUSED: list[tuple[str, dict[str, Any], type[Exception], str]] = [
    ("resnet", {"layer_type": "dense"}, UnsupportedArchitecture, "layer_type"),
    ("resnet", {"hidden_act": "xielu"}, UnsupportedArchitecture, "hidden_act"),
    ("resnet", {"hidden_act": ["relu"]}, UnsupportedArchitecture, "hidden_act"),
    ("resnet", {"depths": [2]}, ConfigMismatch, "depths"),
    ("resnet", {"depths": [10**9, 1]}, ConfigMismatch, "depths"),
    ("resnet", {"depths": [200, 200]}, ConfigMismatch, "depths"),
    ("resnet", {"hidden_sizes": [10**9, 2]}, ConfigMismatch, "hidden_sizes"),
    ("resnet", {"hidden_sizes": None}, ConfigMismatch, "hidden_sizes"),
    ("resnet", {"hidden_sizes": [2, 2]}, ConfigMismatch, "hidden_sizes"),
    ("resnet", {"num_channels": True}, ConfigMismatch, "num_channels"),
    ("resnet", {"num_channels": 1}, UnsupportedArchitecture, "num_channels"),
    ("resnet", {"num_labels": 1}, UnsupportedArchitecture, "id2label"),
    ("resnet", {"downsample_in_bottleneck": 1}, ConfigMismatch, "downsample_in_bottleneck"),
    ("resnet", {"quantization_config": {"quant_method": "fp8"}}, UnsupportedArchitecture, "quantization_config"),
    ("resnet", {"per_layer_config": {"0": {"hidden_act": "gelu"}}}, UnsupportedArchitecture, "per_layer_config"),
    ("resnet", {"problem_type": "multi_label_classification"}, UnsupportedArchitecture, "problem_type"),
    ("resnet", {"architectures": ["ResNetBackbone"]}, UnsupportedArchitecture, "architectures"),
    ("resnet", {"id2label": {"0": "a", "1": "b", "3": "c"}}, ConfigMismatch, "id2label"),
    ("mobilenet_v2", {"depth_multiplier": 0}, ConfigMismatch, "depth_multiplier"),
    ("mobilenet_v2", {"expand_ratio": 60.0, "depth_multiplier": 8.0}, ConfigMismatch, "depth_multiplier"),
    ("mobilenet_v2", {"expand_ratio": float("inf")}, ConfigMismatch, "expand_ratio"),
    ("convnext", {"num_stages": 3}, ConfigMismatch, "num_stages"),
    ("convnext", {"num_hidden_layers": 2}, ConfigMismatch, "num_hidden_layers"),
    ("convnextv2", {"hidden_sizes": [0, 8, 8, 8]}, ConfigMismatch, "hidden_sizes"),
    ("vit", {"hidden_size": 4}, ConfigMismatch, "num_attention_heads"),
    ("vit", {"patch_size": 300}, ConfigMismatch, "patch_size"),
    ("vit", {"image_size": [224, 224, 3]}, ConfigMismatch, "image_size"),
    ("vit", {"attn_implementation": "someone/kernels"}, UnsafeCheckpoint, "attn_implementation"),
    ("deit", {"architectures": ["DeiTForImageClassificationWithTeacher"]}, UnsupportedArchitecture, "architectures"),
    ("swin", {**SWIN, "window_size": 6}, UnsupportedArchitecture, "window_size"),
    ("swin", {**SWIN, "num_heads": [3, 3]}, ConfigMismatch, "num_heads"),
    ("swin", {**SWIN, "num_attention_heads": [1, 1]}, ConfigMismatch, "num_attention_heads"),
    ("swin", {**SWIN, "image_size": 1024, "patch_size": 1, "window_size": 64}, UnsupportedArchitecture, "window_size"),
]


def config_of(kind: str, **settings: Any) -> dict[str, Any]:
    return {"model_type": kind, "architectures": [FAMILIES[kind].stock.architectures[0]], **settings}


@pytest.mark.parametrize(("kind", "settings", "error", "key"), REFUSED)
def test_a_wrong_setting_is_refused_by_its_name(kind: str, settings: dict[str, Any], error: type[Exception], key: str) -> None:
    base = RESNET if kind == "resnet" else {}
    _, problems = FAMILIES[kind].describe(config_of(kind, **{**base, **settings}))
    assert [type(problem) for problem in problems] == [error], [problem.cause for problem in problems]
    assert problems[0].param == f"config.json:{key}"


def test_all_wrong_settings_are_named_at_once() -> None:
    _, problems = FAMILIES["vit"].describe(config_of("vit", hidden_size="768", qkv_bias=None, num_hidden_layers=0))
    assert {problem.param for problem in problems} == {
        "config.json:hidden_size",
        "config.json:qkv_bias",
        "config.json:num_hidden_layers",
    }


@pytest.mark.parametrize("kind", FAMILIES)
def test_the_settings_of_stock_code_are_valid(kind: str) -> None:
    network = FAMILIES[kind].graph_of({"model_type": kind})
    assert network.labels is None
    assert network.architecture == FAMILIES[kind].stock.architectures[1]
    assert value_shapes(network.graph)[network.graph.output] == (1, 2)
    assert set(network.names) | set(network.fixed) == set(network.graph.tensors())


def test_a_model_of_a_fixed_size_takes_no_other() -> None:
    for kind, size in (("vit", (32, 32)), ("resnet", (64, 32))):
        network, problems = FAMILIES[kind].describe(config_of(kind), size)
        if kind == "vit":
            assert [problem.param for problem in problems] == ["config.json:image_size"]
        else:
            assert network is not None
            assert network.graph.shape == (3, 64, 32)


def test_an_image_that_is_too_small_for_the_network_is_refused() -> None:
    _, problems = FAMILIES["convnext"].describe(config_of("convnext"), (8, 8))
    assert len(problems) == 1
    assert "no image passes this network" in problems[0].cause


def test_names_that_several_outputs_have_are_told_apart() -> None:
    names = {"0": "crane", "1": "tench", "2": "crane"}
    assert FAMILIES["resnet"].graph_of(config_of("resnet", **RESNET, id2label=names)).labels == ("crane", "tench", "crane (2)")


def test_a_bottleneck_and_its_block_keep_their_proportion() -> None:
    config = config_of("resnet", **RESNET)
    graph = FAMILIES["resnet"].graph_of(config, (32, 32)).graph
    groups = {group.key: group for group in channel_groups(graph)}
    lists = tied(config, graph)
    assert [sorted(groups[key].units for key in keys) for keys in lists] == [[4, 4, 4, 4, 16], [8, 8, 8, 8, 32]]
    assert {groups[key].axis for keys in lists for key in keys} == {"channels", "hidden"}


def test_no_width_is_tied_where_a_part_of_it_never_goes() -> None:
    """A stream of one channel stays, and so the inner channels would have to."""
    config = config_of("convnextv2", hidden_sizes=[4, 1], depths=[1, 1], num_stages=2)
    assert tied(config, FAMILIES["convnextv2"].graph_of(config, (32, 32)).graph) == ()


def test_inner_channels_that_are_compared_with_their_mean_are_tied_to_their_stage() -> None:
    config = config_of("convnextv2", hidden_sizes=[4, 8], depths=[1, 2], num_stages=2)
    graph = FAMILIES["convnextv2"].graph_of(config, (32, 32)).graph
    groups = {group.key: group for group in channel_groups(graph)}
    assert [[groups[key].units for key in keys] for keys in tied(config, graph)] == [[4, 16], [8, 32, 32]]
    assert sorted(group.axis for group in groups.values()) == ["ffn"] * 3 + ["hidden"] * 2
