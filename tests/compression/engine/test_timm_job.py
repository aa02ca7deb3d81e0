"""A model of timm whose shape a job leaves as it is comes back as one of timm's, beside its ONNX files."""

import json
from pathlib import Path

from PIL import Image

from compression.engine.pipeline import compress
from compression.schema.report.measurements import Score
from tests.support.clean_environment import image_answers
from tests.support.engine_jobs import report_of, spec_of
from tests.support.image_uploads import image_splits
from tests.support.images import CLASSES, pixels
from tests.support.timm_models import drawn, save_timm

RECIPE = {
    "prepare": {"epochs": 8, "rate": 5e-3},
    "quantize": {"scheme": "static-int8", "calibration_rows": 32},
    "prune": None,
    "distill": None,
    "train": {"batch": 16},
}
ROWS = 32
"""Of the test split."""


def test_a_quantized_model_of_timm_is_also_shipped_for_timm(tmp_path: Path) -> None:
    save_timm(drawn("test_resnet", len(CLASSES)), tmp_path / "sent", side=32)
    for name, content in image_splits().items():
        (tmp_path / name).write_bytes(content)
    splits = {name: [f"{name}.npz"] for name in ("train", "validation", "test")}
    data = {"format": "npz", "splits": splits}
    report = report_of(compress(spec_of("sent", task="image-classification", data=data, recipe=RECIPE, evaluate={}), tmp_path))
    made = {(one.stage, one.kind): one for one in report.artifacts}
    assert set(made) == {("baseline", "onnx"), ("quantized", "onnx"), (report.rows[-1].stage, "timm")}
    shipped = made["quantized", "timm"]
    assert (shipped.name, shipped.precision) == ("quantized-timm-float32", "float32")
    assert isinstance(shipped.score, Score)
    assert shipped.score.value > 0.8, "it is the tuned model"
    folder = tmp_path / "out" / "artifacts" / shipped.name
    card = (folder / "README.md").read_text()
    assert "All weights and all arithmetic are float32. The integers of the ONNX artifact are these weights, rounded." in card
    assert 'library_name: "timm"' in card
    config = json.loads((folder / "config.json").read_text())
    assert (config["architecture"], config["label_names"]) == ("test_resnet", list(CLASSES))
    assert not {"model_type", "id2label", "auto_map"} & set(config)
    paths = [tmp_path / f"{number}.png" for number in range(ROWS)]
    for number, path in enumerate(paths):
        Image.fromarray(pixels(number % 2, 2000 + number)).save(path)
    answers = image_answers(folder, paths, tmp_path / "packages", ["transformers", "onnxruntime", "tokenizers"])
    right = sum(answer == CLASSES[number % 2] for number, answer in enumerate(answers))
    assert right / ROWS == shipped.score.value
    onnx = tmp_path / "out" / "artifacts" / made["quantized", "onnx"].name / "README.md"
    assert "There is no checkpoint" not in onnx.read_text()
