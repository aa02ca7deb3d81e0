"""The page on which a job is put together: the recipe's form, its forecast, uploads that survive a cut line, and sending."""

import json
import os
import re
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Page, Route, expect

from client.transfers.folders import model_files
from compression.schema.job_spec import Columns
from tests.app.api.test_quotas import limit
from tests.conftest import wait_for
from tests.pages.conftest import PATIENCE, Window, World
from tests.support.examples import tiny_model, tiny_splits


def recipe_of(window: Window) -> object:
    return json.loads(window.page.locator("#request").text_content() or "")["recipe"]


def said(recipe: Any) -> Any:
    """Return a recipe without the keys that are null or false: the form sends them, and the API leaves some of them out."""
    if not isinstance(recipe, dict):
        return recipe
    return {key: said(value) for key, value in recipe.items() if value is not None and value is not False}


def test_a_job_is_put_together_foretold_and_sent(window: Window, world: World) -> None:
    window.dropped = True  # a forecast that is refused is an answer; the browser itself writes that it was one
    page = window.go(f"/new?model={world.request['models']['base']}&data={world.request['datasets'][0]}")
    forecast = page.locator("#forecast")
    expect(forecast).to_contain_text("leave 2 layers of 2 heads and 0 feed-forward units")  # too small for the preset
    with world.http() as http:
        presets = {item["name"]: item["recipe"] for item in http.get("/v1/recipes").json()["items"]}
    assert recipe_of(window) in presets
    for name in presets:  # the form holds every preset whole
        page.get_by_label("Preset").select_option(name)
        page.get_by_label("Preset").select_option("")
        page.evaluate("document.getElementById('name').dispatchEvent(new Event('input'))")
        expect(page.locator("#request")).to_contain_text('"recipe": {')
        assert said(recipe_of(window)) == said(presets[name]), name

    page.get_by_label("Preset").select_option("quick")
    ratio = page.locator("[data-path='recipe.prune.ratio']")
    expect(ratio).to_be_visible()  # its part was opened by what is wrong there
    ratio.fill("7")
    expect(page.locator("#forecast .wrong")).to_contain_text("ratio")
    expect(ratio).to_have_attribute("aria-invalid", "true")
    expect(page.get_by_role("button", name="Submit job")).to_be_disabled()
    window.accessible_everywhere()
    ratio.fill("0.5")
    page.locator("[data-path='recipe.prune.multiple']").fill("8")
    expect(ratio).not_to_have_attribute("aria-invalid", "true")
    expect(forecast).to_contain_text("Fits")
    expect(forecast).to_contain_text("Yes")
    page.set_viewport_size({"width": 1280, "height": 800})
    expect(page.get_by_role("button", name="Submit job")).to_be_in_viewport(ratio=1)  # below a forecast of any length
    page.locator("#device").select_option("cuda")
    expect(forecast).to_contain_text("no online worker has a working GPU")
    expect(forecast).to_contain_text("device_absent")
    page.locator("#device").select_option("any")
    expect(forecast).to_contain_text("Yes")
    ask_for_devices(window, world)

    choose_artifacts(page)
    choose_metrics(page)

    page.locator("#name").fill("sent from the page")
    with page.expect_response(lambda got: "validate_only" in got.url and '"kind"' in (got.request.post_data or "")):
        page.get_by_label("Labels").fill("from: page, kind: test")  # the last forecast: it closes the button while it asks
    expect(page.locator("#request")).to_contain_text("sent from the page")
    expect(page.get_by_role("button", name="Submit job")).to_be_enabled()
    page.get_by_role("button", name="Submit job").click()
    page.wait_for_url(re.compile("/jobs/job_"))
    with world.http() as http:
        job = http.get(f"/v1/jobs/{page.url.rpartition('/')[2]}").json()
        assert (job["name"], job["labels"]) == ("sent from the page", {"from": "page", "kind": "test"})
        assert (job["recipe"]["prune"]["ratio"], job["recipe"]["prune"]["multiple"]) == (0.5, 8)
        assert (job["evaluate"]["metric"], job["evaluate"]["positive"]) == (["accuracy_f1"], None)
        http.post(f"/v1/jobs/{job['id']}/cancel")


