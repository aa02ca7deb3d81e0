"""Pages of classifiers of images: an image is tried, samples stand beside both answers, data are dropped by class."""

import base64
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

from playwright.sync_api import Locator, expect

from tests.pages.conftest import PATIENCE, Window, World
from tests.support.image_uploads import arrays
from tests.support.images import CLASSES, encoded, folder_data, pixels

LARGE = 4 << 20
DROP = """([zone, name, data]) => {
    const transfer = new DataTransfer();
    transfer.items.add(new File([Uint8Array.from(atob(data), (one) => one.charCodeAt(0))], name));
    const fallen = { dataTransfer: transfer, bubbles: true, cancelable: true };
    document.querySelector(zone).dispatchEvent(new DragEvent('drop', fallen));
}"""


def drop(window: Window, zone: str, name: str, data: bytes) -> None:
    """Let a file fall onto a place of the page, as a hand does."""
    window.page.evaluate(DROP, [zone, name, base64.b64encode(data).decode()])


def test_both_models_answer_an_image_that_was_dropped(window: Window, world: World) -> None:
    page = window.go(f"/try?job={world.jobs['images']}")
    field = page.get_by_label("Image", exact=True)
    expect(field).to_have_attribute("type", "file")
    window.accessible_everywhere()
    drop(window, "#ask [data-drop]", "a warm one.png", encoded(pixels(1, 7, 40)))
    expect(page.get_by_role("img", name="Chosen image")).to_be_visible()
    page.get_by_role("button", name="Run both models").click()
    answers = page.get_by_role("region", name="Predictions").first
    expect(answers.get_by_role("row").filter(has_text="Prediction")).to_contain_text(re.compile("warm|cool"), timeout=PATIENCE)
    shares = answers.get_by_role("row").filter(has_text="Probabilities")
    for name in CLASSES:
        expect(shares.get_by_role("progressbar", name=name)).to_have_count(2)
    expect(page.locator("#asked")).to_contain_text("40 × 40 pixels")
    expect(page.get_by_role("img", name="The image, small")).to_be_visible()
    expect(page.locator("#verdict")).to_contain_text("the compressed model is")
    window.accessible_everywhere()


def test_the_command_sends_an_image_too(world: World, tmp_path: Path) -> None:
    (tmp_path / "one.png").write_bytes(encoded(pixels(1, 7, 40)))
    command = [str(Path(sys.executable).with_name("lathe")), "try", world.jobs["images"], "--image", "one.png", "--json"]
    asking = {**os.environ, "LATHE_URL": world.url, "LATHE_KEY": world.key, "HOME": str(tmp_path)}
    done = subprocess.run(command, cwd=tmp_path, env=asking, capture_output=True, text=True, check=True)
    found = json.loads(done.stdout)["result"]
    assert found["asked"]["image"].startswith("40 × 40 pixels")
    assert {found["original"]["label"], found["compressed"]["label"]} <= set(CLASSES)


def test_what_is_no_image_is_refused_with_the_reason_and_what_is_too_large_before_it_is_sent(
    window: Window, world: World
) -> None:
    page = window.go(f"/try?job={world.jobs['images']}")
    field, button = page.get_by_label("Image", exact=True), page.get_by_role("button", name="Run both models")
    field.set_input_files({"name": "notes.png", "mimeType": "image/png", "buffer": b"words that are no image"})
    button.click()
    expect(page.locator("#waiting")).to_contain_text("the image cannot be decoded", timeout=PATIENCE)
    expect(page.locator("#waiting")).to_contain_text("Images are JPEG, PNG")
    expect(page.locator("#answers")).to_be_hidden()
    field.set_input_files({"name": "poster.png", "mimeType": "image/png", "buffer": bytes(LARGE + 1)})
    expect(page.locator("#ask .wrong")).to_contain_text("poster.png has 4.2 MB")
    expect(field).to_have_attribute("aria-invalid", "true")
    window.accessible()
    field.set_input_files({"name": "small.png", "mimeType": "image/png", "buffer": encoded(pixels(0, 1))})
    expect(page.locator("#ask .wrong")).to_be_hidden()
    expect(page.get_by_role("img", name="Chosen image")).to_be_visible()


