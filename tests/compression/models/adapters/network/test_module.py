"""A network in torch: its tensors bear the graph's names, its folder comes back equal, and no config gets past the checks."""

import json
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from transformers import AutoModelForImageClassification

from compression.models.adapters.network.module import NetworkConfig, NetworkForImageClassification
from compression.models.adapters.network.parts import PassedValue
from compression.models.networks.graph import INPUT, Graph, Node
from compression.models.networks.rounded_values import rounded_values

NORM = ("weight", "bias", "running_mean", "running_var")


def conv(name: str, given: str, outputs: int, inputs: int, size: int, *, stride: int = 1, groups: int = 1) -> Node:
    side = size // 2
    padding, weight = (side,) * 4, (outputs, inputs // groups, size, size)
    attributes = {"stride": (stride, stride), "padding": padding, "dilation": (1, 1), "groups": groups}
    return Node(name=name, op="conv", inputs=(given,), attributes=attributes, tensors={"weight": weight})


def norm(name: str, given: str, channels: int) -> Node:
    tensors = dict.fromkeys(NORM, (channels,))
    return Node(name=name, op="batch_norm", inputs=(given,), attributes={"epsilon": 1e-5}, tensors=tensors)


def small_graph() -> Graph:
    """A stem, a residual block with a depthwise convolution and layer scales, and a head."""
    nodes = (
        conv("stem", INPUT, 8, 3, 3, stride=2),
        norm("stem_norm", "stem", 8),
        Node(name="stem_relu", op="relu", inputs=("stem_norm",)),
        conv("wide", "stem_relu", 16, 8, 1),
        norm("wide_norm", "wide", 16),
        Node(name="bent", op="prelu", inputs=("wide_norm",), tensors={"slope": (16, 1, 1)}),
        conv("deep", "bent", 16, 16, 3, groups=16),
        conv("back", "deep", 8, 16, 1),
        Node(name="scale", op="constant", tensors={"value": (8, 1, 1)}),
        Node(name="scaled", op="mul", inputs=("back", "scale")),
        Node(name="sum", op="add", inputs=("stem_relu", "scaled")),
        Node(name="pooled", op="reduce_mean", inputs=("sum",), attributes={"axes": (2, 3), "keep": 0}),
        Node(name="head", op="linear", inputs=("pooled",), tensors={"weight": (4, 8), "bias": (4,)}),
    )
    return Graph(shape=(3, 8, 8), nodes=nodes, output="head")


def network(graph: Graph | None = None, seed: int = 0) -> NetworkForImageClassification:
    torch.manual_seed(seed)
    graph = small_graph() if graph is None else graph
    model = NetworkForImageClassification(NetworkConfig(graph=graph.model_dump(mode="json"), num_labels=4)).eval()
    with torch.no_grad():
        for value in model.state_dict().values():
            value.copy_(torch.rand_like(value) + 0.1 if value.ndim == 1 else torch.randn_like(value))
    return model


def test_tensors_and_values_bear_the_graphs_names() -> None:
    graph, model = small_graph(), network()
    assert {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()} == graph.tensors()
    rounded = [name for name, value in model.values.items() if isinstance(value, PassedValue)]
    assert rounded == list(rounded_values(graph))
    assert {*rounded} == {"input", "stem_relu", "wide_norm", "bent", "deep", "back", "pooled"}
    assert [*model.values] == [INPUT, *(node.name for node in graph.nodes)]
    model.load_state_dict({name: tensor.clone() for name, tensor in model.state_dict().items()})


@torch.no_grad()
def test_a_folder_comes_back_equal(tmp_path: Path) -> None:
    model, pixels = network(), torch.randn(3, 3, 8, 8)
    model.save_pretrained(tmp_path)
    with safe_open(tmp_path / "model.safetensors", "pt") as stored:
        assert set(stored.keys()) == set(small_graph().tensors())
    again, report = AutoModelForImageClassification.from_pretrained(tmp_path, output_loading_info=True)
    assert not report["missing_keys"]
    assert not report["unexpected_keys"]
    assert all(torch.equal(value, again.state_dict()[name]) for name, value in model.state_dict().items())
    assert again.config.network == small_graph()
    assert torch.equal(model(pixels).logits, again.eval()(pixels).logits)


@torch.no_grad()
def test_the_answer_is_what_the_nodes_say() -> None:
    model, pixels = network(), torch.randn(2, 3, 8, 8)
    stem = model.stem_norm(model.stem(pixels)).relu()
    wide = model.wide_norm(model.wide(stem))
    bent = wide.clamp(min=0) + model.bent.slope * wide.clamp(max=0)
    total = stem + model.back(model.deep(bent)) * model.scale.value
    found = model(pixels, output_hidden_states=True)
    assert torch.allclose(found.logits, model.head(total.mean(dim=(2, 3))), atol=1e-5)
    assert [tuple(one.shape) for one in found.hidden_states] == [(2, 8, 4, 4)]
    assert torch.allclose(found.hidden_states[0], total, atol=1e-5)


def test_one_position_trains_with_the_statistics_that_the_network_has() -> None:
    model = network().train()
    before = model.stem_norm.running_mean.clone()
    model.stem_norm(torch.randn(1, 8, 1, 1))
    assert torch.equal(model.stem_norm.running_mean, before)
    model(torch.randn(2, 3, 8, 8)).logits.sum().backward()
    assert not torch.equal(model.stem_norm.running_mean, before)
    assert all(parameter.grad is not None for parameter in model.parameters())


HOSTILE = {
    "an unknown operator": ("op", "exec"),
    "an unknown value": ("inputs", ["nothing"]),
    "weights that do not fit": ("tensors", {"weight": [8, 4, 3, 3]}),
    "a huge tensor": ("tensors", {"weight": [2**20, 3, 2**10, 2**10]}),
    "a method's name": ("name", "forward"),
    "no pair": ("attributes", {"stride": [2], "padding": [1, 1, 1, 1], "dilation": [1, 1], "groups": 1}),
}


@pytest.mark.parametrize("what", HOSTILE)
def test_a_hostile_config_is_refused(what: str, tmp_path: Path) -> None:
    network().save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    key, value = HOSTILE[what]
    config["graph"]["nodes"][0][key] = value
    if key == "name":
        config["graph"]["nodes"][1]["inputs"] = [value]
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match=r"stem|forward"):
        AutoModelForImageClassification.from_pretrained(tmp_path)