def choose_artifacts(page: Page) -> None:
    """Ask for no artifact, for one, and for the usual ones again."""
    formats = page.get_by_role("group", name="artifacts", exact=True)
    formats.get_by_label("default").uncheck()
    expect(page.locator("#request")).to_contain_text('"artifacts": []')
    formats.get_by_label("onnx", exact=True).check()
    expect(page.locator("#request")).to_contain_text('"onnx"')
    formats.get_by_label("default").check()  # the usual ones
    expect(formats.get_by_label("onnx", exact=True)).not_to_be_checked()
    expect(page.locator("#request")).not_to_contain_text('"artifacts": [')


def choose_metrics(page: Page) -> None:
    """Ask for more metrics than there are datasets, then for one."""
    metric = page.locator("[data-path='evaluate.metric']")
    page.locator("summary", has_text="Evaluation").click()
    expect(metric).to_have_value("auto")
    metric.fill('["f1", "auto"]')
    expect(metric).to_have_attribute("aria-invalid", "true")  # there is one dataset
    metric.fill('["accuracy_f1"]')
    expect(metric).not_to_have_attribute("aria-invalid", "true")


def ask_for_devices(window: Window, world: World) -> None:
    """Ask for more processes than the worker has cores, then for as many, which share its memory."""
    with world.http() as http:
        (most,) = {one["facts"]["train_devices"] for one in http.get("/v1/workers").json()["items"] if one["kind"] == "jobs"}
    devices, forecast = window.page.locator("[data-path='recipe.train.devices']"), window.page.locator("#forecast")
    devices.evaluate("input => { input.closest('details').open = true; }")
    devices.fill(str(most + 1))
    expect(forecast.locator(".wrong")).to_contain_text(f"no online worker for this job has more than {most}")
    expect(devices).to_have_attribute("aria-invalid", "true")
    devices.fill(str(most))
    expect(forecast).to_contain_text(f"for all of its {most} processes" if most > 1 else "Yes")
    expect(forecast).to_contain_text(f"On {most} GPUs" if most > 1 else "On a GPU")
    devices.fill("1")
    expect(forecast).to_contain_text("On a GPU")


def test_a_model_and_its_data_are_dropped_and_used(window: Window, world: World, tmp_path: Path) -> None:
    model = tiny_model(tmp_path / "dropped-encoder")
    (model / "pytorch_model.bin").write_bytes(b"a pickle stays where it is")
    (model / "notes.md").write_text("and so does what somebody wrote")
    terms = {"LICENSE", "README.md", "Notice_1.rst"}
    for name in terms:
        (model / name).write_text("Apache License 2.0")  # goes along, as from the command line
    with (model / "config.json").open("a") as config:
        config.write("\n")  # or it would be known for the one that is there already
    window.dropped = True  # its forecast is refused: it is too small for the preset
    page = window.go("/new")
    page.locator("summary", has_text="Upload a model").click()
    page.locator("#files-models").set_input_files(sorted(model.iterdir()))
    expect(page.locator("#list-models li")).to_have_count(len(list(model.iterdir())) - 2)
    page.locator("#name-models").fill("dropped encoder")
    turned: list[str] = []

    def too_many_once(route: Route) -> None:
        """Answer the first file as the rate limit does, and all else as the service does."""
        if route.request.method != "PUT" or turned:
            route.continue_()
            return
        turned.append(route.request.url)
        route.fulfill(status=429, headers={"Retry-After": "1"}, content_type="application/problem+json", body="{}")

    page.route("**/files/**", too_many_once)
    page.locator("[data-send=models]").click()
    expect(page.locator("#said-models")).to_have_text("Ready, and selected above.", timeout=PATIENCE)
    expect(page.get_by_label("Base model").locator("option:checked")).to_contain_text("dropped encoder")
    assert len(turned) == 1
    with world.http() as http:
        sent = next(one for one in http.get("/v1/models").json()["items"] if one["name"] == "dropped encoder")
        files = http.get(f"/v1/models/{sent['id']}").json()["files"]
    here = {path.name for path in model_files(model)[0]}
    assert {file["path"] for file in files} == here
    assert here > terms

    for name, content in tiny_splits().items():
        (tmp_path / name).write_bytes(content)
    page.locator("summary", has_text="Upload data").click()
    drop(window, "datasets", [tmp_path / name for name in tiny_splits()])
    expect(page.get_by_label("Split of test.jsonl")).to_have_value("test")
    page.locator("#name-datasets").fill("dropped data")
    page.locator("[data-send=datasets]").click()
    expect(page.locator("#said-datasets")).to_have_text("Ready, and selected above.", timeout=PATIENCE)
    expect(page.locator("#forecast")).to_contain_text("leave 2 layers")  # the forecast is of what was dropped
    window.accessible()