def test_a_row_of_the_data_is_asked_and_shown(window: Window, world: World) -> None:
    page = window.go(f"/try?job={world.jobs['images']}")
    page.get_by_label("Row number").fill("3")
    page.get_by_role("button", name="Run this row").click()
    expect(page.locator("#asked")).to_contain_text("row 3 of test", timeout=PATIENCE)
    expect(page.locator("#asked")).to_contain_text(re.compile("warm|cool"))
    expect(page.get_by_role("img", name="The image, small")).to_be_visible()


def test_samples_stand_beside_both_answers_on_the_page_and_in_the_report(window: Window, world: World) -> None:
    page = window.go(f"/jobs/{world.jobs['images']}")
    lines = page.get_by_role("region", name="Samples").locator("tbody tr")
    with world.http() as http:
        report = http.get(f"/v1/jobs/{world.jobs['images']}/report").json()
        html = http.get(f"/v1/jobs/{world.jobs['images']}/report.html").text
    answers = {artifact["name"]: artifact["answers"] for artifact in report["artifacts"]}
    before, after = answers[report["rows"][0]["artifact"]], answers[report["headline"]]
    expect(lines).to_have_count(len(report["samples"]))
    assert len(report["samples"]) == len(before) == len(after) > 1
    for number, sample in enumerate(report["samples"]):
        cells = lines.nth(number).locator("td")
        image = cells.nth(0).get_by_role("img", name=f"Sample {number + 1}")
        assert image.evaluate("(image) => image.decode().then(() => [image.naturalWidth, image.naturalHeight])") == [12, 12]
        for place, text in ((1, sample["expected"]), (2, before[number]["text"]), (3, after[number]["text"])):
            assert text in CLASSES
            expect(cells.nth(place)).to_contain_text(text)
    window.accessible_everywhere()
    window.page = window.context.new_page()  # the policy of the first one allows no page to be set
    window.page.set_content(html)
    samples = window.page.get_by_role("region", name="Samples")
    expect(samples.get_by_role("img")).to_have_count(len(report["samples"]))
    assert samples.get_by_role("img").first.evaluate("(image) => image.decode().then(() => image.naturalWidth)") == 12
    window.accessible()


def test_the_width_of_each_layer_and_the_blocks_that_went_are_shown(window: Window, world: World) -> None:
    page = window.go(f"/jobs/{world.jobs['images']}")
    with world.http() as http:
        pruning = http.get(f"/v1/jobs/{world.jobs['images']}/report").json()["pruning"]
    page.locator("summary", has_text="Each of the layers").click()
    lines = page.get_by_role("region", name="Each of the layers").locator("tbody tr")
    expect(lines).to_have_count(2)
    for number, (name, layer) in enumerate(pruning["layers"]["each"].items()):
        expect(lines.nth(number)).to_contain_text(name)
        expect(lines.nth(number)).to_contain_text("yes" if layer["removed"] else "no")
    assert sorted(layer["removed"] for layer in pruning["layers"]["each"].values()) == [False, True]
    page.locator("summary", has_text="channels of each layer").click()
    widths = page.get_by_role("region", name="channels of each layer").locator("tbody tr")
    expect(widths).to_have_count(len(pruning["channels"]["groups"]))
    expect(widths.first).to_contain_text(re.compile(r"8\s*6"))
    window.accessible_everywhere()


def test_a_job_on_texts_shows_samples_too(window: Window, world: World) -> None:
    page = window.go(f"/jobs/{world.jobs['narrow']}")
    with world.http() as http:
        report = http.get(f"/v1/jobs/{world.jobs['narrow']}/report").json()
    lines = page.get_by_role("region", name="Samples").locator("tbody tr")
    expect(lines).to_have_count(len(report["samples"]))
    expect(lines.first).to_contain_text(report["samples"][0]["texts"][0])


