"""An uploaded ONNX file becomes a network's folder that the engine opens, prunes and saves, or is refused with the reason."""

import json
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import helper

from compression.export.onnx.network_graph import float_graph
from compression.models import loading, onnx_unpack
from compression.models.adapters.registry import adapter_of
from compression.models.files.preprocessor_config import ImagePreprocessing
from compression.models.network_folder import network_of, renamed, write_network
from compression.models.networks.graph import Graph
from compression.models.sanitized_folder import sanitized_folder
from compression.models.validation.model import check
from compression.schema.errors import ConfigMismatch, DamagedCheckpoint, LabelMismatch, MissingFile, UnsupportedArchitecture
from compression.schema.validation import ModelFacts
from tests.support.network_graphs import mobilenet_v2, resnet, vit
from tests.support.network_models import drawn_network
from tests.support.onnx_files import proto, save

TASK = "image-classification"
LABELS = ("ant", "bee", "cow", "dog", "elk")


def uploaded(folder: Path, graph: Graph, names: tuple[str, ...] | None = None):
    """Write a folder as it is uploaded; return the model whose answers it gives."""
    model = drawn_network(graph)
    arrays = {name: tensor.numpy() for name, tensor in model.state_dict().items()}
    folder.mkdir()
    onnx.save(float_graph(graph, arrays), folder / "classifier.onnx")
    ImagePreprocessing(size=(8, 8)).write(folder)
    if names is not None:
        (folder / "config.json").write_text(json.dumps({"id2label": {str(at): name for at, name in enumerate(names)}}))
    return model


@pytest.mark.parametrize("graph", [resnet(), mobilenet_v2(), vit()], ids=["resnet", "mobilenet_v2", "vit"])
@torch.no_grad()
def test_a_file_becomes_a_folder_that_answers_alike(tmp_path: Path, graph: Graph) -> None:
    model, pixels = uploaded(tmp_path / "sent", graph, LABELS[::-1]), torch.randn(3, 3, 8, 8)
    folder = sanitized_folder(tmp_path / "sent", tmp_path / "place", LABELS)
    assert sanitized_folder(tmp_path / "sent", tmp_path / "place", LABELS) == folder
    assert folder.name.startswith("place-"), "another dataset's labels have another folder"
    found = loading.load_model(folder, LABELS, TASK, seed=0)
    assert loading.head_labels(found.config) == LABELS[::-1]
    assert torch.allclose(found(pixels).logits, model(pixels).logits, atol=1e-4)
    assert not found.config.pinned
    assert adapter_of(found).shape_of(found.config).widths
    ordered = loading.in_order(found, LABELS)
    assert torch.allclose(ordered(pixels).logits, model(pixels).logits.flip(1), atol=1e-4)
    assert ImagePreprocessing.read(folder) == ImagePreprocessing.read(tmp_path / "sent")


@pytest.mark.parametrize(("second", "count"), [("w", 1), ("v", 0)])
def test_weights_that_several_layers_share_are_spoken_of(second: str, count: int, tmp_path: Path) -> None:
    draw = np.random.default_rng(0)
    names = ("w", "v")[: 2 - count]
    weights = {name: draw.standard_normal((3, 3, 1, 1)).astype(np.float32) for name in names}
    nodes = [helper.make_node("Conv", ["image", "w"], ["a"]), helper.make_node("Conv", ["a", second], ["b"])]
    nodes += [helper.make_node("GlobalAveragePool", ["b"], ["c"]), helper.make_node("Flatten", ["c"], ["logits"])]
    (tmp_path / "sent").mkdir()
    save(proto(nodes, weights), tmp_path / "sent")
    ImagePreprocessing(size=(8, 8)).write(tmp_path / "sent")
    found = loading.load_model(sanitized_folder(tmp_path / "sent", tmp_path / "place", LABELS[:3]), LABELS[:3], TASK, seed=0)
    notes = [note for note in adapter_of(found).notes(found.config) if "several layers" in note]
    assert ["read: 1. " in note for note in notes] == [True] * count


def test_masks_and_what_scales_images_are_no_parameters(tmp_path: Path) -> None:
    draw = np.random.default_rng(0)
    place = np.where(np.eye(8, dtype=bool), 0, -100).astype(np.float32)
    mean, deviation = (draw.uniform(0.4, 0.6, (1, 3, 1, 1)).astype(np.float32) for _ in range(2))
    numbers = {"mean": mean, "deviation": deviation, "mask": place, "added": draw.standard_normal((8, 8)).astype(np.float32)}
    numbers["w"] = draw.standard_normal((3, 3, 1, 1)).astype(np.float32)
    nodes = [helper.make_node("Sub", ["image", "mean"], ["a"]), helper.make_node("Div", ["a", "deviation"], ["b"])]
    nodes += [helper.make_node("Conv", ["b", "w"], ["c"]), helper.make_node("Add", ["c", "mask"], ["d"])]
    nodes += [helper.make_node("Softmax", ["d"], ["e"], axis=-1), helper.make_node("Add", ["e", "added"], ["f"])]
    nodes += [helper.make_node("GlobalAveragePool", ["f"], ["g"]), helper.make_node("Flatten", ["g"], ["logits"])]
    (tmp_path / "sent").mkdir()
    save(proto(nodes, numbers), tmp_path / "sent")
    ImagePreprocessing(size=(8, 8)).write(tmp_path / "sent")
    facts = check(tmp_path / "sent")
    assert isinstance(facts, ModelFacts), facts
    assert facts.parameters.total == 64 + 9
    found = loading.load_model(sanitized_folder(tmp_path / "sent", tmp_path / "place", LABELS[:3]), LABELS[:3], TASK, seed=0)
    assert adapter_of(found).parameters_of(found).total == 64 + 9
    assert {name for name, buffer in found.named_buffers() if buffer.numel() > 1} == found.config.fixed
    assert any("no parameters: 3." in note for note in adapter_of(found).notes(found.config))


