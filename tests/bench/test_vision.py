"""The table of images is made of answers; the networks of CIFAR-10 are written as a user would upload them."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from bench.vision import __main__ as vision, cifar_resnet, compare, lite0, records, rows
from bench.vision.records import Answered, Record
from compression.modalities.image import preprocessing
from compression.models.files.preprocessor_config import ImagePreprocessing
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
    assert records.find(path, None, recipe) == record
    assert records.find(path, None, rows.KINDS["resnet56-half"].recipe) is None


@pytest.mark.parametrize("path", sorted(records.ROOT.glob("*-[0-9].json")), ids=lambda path: path.stem)
def test_committed_records_are_of_todays_recipes(path: Path) -> None:
    name, _, seed = path.stem.rpartition("-")
    cell = rows.Cell(name, int(seed), Path("none"), Path("none"), Path("none"), records.ROOT)
    assert cell.record(run=False) is not None


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


def test_the_first_image_of_each_answer_is_in_train() -> None:
    answers = [7, 7, 7, 3, 7, 3, 7, 9, 7, 3]
    train, validation = lite0.parted(answers, 6)
    assert (train, validation) == ([0, 1, 2, 3, 4, 7], [5, 6, 8, 9])
    with pytest.raises(SystemExit, match="3 different answers do not fit into 2 rows"):
        lite0.parted(answers, 2)


def test_images_are_labelled_by_the_network_on_them_enlarged(tmp_path: Path) -> None:
    torch.manual_seed(0)
    layers = [torch.nn.AvgPool2d(56), torch.nn.Flatten(), torch.nn.Linear(48, 1000)]
    network = torch.nn.Sequential(*layers).eval()
    model = cifar_resnet.write_model(network, tmp_path / "model", lite0.SIZE, lite0.LABELS, lite0.PREPROCESSOR)
    draw = np.random.default_rng(0)
    kinds = draw.integers(0, 256, (12, 2, 2, 3), dtype=np.uint8).repeat(16, axis=1).repeat(16, axis=2)
    np.savez(tmp_path / "cifar10_train_10k.npz", x=kinds[draw.integers(0, 8, 40)])
    np.savez(tmp_path / "cifar10_test_2k.npz", x=kinds[draw.integers(4, 12, 30)])
    asked = {"train": 24, "validation": 12, "test": 30}
    lite0.write_data(tmp_path, model, tmp_path / "data", 1, asked)

    how = ImagePreprocessing.read(model)
    found = {}
    for split in asked:
        with np.load(tmp_path / f"data/{split}.npz", allow_pickle=False) as arrays:
            found[split] = arrays["image"], arrays["label"].tolist()
        large = np.stack([preprocessing.resized(Image.fromarray(one), how, "") for one in found[split][0]])
        pixels = preprocessing.normalized(large, how)
        np.testing.assert_allclose(lite0.inputs(found[split][0]), pixels, atol=1e-6)
        with torch.inference_mode():
            best = network(torch.from_numpy(pixels)).argmax(-1).tolist()
        assert found[split][1] == [lite0.LABELS[number] for number in best]
    assert (len(found["train"][1]), len(found["validation"][1])) == (24, 12)
    known = set(found["train"][1])
    assert known >= set(found["validation"][1])
    assert known >= set(found["test"][1])
    assert 0 < len(found["test"][1]) < 30
    assert (tmp_path / "data/about.txt").read_text("utf-8") == (
        f"24 images of train with {len(known)} labels, 12 of validation, {len(found['test'][1])} of test; "
        f"{30 - len(found['test'][1])} of 30 images of test are left out: train lacks their labels."
    )


def test_the_row_of_1000_outputs_is_printed_from_its_record_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    wanted = (1, 2, 3, 4)
    answers = {"baseline": (1, 2, 3, 4), "quantized": (1, 2, 3, 0), "pruned": (1, 0, 0, 0), "distilled": (1, 2, 0, 0)}
    stages = {
        stage: Answered(answers=found, bytes=10_000, parameters=3_000, multiply_adds=4_000) for stage, found in answers.items()
    }
    name = "efficientnet-lite0"
    recipe = rows.Cell(name, 0, tmp_path, tmp_path, tmp_path, tmp_path).recipe
    record = Record(
        key="of another machine", recipe=recipe, wanted=wanted, stages=stages, seconds=90.0, environment={}, data="4 images."
    )
    records.keep(tmp_path / f"records/{name}-0.json", record)
    vision.main(["--table-only", "--rows", name, "--folder", str(tmp_path / "none"), "--records", str(tmp_path / "records")])
    out = capsys.readouterr().out
    assert f"| {name} (30 % of its channels less) | quantized |" in out
    assert "its float32 file 100.00 %; int8 alone 75.00 % (asked: at least 80: missed)" in out
    assert "distillation adds +25.00 points" in out
    assert "(asked: at least 10: met). One seed, 1.5 minutes. 4 images." in out
    assert "resnet" not in out
    assert not (tmp_path / "none").exists()
