"""A Triton repository has the ONNX file, a configuration of its inputs and outputs, and is served by `lathe serve` too."""

import base64
import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from compression.engine import shipping
from compression.evaluation.runtimes.triton import open_folder
from compression.export.onnx.triton import config_of
from compression.models.files.preprocessor_config import ImagePreprocessing
from compression.schema.prediction_request import RowInputs
from compression.schema.recipe.recipe import Evaluate
from compression.serving.served_model import ServedModel
from tests.support.images import encoded, pixels as colors
from tests.support.measuring import briefly
from tests.support.network_files import pixels, simulated
from tests.support.network_graphs import resnet
from tests.support.network_models import drawn_network
from tests.support.shipments import shipped

LABELS = tuple("abcde")
CONFIG = """\
backend: "onnxruntime"
max_batch_size: 32
input [
  {{ name: "{name}", data_type: {type}, dims: {dims} }}
]
output [
  {{ name: "logits", data_type: TYPE_FP32, dims: [5] }}
]
dynamic_batching {{ }}
instance_group [ {{ count: 1, kind: KIND_CPU }} ]
"""
INPUTS = {
    False: {"name": "pixel_values", "type": "TYPE_FP32", "dims": [3, 8, 8]},
    True: {"name": "images", "type": "TYPE_UINT8", "dims": [8, 8, 3]},
}


@pytest.mark.parametrize("raw", INPUTS)
def test_a_repository_is_verified_scored_and_served(raw: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shipping, "measure_artifact", briefly)
    network = drawn_network(resnet())
    model = simulated(network, "static-int8", 2 * pixels(network))
    images = [encoded(colors(number % 2, number, 8)) for number in range(12)]
    rows = []
    for number, image in enumerate(images):
        (path := tmp_path / f"{number}.png").write_bytes(image)
        rows.append({"image": str(path), "index": None, "label": number % 2})
    (tmp_path / "source").mkdir()
    ImagePreprocessing.checked(size=(8, 8), exact=(8, 8)).write(tmp_path / "source")
    form = {"task": "image-classification", "labels": LABELS, "max_length": 0, "stage": "quantized", "precision": "int8"}
    form |= {"preprocessor": tmp_path / "source", "evaluate": Evaluate(raw_inputs=raw)}
    plain, found = (shipped(model, tmp_path, rows, kind=kind, **form) for kind in ("onnx", "triton"))
    assert (found.score, found.artifact.trained_as_shipped) == (plain.score, plain.artifact.trained_as_shipped)
    assert found.size == plain.size
    folder = tmp_path / "artifacts" / found.artifact.name
    assert (folder / "models/model/config.pbtxt").read_text() == CONFIG.format(**INPUTS[raw])
    file = (tmp_path / "artifacts" / plain.artifact.name / "model.onnx").read_bytes()
    assert (folder / "models/model/1/model.onnx").read_bytes() == file
    assert "COPY . /artifact" in (folder / "Dockerfile").read_text()

    card = (folder / "README.md").read_text()
    assert "tritonserver --model-repository=models" in card
    (folder / "image.jpg").write_bytes(images[0])
    monkeypatch.chdir(folder)
    ran: dict[str, Any] = {}
    exec(compile(card.split("```python\n")[1].split("```")[0], "card", "exec"), ran)

    (folder / "before.json").write_text(json.dumps({"task": "image-classification", "artifact": found.artifact.name}))
    served = ServedModel(folder, threads=1)
    assert served.format.name == "triton"
    assert list(served.timed(4)) == [0]
    asked = [served.encode(RowInputs(image=base64.b64encode(image).decode()))[1].windows[0] for image in images]
    np.testing.assert_allclose(served.run(asked[:1])[0], ran["logits"][0], rtol=0, atol=1e-5)
    single, together = np.concatenate([served.run([window]) for window in asked]), np.stack(served.run(asked))
    np.testing.assert_allclose(single, together, rtol=0, atol=1e-3)
    assert list(single.argmax(-1)) == list(together.argmax(-1))
    assert open_folder(folder, threads=1).inputs == [INPUTS[raw]["name"]]


def test_free_dimensions_are_left_open_and_constants_out() -> None:
    value = onnx.helper.make_tensor_value_info
    ids, weight = (value(name, kind, shape) for name, kind, shape in (("ids", 7, ["batch", "length"]), ("weight", 1, [2, 2])))
    constant = onnx.helper.make_tensor("weight", 1, [2, 2], [0.0] * 4)
    graph = onnx.helper.make_graph([], "texts", [ids, weight], [value("logits", 1, ["batch", "length", 9])], [constant])
    text = config_of(graph)
    assert 'input [\n  { name: "ids", data_type: TYPE_INT64, dims: [-1] }\n]' in text
    assert 'output [\n  { name: "logits", data_type: TYPE_FP32, dims: [-1, 9] }\n]' in text