def test_data_whose_columns_are_others_is_other_data(window: Window, world: World, tmp_path: Path) -> None:
    rows = [{"text": f"good {n}", "title": f"bad {n}", "label": str(n % 2), "stars": str(n % 3)} for n in range(60)]
    place = tmp_path / "train.jsonl"
    place.write_text("".join(json.dumps(row) + "\n" for row in rows))

    def sent(**columns: str) -> dict[str, Any]:
        window.dropped = True  # a forecast that is refused is an answer
        page = window.go("/new")
        page.locator("summary", has_text="Upload data").click()
        page.locator("#files-datasets").set_input_files(place)
        for name, column in columns.items():
            page.locator(f"#column-{name}").fill(column)
        page.locator("#name-datasets").fill("columns")
        page.locator("[data-send=datasets]").click()
        expect(page.locator("#said-datasets")).to_have_text("Ready, and selected above.", timeout=PATIENCE)
        chosen = page.locator("#data option:checked").get_attribute("value")
        with world.http() as http:
            found: dict[str, Any] = http.get(f"/v1/datasets/{chosen}").json()
        return found

    plain, other = sent(), sent(text="title", label="stars")
    named = {**Columns().model_dump(), "text": "title", "label": "stars"}
    assert (plain["data"]["columns"], other["data"]["columns"]) == (Columns().model_dump(), named)
    assert other["facts"]["labels"] != plain["facts"]["labels"]
    assert sent(text="title", label="stars")["id"] == other["id"]
    assert sent(label="")["id"] == plain["id"]  # what is emptied is called as it was
    with world.http() as http:  # and what was sent otherwise is known by what the service fills in
        assert sum(one["name"] == "columns" for one in http.get("/v1/datasets").json()["items"]) == 2


def drop(window: Window, kind: str, paths: list[Path]) -> None:
    """Let files fall onto the page, as a hand does."""
    files = [{"name": path.name, "text": path.read_text()} for path in paths]
    window.page.evaluate(
        """([kind, files]) => {
            const transfer = new DataTransfer();
            for (const { name, text } of files) transfer.items.add(new File([text], name));
            const zone = document.querySelector(`[data-drop="${kind}"]`);
            zone.dispatchEvent(new DragEvent('drop', { dataTransfer: transfer, bubbles: true, cancelable: true }));
        }""",
        [kind, files],
    )


def test_an_upload_goes_on_after_a_broken_line_and_after_a_closed_page(window: Window, world: World, tmp_path: Path) -> None:
    large = tmp_path / "model.safetensors"
    large.write_bytes(os.urandom(40 << 20))
    page = window.go("/new")
    # Slowly, or a fast machine has sent all of it before the line breaks.
    slow = {"offline": False, "latency": 0, "downloadThroughput": -1, "uploadThroughput": 4 << 20}
    window.context.new_cdp_session(page).send("Network.emulateNetworkConditions", slow)
    page.locator("summary", has_text="Upload a model").click()
    page.locator("#files-models").set_input_files(large)
    page.locator("#name-models").fill("large")
    page.locator("[data-send=models]").click()
    expect(page.locator("#list-models [data-state]")).to_contain_text("sent", timeout=PATIENCE)
    with window.without_network():
        expect(page.locator("#offline")).to_be_visible()
    expect(page.locator("#offline")).to_be_hidden(timeout=PATIENCE)
    # At once, or the service has all of it in between, and there is nothing left to pause.
    if page.locator("[data-pause=models]").evaluate("(button) => !button.hidden && (button.click(), true)"):
        expect(page.locator("#said-models")).to_contain_text("uploaded bytes are kept")

    def mine() -> dict[str, object]:
        with world.http() as http:
            return next(one for one in http.get("/v1/models").json()["items"] if one["name"] == "large")

    begun = mine()
    page.reload()
    page.locator("summary", has_text="Upload a model").click()
    page.locator("#files-models").set_input_files(large)
    held = list[Route]()

    def hold(route: Route) -> None:
        """Hold the first question for the outcome of the check."""
        held.append(route) if "prefer" in route.request.headers and not held else route.continue_()

    page.route(re.compile(r"/v1/models/mdl_\w+$"), hold)
    page.locator("[data-send=models]").click()
    wait_for(lambda: page.wait_for_timeout(20) or held, PATIENCE / 1000)
    expect(page.locator("#said-models")).to_contain_text("checking")
    expect(page.locator("[data-pause=models]")).to_be_hidden()  # nothing is left to pause
    held[0].continue_()
    # Random bytes are no model, which the check says once it has them all.
    expect(page.locator("#said-models")).to_contain_text("Rejected", timeout=PATIENCE)
    assert mine()["id"] == begun["id"]


