"""The table of images is made of answers; the networks of CIFAR-10 are written as a user would upload them."""

from pathlib import Path

import numpy as np
import pytest
import torch

from bench.vision import cifar_resnet, compare, records, rows
from bench.vision.records import Answered, Record
from compression.models.networks.onnx_reader import read_onnx


def test_seeds_are_compared_with_the_original_on_the_same_images() -> None:
    wanted = [0, 1] * 50
    original = [0, 1] * 45 + [1, 0] * 5
    worse = [0, 1] * 40 + [1, 0] * 10
    found = compare.against(original, [original, worse], wanted)
    assert (found.score, found.points) == pytest.approx((85.0, -5.0))
    assert found.low < -5.0 < found.high <= 0.0
    same = compare.against(original, [original], wanted)
    assert (same.points, same.low, same.high) == (0.0, 0.0, 0.0)


def test_a_record_is_of_its_files_and_its_recipe(tmp_path: Path) -> None:
    recipe = rows.KINDS["resnet20-less"].recipe
    model = Answered(answers=(1, 0), bytes=10, parameters=3, multiply_adds=4)
    record = Record(key="a", recipe=recipe, wanted=(1, 1), stages={"baseline": model}, seconds=1.0, environment={})
    path = tmp_path / "deep/one.json"
    records.keep(path, record)
    assert records.find(path, "a", recipe) == record
    assert records.find(path, "b", recipe) is None
    assert records.find(path, "a", rows.KINDS["resnet56-half"].recipe) is None
    assert records.find(tmp_path / "none.json", "a", recipe) is None


def test_a_network_of_cifar_is_written_with_its_batch_normalization(tmp_path: Path) -> None:
    torch.manual_seed(0)
    network = cifar_resnet.CifarResNet(8)
    for module in network.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_mean.normal_()
            module.running_var.uniform_(0.5, 2)
    file = cifar_resnet.write_model(network.eval(), tmp_path) / "model.onnx"
    graph, _ = read_onnx(file)
    assert sum(node.op == "batch_norm" for node in graph.nodes) == 7
    images = np.random.default_rng(0).integers(0, 256, (3, 32, 32, 3), dtype=np.uint8)
    inputs = compare.normalized(images)
    with torch.inference_mode():
        logits = network(torch.from_numpy(inputs))
    session = compare.session(file, threads=1)
    (found,) = session.run(None, {session.get_inputs()[0].name: inputs})
    torch.testing.assert_close(torch.from_numpy(found), logits, atol=1e-4, rtol=1e-4)
    assert compare.answers(file, images) == logits.argmax(-1).tolist()