def test_outputs_without_names_have_those_of_the_data(tmp_path: Path) -> None:
    uploaded(tmp_path / "sent", resnet((1,)))
    named = loading.load_model(sanitized_folder(tmp_path / "sent", tmp_path / "a", LABELS), LABELS, TASK, seed=0)
    assert loading.head_labels(named.config) == LABELS
    few = sanitized_folder(tmp_path / "sent", tmp_path / "b", LABELS[:2])
    with pytest.raises(LabelMismatch):
        loading.load_model(few, LABELS[:2], TASK, seed=0, some=True)


def test_data_may_have_some_of_the_labels(tmp_path: Path) -> None:
    uploaded(tmp_path / "sent", resnet((1,)), LABELS)
    folder = sanitized_folder(tmp_path / "sent", tmp_path / "place", LABELS[1:3])
    assert loading.head_labels(loading.load_model(folder, LABELS[1:3], TASK, seed=0, some=True).config) == LABELS
    with pytest.raises(LabelMismatch):
        loading.load_model(folder, LABELS[1:3], TASK, seed=0)
    with pytest.raises(LabelMismatch):
        loading.load_model(folder, ("ant", "fox"), TASK, seed=0, some=True)


def test_a_network_that_computes_something_else_is_refused(tmp_path: Path) -> None:
    model = uploaded(tmp_path / "sent", resnet((1,)))
    onnx_unpack.check_answers(model, tmp_path / "sent" / "classifier.onnx")
    with torch.no_grad():
        model.get_submodule(model.config.network.output).bias[2] += 0.1
    with pytest.raises(UnsupportedArchitecture, match=r"differ from Lathe's by 0\.1"):
        onnx_unpack.check_answers(model, tmp_path / "sent" / "classifier.onnx")
    (tmp_path / "sent" / "classifier.onnx").write_bytes(b"\x08nothing")
    with pytest.raises(DamagedCheckpoint):
        sanitized_folder(tmp_path / "sent", tmp_path / "place", LABELS)
    assert not [*tmp_path.glob("place*")]


def test_labels_that_do_not_name_the_outputs_are_refused(tmp_path: Path) -> None:
    uploaded(tmp_path / "sent", resnet((1,)), LABELS[:3])
    with pytest.raises(ConfigMismatch, match="5 outputs"):
        sanitized_folder(tmp_path / "sent", tmp_path / "place", LABELS)


def test_a_network_needs_its_preprocessor(tmp_path: Path) -> None:
    uploaded(tmp_path / "sent", resnet((1,)))
    ImagePreprocessing(size=(9, 8)).write(tmp_path / "sent")
    with pytest.raises(ConfigMismatch, match="makes images of"):
        sanitized_folder(tmp_path / "sent", tmp_path / "place", LABELS)
    (tmp_path / "sent" / "preprocessor_config.json").unlink()
    with pytest.raises(MissingFile, match="preprocessor_config"):
        sanitized_folder(tmp_path / "sent", tmp_path / "place", LABELS)


@torch.no_grad()
def test_a_bare_network_gets_a_new_head(tmp_path: Path) -> None:
    model = drawn_network(resnet((1,)))
    (tmp_path / "sent").mkdir()
    ImagePreprocessing(size=(8, 8)).write(tmp_path / "sent")
    write_network(model, tmp_path / "place", tmp_path / "sent", headed=False)
    first, again, other = (loading.load_model(tmp_path / "place", LABELS, TASK, seed=seed) for seed in (1, 1, 2))
    head = model.config.network.output
    assert not torch.equal(first.get_parameter(f"{head}.weight"), model.get_parameter(f"{head}.weight"))
    assert torch.equal(first.get_parameter(f"{head}.weight"), again.get_parameter(f"{head}.weight"))
    assert not torch.equal(first.get_parameter(f"{head}.weight"), other.get_parameter(f"{head}.weight"))
    assert torch.equal(first.conv_0.weight, model.conv_0.weight)
    assert loading.head_labels(first.config) == LABELS


@torch.no_grad()
def test_nodes_get_names_that_a_model_can_have() -> None:
    graph = resnet((1,))
    taken = {"conv_0": "forward", "batch_norm_1": "values", "linear_10": "train"}
    nodes = [
        node.model_copy(
            update={"name": taken.get(node.name, node.name), "inputs": tuple(taken.get(name, name) for name in node.inputs)}
        )
        for node in graph.nodes
    ]
    hostile = Graph(shape=graph.shape, nodes=tuple(nodes), output=taken.get(graph.output, graph.output))
    assert renamed(hostile)[1]["forward"] == "forward_node"
    whole = drawn_network(graph)
    tensors = {
        f"{taken.get(name.split('.')[0], name.split('.')[0])}.{name.split('.')[1]}": tensor.numpy()
        for name, tensor in whole.state_dict().items()
    }
    found, pixels = network_of(hostile, tensors, {}, LABELS), torch.randn(2, 3, 8, 8)
    assert torch.equal(found(pixels).logits, whole(pixels).logits)
