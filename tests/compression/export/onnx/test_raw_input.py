"""A file that normalizes images itself gives the answers of one that reads normalized images."""

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from compression.engine import shipping
from compression.engine.shipping import ShippedArtifact
from compression.evaluation.runtimes.onnx import OnnxRunner
from compression.export.onnx.exporter import EXPORTER, write_onnx
from compression.export.onnx.raw_input import with_raw_input
from compression.modalities.image.modality import IMAGE
from compression.modalities.image.preprocessing import ImagePreprocessing, normalized
from compression.modalities.image.scoring.reader import ImageReader
from compression.schema.errors import ExportMismatch
from compression.schema.recipe.recipe import Evaluate
from tests.support.images import encoded, pixels as colors
from tests.support.measuring import briefly
from tests.support.network_files import pixels, session, simulated
from tests.support.network_graphs import resnet, vit
from tests.support.network_models import drawn_network
from tests.support.shipments import shipped

SIDE = 8
SIZE: dict[str, Any] = {"size": (SIDE, SIDE), "exact": (SIDE, SIDE)}
IMAGENET: dict[str, Any] = {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}
TASK, LABELS = "image-classification", tuple("abcde")


def how_of(**settings: Any) -> ImagePreprocessing:
    return ImagePreprocessing.checked(**SIZE | settings)


def raw_of(how: ImagePreprocessing, place: Path) -> Any:
    how.write(place)
    return IMAGE.raw_input(place)


def passing(height: int, width: int) -> onnx.ModelProto:
    """A file that answers with what it is given."""
    shape = ["batch", 3, height, width]
    given, answer = (helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name in ("pixel_values", "logits"))
    graph = helper.make_graph([helper.make_node("Identity", ["pixel_values"], ["logits"])], "passing", [given], [answer])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)


@pytest.mark.parametrize(
    ("settings", "tolerance"),
    [
        (IMAGENET, 0.0),
        ({}, 0.0),
        ({"scale": 1.0}, 0.0),
        ({"channels": "bgr"}, 0.0),
        ({"mean": (0.5,) * 3, "std": (0.5,) * 3}, 0.0),
        (IMAGENET | {"scale": 0.01}, 1e-6),
    ],
)
def test_every_value_becomes_what_the_reader_makes_of_it(settings: dict[str, Any], tolerance: float, tmp_path: Path) -> None:
    how = how_of(**settings, size=(8, 32), exact=(8, 32))
    images = np.stack([np.arange(256, dtype=np.uint8)] * 3, axis=-1).reshape(1, 8, 32, 3)
    images[..., 1] = images[..., 1][:, ::-1]
    found = session(with_raw_input(passing(8, 32), raw_of(how, tmp_path))).run(None, {"images": images})[0]
    expected = normalized(images, how)
    assert np.abs(found - expected).max() <= tolerance * np.abs(expected).max()


@pytest.mark.parametrize("graph", [resnet, vit])
@pytest.mark.parametrize("scheme", [None, "static-int8", "dynamic-int8"])
def test_a_network_answers_as_its_other_form(graph: Any, scheme: str | None, tmp_path: Path) -> None:
    model = drawn_network(graph())
    model = model if scheme is None else simulated(model, scheme, 2 * pixels(model))
    plain = onnx.load(write_onnx(model, tmp_path, int8=scheme is not None))
    proto = with_raw_input(plain, raw_of(how := how_of(**IMAGENET), tmp_path))
    onnx.checker.check_model(proto, full_check=True)
    images = np.random.default_rng(0).integers(0, 256, (6, SIDE, SIDE, 3), np.uint8)
    expected = session(plain).run(None, {"pixel_values": normalized(images, how)})[0]
    found = session(proto).run(None, {"images": images})[0]
    assert np.abs(found - expected).max() <= 1e-6 * np.abs(expected).max()
    rounds = [sum(node.op_type == "QuantizeLinear" for node in each.graph.node) for each in (plain, proto)]
    assert rounds[0] == rounds[1], "the input is rounded once"


def test_the_interface_is_checked(tmp_path: Path) -> None:
    model = drawn_network(resnet())
    write_onnx(model, tmp_path, int8=False)
    raw = raw_of(how_of(), tmp_path)
    assert EXPORTER.take_raw_input(tmp_path, raw)
    runner = OnnxRunner(tmp_path / "model.onnx", threads=1)
    (given,) = runner.session.get_inputs()
    assert (given.name, given.type, given.shape) == ("images", "tensor(uint8)", ["batch", SIDE, SIDE, 3])
    EXPORTER.check_interface(runner, model, tmp_path)
    with pytest.raises(ExportMismatch, match="inputs"):
        EXPORTER.check_interface(runner, model)
    with pytest.raises(KeyError):
        EXPORTER.take_raw_input(tmp_path, raw)


def test_an_artifact_is_verified_scored_and_opened_by_its_card(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shipping, "measure_artifact", briefly)
    network = drawn_network(resnet())
    model = simulated(network, "static-int8", 2 * pixels(network))
    (tmp_path / "source").mkdir()
    how_of(**IMAGENET).write(tmp_path / "source")
    rows = []
    for number in range(6):
        (path := tmp_path / f"{number}.png").write_bytes(encoded(colors(number % 2, number, 20)))
        rows.append({"image": str(path), "index": None, "label": number % 2})
    form = {"task": TASK, "labels": LABELS, "max_length": 0, "stage": "quantized", "precision": "int8"}

    def made(name: str, *, raw: bool) -> ShippedArtifact:
        (tmp_path / name).mkdir()
        settings = Evaluate(raw_inputs=raw)
        return shipped(model, tmp_path / name, rows, preprocessor=tmp_path / "source", evaluate=settings, **form)

    plain, raw = made("plain", raw=False), made("raw", raw=True)
    assert raw.score == plain.score
    assert raw.score.rows == len(rows)
    folder = tmp_path / "raw" / "artifacts" / raw.artifact.name
    code = (folder / "README.md").read_text().split("```python\n")[1].split("```")[0]
    (folder / "image.jpg").write_bytes(encoded(colors(1, 3, 30), "JPEG"))
    monkeypatch.chdir(folder)
    found: dict[str, Any] = {}
    exec(compile(code, "card", "exec"), found)
    reader = ImageReader(folder)
    (batch,) = reader.batches(reader.ask([{"image": str(folder / "image.jpg")}]).windows, 1)
    np.testing.assert_array_equal(found["pixels"]("image.jpg"), batch.arrays["images"][0])
    np.testing.assert_array_equal(found["logits"], OnnxRunner(folder / "model.onnx", threads=1).logits(batch))
