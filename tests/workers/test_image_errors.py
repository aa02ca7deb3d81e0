"""What users send wrong with images is refused over HTTP before any job: the file by its name, and what to do about it."""

from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.conftest import Service
from tests.support.examples import send_data, send_model
from tests.support.image_uploads import HEAD, LINEAR, NETWORK_RECIPE, OF_IMAGES, image_splits, network_file, op, tiny_network
from tests.support.images import CLASSES, claiming, encoded, pixels

ONCE = pytest.mark.parametrize("database", ["sqlite"], indirect=True)


def told(upload: dict[str, Any]) -> list[tuple[str, str, str, str]]:
    """Return code, param, cause and remedy of each reason why an upload is rejected."""
    assert upload["state"] == "rejected", upload
    return [(each["code"], each["param"], each["cause"], each["remedy"]) for each in upload["reasons"]]


@ONCE
def test_damaged_images_are_named_with_a_remedy(service: Service, http: httpx.Client) -> None:
    names = [f"{split}/{name}/{number}.jpg" for split in ("train", "test") for name in CLASSES for number in range(3)]
    files = {name: encoded(pixels(number % 2, number, 40), "JPEG") for number, name in enumerate(names)}
    files["train/warm/1.jpg"] = files["train/warm/1.jpg"][:-100]
    files["test/cool/3.png"] = claiming(30_000, 30_000)
    splits = {split: [name for name in files if name.startswith(split)] for split in ("train", "test")}
    found = told(send_data(http, files, task="image-classification", format="folder", splits=splits))
    assert [(code, param) for code, param, _, _ in found] == [
        ("unreadable_data", "train/warm/1.jpg"),
        ("unreadable_data", "test/cool/3.png"),
    ]
    cut, bomb = (f"{cause}. {remedy}" for _, _, cause, remedy in found)
    assert cut.startswith("train/warm/1.jpg cannot be decoded: ")
    assert "Send a whole copy of it, or leave it out." in cut
    assert bomb.startswith("test/cool/3.png is too large (")
    assert "50,000,000 pixels are the most. Save it with fewer pixels" in bomb


@ONCE
def test_networks_of_another_form_are_named_with_a_remedy(service: Service, http: httpx.Client, tmp_path: Path) -> None:
    foreign = network_file((op("NonMaxSuppression", "image image", "x"), op("Relu", "x", "y"), *HEAD))
    found = told(send_model(http, tiny_network(tmp_path / "foreign", foreign)))
    assert [(code, param) for code, param, _, _ in found] == [("unsupported_operator", "model.onnx")]
    assert found[0][2] == "model.onnx has operators that are not supported: 'NonMaxSuppression'"
    assert "plain operators" in found[0][3]
    found = told(send_model(http, tiny_network(tmp_path / "fixed", network_file(rows=1))))
    assert [(code, param) for code, param, _, _ in found] == [("unsupported_architecture", "model.onnx")]
    assert "model.onnx: its input has the shape (1, 3, 8, 8): always 1 rows" in found[0][2]
    assert "Export it with a free batch: torch.onnx.export(" in found[0][3]


@ONCE
def test_a_job_that_cannot_be_is_refused_before_it_begins(service: Service, http: httpx.Client, tmp_path: Path) -> None:
    data = send_data(http, image_splits(32), **OF_IMAGES)
    linear = send_model(http, tiny_network(tmp_path / "linear", network_file(LINEAR)))
    other = send_model(http, tiny_network(tmp_path / "other", labels=("cold", "warm")))
    assert [upload["state"] for upload in (data, linear, other)] == ["ready"] * 3

    def refused(model: dict[str, Any], recipe: Any = NETWORK_RECIPE) -> tuple[str, str, str, str]:
        body = {"models": {"base": model["id"]}, "datasets": [data["id"]], "recipe": recipe}
        answer = http.post("/v1/jobs", json=body)
        assert answer.status_code == 422, answer.text
        said = answer.json()
        return said["code"], said["param"], said["cause"], said["remedy"]

    nothing = "the network has nothing to cut on any of the axes channels, heads, ffn"
    for recipe in ("quick", NETWORK_RECIPE):
        assert refused(linear, recipe) == ("unsupported_shape", "recipe.prune", nothing, "Set prune to null.")
    named = {**NETWORK_RECIPE, "prune": {"axes": ["channels"]}}
    assert refused(linear, named)[1:] == (
        "recipe.prune.axes",
        "the network has nothing to cut on the axis channels",
        "Set prune to null.",
    )
    code, param, cause, remedy = refused(other)
    assert (code, param) == ("label_mismatch", "config.json:id2label")
    assert cause == "the model's head lacks labels of the data: 'cool'; it has 'cold', 'warm'"
    assert "leave those out that it lacks" in remedy
    assert http.get("/v1/jobs").json()["items"] == []