@pytest.mark.parametrize("size", [4096, 3 << 20])  # sent whole, and in parts
def test_an_upload_that_finds_no_room_says_so(size: int, window: Window, world: World, tmp_path: Path) -> None:
    file = tmp_path / "model.safetensors"
    file.write_bytes(os.urandom(size))
    window.dropped = True  # the browser itself writes that a request was refused
    page = window.go("/new")
    page.locator("summary", has_text="Upload a model").click()
    page.locator("#files-models").set_input_files(file)
    page.locator("#name-models").fill(f"no room for {size}")
    limit(world.service, bytes_arriving=1)
    try:
        page.locator("[data-send=models]").click()
        expect(page.locator("#said-models")).to_have_text("Upload failed.", timeout=PATIENCE)
        expect(page.locator("#messages")).to_contain_text("bytes are being uploaded")
        expect(page.locator("#offline")).to_be_hidden()
    finally:
        limit(world.service)


def test_the_page_hashes_as_everybody_does(window: Window) -> None:
    page = window.go("/new")
    address = page.locator("script[src*='new.js']").get_attribute("src")
    sizes = [0, 1, 55, 56, 64, 1000, (4 << 20) + 3]
    found = page.evaluate(
        """async ([address, sizes]) => {
            const { hash } = await import(address);
            const hashed = [];
            for (const size of sizes) {
                const bytes = new Uint8Array(size).map((_, at) => (at * 31) & 255);
                const own = await crypto.subtle.digest('SHA-256', bytes);
                const hex = [...new Uint8Array(own)].map((byte) => byte.toString(16).padStart(2, '0')).join('');
                hashed.push([size, await hash(new Blob([bytes])), hex]);
            }
            return hashed;
        }""",
        [address.replace("new.js", "sha256.js"), sizes],
    )
    assert [size for size, *_ in found] == sizes
    assert all(own == everybodys for _, own, everybodys in found), found


def test_the_page_writes_no_powers_of_ten(window: Window) -> None:
    page = window.go("/new")
    address = page.locator("script[src*='new.js']").get_attribute("src").replace("new.js", "elements.js")
    written = page.evaluate(
        """async (address) => {
            const { count, minutes, size } = await import(address);
            return [...[999, 999600, 1234567].map(size), ...[999, 999600, 4.1e12].map(count), ...[100, 7400].map(minutes)];
        }""",
        address,
    )
    hours = ["about 1.7 hours", "about 120 hours"]
    assert written == ["999 B", "1.00 MB", "1.23 MB", "999", "1.00 M", "4.10 T", *hours]


def test_a_key_for_reading_sees_the_forecast_and_sends_nothing(reading_window: Window, world: World) -> None:
    reading_window.dropped = True  # the preset is too large for the model: an answer, of which the browser itself writes
    page = reading_window.go(f"/new?model={world.request['models']['base']}&data={world.request['datasets'][0]}")
    expect(page.locator("#forecast .wrong")).to_contain_text("leave 2 layers of 2 heads")
    page.get_by_label("Preset").select_option("quick")
    page.locator("[data-path='recipe.prune.ratio']").fill("0.5")
    page.locator("[data-path='recipe.prune.multiple']").fill("8")
    expect(page.locator("#forecast")).to_contain_text("Parameters")
    expect(page.get_by_role("button", name="Submit job")).to_be_disabled()
    expect(page.locator("[data-drop]")).to_have_count(0)
    expect(page.get_by_label("Preset")).to_be_visible()
    reading_window.accessible()