def test_images_are_dropped_by_class_and_as_arrays(window: Window, world: World, tmp_path: Path) -> None:
    window.dropped = True  # the forecast of a model that was not chosen is an answer
    page = window.go("/new")
    page.locator("summary", has_text="Upload data").click()
    drop(window, "[data-drop=datasets]", "train.npz", arrays(20, 3))
    expect(page.get_by_label("Task", exact=True)).to_have_value("image-classification")  # nothing else reads such a file
    expect(page.get_by_label("Split of train.npz")).to_have_value("train")
    place = tmp_path / "my pets"
    folder_data(place)
    (place / "train" / "warm" / "1.png").rename(place / "train" / "warm" / "one (1).png")
    page.locator("#folder-datasets").set_input_files(place)
    expect(page.locator("#list-datasets li")).to_have_count(18)
    expect(page.get_by_label("Split of test/cool/2.png")).to_have_value("test")
    page.locator("#name-datasets").fill("pets")
    page.locator("[data-send=datasets]").click()
    expect(page.locator("#said-datasets")).to_have_text("Ready, and selected above.", timeout=PATIENCE)
    page.get_by_label("Preset").select_option("standard")
    expect(page.locator("[data-path='recipe.quantize.scheme']")).to_have_value('"static-int8"')  # as it is for images
    with world.http() as http:
        sent = next(one for one in http.get("/v1/datasets").json()["items"] if one["name"] == "pets")
        files = {file["path"] for file in http.get(f"/v1/datasets/{sent['id']}").json()["files"]}
    assert sent["data"]["format"] == "folder"
    assert "train/warm/one__1_.png" in files
    assert sent["data"]["splits"] == {"train": ["train"], "test": ["test"]}
    assert sent["facts"]["labels"] == [*CLASSES]
    assert sent["facts"]["rows"] == {"train": 12, "test": 6}
    window.accessible()


def test_more_images_than_a_request_takes_go_in_pages(window: Window, world: World, tmp_path: Path) -> None:
    window.dropped = True  # the forecast of a model that was not chosen is an answer
    folder_data(tmp_path / "many pets", train=1020, test=20)

    def chosen() -> Locator:
        page = window.go("/new")
        page.locator("summary", has_text="Upload data").click()
        page.locator("#folder-datasets").set_input_files(tmp_path / "many pets")
        return page.locator("#list-datasets li")

    def sent() -> list[Any]:
        window.page.locator("[data-send=datasets]").click()
        expect(window.page.locator("#said-datasets")).to_have_text("Ready, and selected above.", timeout=PATIENCE)
        with world.http() as http:
            return [one for one in http.get("/v1/datasets").json()["items"] if one["name"] == "many pets"]

    shown = chosen()
    expect(shown).to_have_count(4)  # a line a folder
    expect(shown.filter(has_text="train/warm")).to_contain_text("510 files")
    window.page.get_by_label("Split of test/cool").select_option("")
    (found,) = sent()
    expect(shown.filter(has_text="train/warm")).to_contain_text("uploaded")
    assert (found["file_count"], found["facts"]["rows"]) == (1030, {"train": 1020, "test": 10})
    assert found["data"]["splits"] == {"train": ["train"], "test": ["test"]}
    chosen()
    window.page.get_by_label("Split of test/cool").select_option("")
    assert [one["id"] for one in sent()] == [found["id"]]  # known by all pages of its manifest
    window.accessible()

    window.page.evaluate("document.getElementById('new').dataset.most = 1030")
    window.page.locator("#folder-datasets").set_input_files(tmp_path / "many pets")
    expect(window.page.locator("#said-datasets")).to_contain_text("The manifest has 1040 files; 1030 are the most.")
    expect(window.page.locator("[data-send=datasets]")).to_be_disabled()
