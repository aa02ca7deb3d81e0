"""The page of one job, of each kind: what it shows is what the API has, it stays live, and what it offers is done."""

import hashlib
import os
import re
import subprocess
import zipfile
from typing import Any

import pytest
from playwright.sync_api import Locator, Page, expect

from tests.conftest import wait_for
from tests.pages.conftest import Window, World


def events(world: World, job: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    with world.http() as http:
        while True:
            after = found[-1]["seq"] if found else 0
            page = http.get(f"/v1/jobs/{job}/events", params={"after": after, "page_size": 1000}).json()["items"]
            if not page:
                return found
            found += page


def lines(page: Page) -> list[int]:
    """Sequence numbers of the log's lines, as they stand."""
    return [int(number) for number in page.eval_on_selector_all("#log-lines > li", "all => all.map(one => one.dataset.seq)")]


def expect_in_first_screen(place: Locator) -> None:
    """Expect an element whole in the window before anybody scrolls; a live page may replace it meanwhile."""
    expect(place).to_be_in_viewport(ratio=1)
    assert place.page.evaluate("scrollY") == 0


def test_verdict_figures_and_download_lie_in_the_first_screen(window: Window, world: World) -> None:
    window.page.set_viewport_size({"width": 1280, "height": 800})
    page = window.go(f"/jobs/{world.jobs['succeeded']}")
    expect(page.locator(".tile")).to_have_count(4)
    button = page.get_by_role("link", name=re.compile("^Download"), exact=False).first
    for place in (page.locator(".outcome .verdict"), *page.locator(".tile").all(), button):
        expect_in_first_screen(place)
    with page.expect_download() as coming:
        button.click()
    with world.http() as http:
        headline = http.get(f"/v1/jobs/{world.jobs['succeeded']}/report").json()["headline"]
        artifacts = http.get(f"/v1/jobs/{world.jobs['succeeded']}/artifacts").json()["items"]
    wanted = next(artifact for artifact in artifacts if artifact["name"] == headline)
    assert coming.value.suggested_filename == f"{headline}.zip"
    with zipfile.ZipFile(coming.value.path()) as archive:
        hashes = {name: hashlib.sha256(archive.read(name)).hexdigest() for name in archive.namelist()}
    assert hashes == {file["path"]: file["sha256"] for file in wanted["files"]}
    elsewhere = window.context.request.get(f"{world.url}/jobs/{world.jobs['narrow']}/artifacts/{wanted['id']}")
    assert elsewhere.status == 404  # it is another job's


@pytest.mark.parametrize(
    ("kind", "shows"),
    [
        ("running", ("#now .state", "#now .way li.now", "#now progress", "#act-cancel")),
        ("queued", ("#now .state", "#now .where", "#act-cancel")),
        ("failed", ("#now .state", "#now .failure", "#now .way li.stopped >> nth=0", "#act-retry")),
    ],
)
def test_a_job_without_a_result_shows_first_how_it_is(window: Window, world: World, kind: str, shows: tuple[str, ...]) -> None:
    window.page.set_viewport_size({"width": 1280, "height": 800})
    page = window.go(f"/jobs/{world.jobs[kind]}")
    for place in shows:
        expect_in_first_screen(page.locator(place))
    results = page.get_by_role("navigation", name="Sections").get_by_text("Results")
    expect(results).to_be_visible(visible=kind == "running")  # which has artifacts of finished stages


@pytest.mark.parametrize(("width", "scheme"), [(1280, "light"), (390, "dark")])
def test_links_lead_to_the_sections_and_stay_in_view(window: Window, world: World, width: int, scheme: Any) -> None:
    window.page.set_viewport_size({"width": width, "height": 800})
    window.page.emulate_media(color_scheme=scheme)
    page = window.go(f"/jobs/{world.jobs['succeeded']}")
    expect(page.locator("#live")).to_have_attribute("data-is", "over")
    bar = page.get_by_role("navigation", name="Sections")
    expect(bar.locator("[aria-current]")).to_have_text("Results")
    for name in ("Stages", "Layers", "Training", "Log", "Request", "Results"):
        bar.get_by_role("link", name=name).focus()
        page.keyboard.press("Enter")
        expect(page).to_have_url(re.compile(f"#{name.lower()}$"))
        expect(bar.locator("[aria-current]")).to_have_text(name)
        expect(bar.get_by_role("link", name=name)).to_be_in_viewport(ratio=1)
        section = page.locator(f"#{name.lower()}")
        expect(section).to_be_in_viewport()
        below, top = bar.bounding_box(), section.bounding_box()
        assert top["y"] >= below["y"] + below["height"] - 1, "its beginning is not under the links"
    page.evaluate("document.getElementById('layers').scrollIntoView()")
    expect(bar.locator("[aria-current]")).to_have_text("Layers")
    assert page.evaluate("document.documentElement.scrollWidth") <= width


def test_a_part_that_is_refreshed_keeps_what_was_opened_and_where_one_reads(window: Window, world: World) -> None:
    page = window.go(f"/jobs/{world.jobs['succeeded']}")
    expect(page.locator("#live")).to_have_attribute("data-is", "over")
    page.locator("#stages summary", has_text="Environment").click()
    page.locator("#environment summary").focus()
    page.locator("#layers").evaluate("(place) => place.scrollIntoView()")
    page.locator("#results").evaluate("(place) => place.remove()")  # as while the job runs
    before = page.locator("#layers").bounding_box()
    address = page.locator("script[src*='/job.js']").get_attribute("src")
    assert page.evaluate(
        """async ([script, path]) => {
            const { bring } = await import(script);
            return bring(path, document.getElementById('found'));
        }""",
        [address.replace("job.js", "api.js"), f"/jobs/{world.jobs['succeeded']}?part=results"],
    )
    expect(page.locator("#results")).to_be_attached()
    expect(page.locator("#environment")).to_have_attribute("open", "")
    expect(page.locator("#environment summary")).to_be_focused()
    assert abs(page.locator("#layers").bounding_box()["y"] - before["y"]) < 2


def test_a_finished_job_shows_its_report(window: Window, world: World) -> None:
    job = world.jobs["succeeded"]
    with world.http() as http:
        report = http.get(f"/v1/jobs/{job}/report").json()
    page = window.go(f"/jobs/{job}")
    tiles = page.get_by_role("region", name="The result in figures")
    expect(tiles).to_contain_text(f"{100 * report['ratios']['size_reduction']:.1f} %")
    expect(tiles).to_contain_text(f"{report['ratios']['speed_up']:.2f}×")
    titles = {"parameter_reduction": "Parameters", "size_reduction": "Size", "speed_up": "Speed", "retention": "Score"}
    for name, verdict in report["verdicts"].items():
        expect(tiles.locator(".tile").filter(has_text=titles[name])).to_contain_text(f": {verdict['status']}")
    table = page.get_by_role("region", name="Figures of each stage").get_by_role("row")
    assert [row.split()[0].lower() for row in table.locator("th[scope=row]").all_inner_texts()] == [
        row["stage"] for row in report["rows"]
    ]
    for row in report["rows"]:
        spread = f"spread {row['latency']['spread_ms']:.3g} ms"
        expect(page.get_by_role("row").filter(has_text=spread).first).to_be_visible()
    expect(page.locator(".way li.done")).to_have_count(6)
    expect(page.locator("#live")).to_have_attribute("data-is", "over")
    expect(page.locator("#log-lines > li")).to_have_count(len(events(world, job)))
    expect(page.locator("#loss-chart canvas")).to_be_visible()
    page.get_by_text("Training curves as a table").click()
    told = [event["data"] for event in events(world, job) if event["type"] == "progress"]
    losses = {(data["stage"], data["phase"], data["step"]) for data in told if data["loss"] is not None}
    assert len(losses) > 3
    expect(page.locator("#curve-rows tr")).to_have_count(len(losses))
    expect(page.get_by_role("columnheader", name="Validation accuracy")).to_be_visible()
    scored = [data for data in told if data["score"] is not None]
    assert scored
    expect(page.locator("#log-lines > li").filter(has_text=re.compile(r"validation [01]\.\d+ \(accuracy\)"))).to_have_count(
        len(scored)
    )
    expect(page.locator("[data-ranges] canvas")).to_be_visible()
    window.accessible_everywhere()


def test_what_is_downloaded_has_the_hash_that_the_page_names(window: Window, world: World) -> None:
    page = window.go(f"/jobs/{world.jobs['succeeded']}")
    page.locator(".artifact summary").first.click()
    expect(page.locator(".artifact").first).to_contain_text(re.compile(r"\d+ operators in the file, \d+ executed"))
    row = page.locator(".artifact").first.get_by_role("row").filter(has=page.get_by_role("link", name="model.onnx"))
    with page.expect_download() as coming:
        row.get_by_role("link").click()
    assert hashlib.sha256(coming.value.path().read_bytes()).hexdigest() == row.locator(".hash").inner_text()


def test_the_log_is_searched_and_follows(window: Window, world: World) -> None:
    page = window.go(f"/jobs/{world.jobs['succeeded']}")
    expect(page.locator("#live")).to_have_attribute("data-is", "over")
    page.get_by_role("searchbox", name="Search the log").fill("FINISHED")
    done = [event for event in events(world, world.jobs["succeeded"]) if event["type"] == "stage_finished"]
    expect(page.locator("#log-lines > li:visible")).to_have_count(len(done))
    expect(page.locator("#log-count")).to_contain_text(f"{len(done)} of ")
    page.get_by_role("searchbox", name="Search the log").fill("")
    at_end = (
        "(() => { const b = document.getElementById('log-box'); return b.scrollTop + b.clientHeight >= b.scrollHeight - 24 })()"
    )
    assert page.evaluate(at_end)
    page.locator("#log-box").focus()
    page.keyboard.press("Home")
    expect(page.get_by_label("Follow")).not_to_be_checked()
    wait_for(lambda: page.evaluate("document.getElementById('log-box').scrollTop") == 0)  # the browser goes there step by step
    page.get_by_label("Follow").check()
    wait_for(lambda: page.evaluate(at_end))


def test_the_recipe_is_copied_and_the_command_is_what_sends_it_again(window: Window, world: World) -> None:
    window.context.grant_permissions(["clipboard-read", "clipboard-write"])
    page = window.go(f"/jobs/{world.jobs['succeeded']}")
    page.get_by_role("button", name="Copy recipe").click()
    expect(page.get_by_text("Copied.")).to_be_visible()
    with world.http() as http:
        job = http.get(f"/v1/jobs/{world.jobs['succeeded']}").json()
    assert page.evaluate("navigator.clipboard.readText().then(JSON.parse)") == job["recipe"]
    page.get_by_role("button", name="Copy as curl").click()
    page.wait_for_function("navigator.clipboard.readText().then((text) => text.includes('curl'))")
    command = page.evaluate("navigator.clipboard.readText()")
    assert world.key not in command
    ran = subprocess.run(["sh", "-c", command], env={**os.environ, "LATHE_KEY": world.key}, capture_output=True, check=True)
    with world.http() as http:
        again = http.get("/v1/jobs", params={"state": "queued"}).json()["items"][0]
        assert again["id"] in ran.stdout.decode()
        assert {key: again[key] for key in ("recipe", "labels", "targets", "datasets", "models")} == {
            key: job[key] for key in ("recipe", "labels", "targets", "datasets", "models")
        }
        http.post(f"/v1/jobs/{again['id']}/cancel")


def test_a_failed_job_says_first_what_failed_and_what_to_do(window: Window, world: World) -> None:
    with world.http() as http:
        error = http.get(f"/v1/jobs/{world.jobs['failed']}").json()["error"]
    page = window.go(f"/jobs/{world.jobs['failed']}")
    first = page.locator("#job .card").first
    expect(first.get_by_role("heading")).to_have_text("Job failed")
    expect(first).to_contain_text(error["cause"])
    expect(first).to_contain_text(error["remedy"])
    expect(first).to_contain_text(error["code"])
    box = first.bounding_box()
    assert box["y"] + box["height"] < 860  # without scrolling
    expect(page.locator(".way li.stopped").first).to_be_visible()
    window.accessible_everywhere()


def test_a_running_job_is_live_and_no_event_is_lost(window: Window, world: World) -> None:
    job = world.jobs["running"]
    page = window.go(f"/jobs/{job}")
    page.evaluate("window.stillHere = true")
    bar, more = page.get_by_role("progressbar"), "count => document.querySelectorAll('#log-lines > li').length > count"
    before, count = bar.get_attribute("value") or "", len(lines(page))
    with world.at_work():
        expect(bar).not_to_have_attribute("value", before)
        expect(page.locator(".way li.now")).to_have_attribute("aria-current", "step")
        with window.without_network():
            expect(page.locator("#offline")).to_be_visible()
            expect(page.locator("#live")).to_have_attribute("data-is", "away")
            count = len(lines(page))
        expect(page.locator("#live")).to_have_attribute("data-is", "live")
        expect(page.locator("#offline")).to_be_hidden()
        page.wait_for_function(more, arg=count)

        window.dropped = True
        count = len(lines(page))
        world.restart_api()
        page.wait_for_function(more, arg=count)
        expect(page.locator("#live")).to_have_attribute("data-is", "live")
        window.dropped = False

    seen = lines(page)
    assert seen == list(range(1, len(seen) + 1))
    assert [event["seq"] for event in events(world, job)][: len(seen)] == seen
    assert page.evaluate("window.stillHere") is True
    window.accessible_everywhere()


def test_a_job_is_cancelled_and_sent_again(window: Window, world: World) -> None:
    job = world.submit(name="<script>document.title='hacked'</script>")
    page = window.go(f"/jobs/{job}")
    expect(page).to_have_title("<script>document.title='hacked'</script> · Lathe")
    page.get_by_role("button", name="Cancel").click()
    dialog = page.get_by_role("dialog")
    window.accessible()
    dialog.get_by_role("button", name="Keep it running").click()
    expect(dialog).to_be_hidden()
    page.get_by_role("button", name="Cancel").click()
    dialog.get_by_role("button", name="Cancel the job").click()
    expect(page.locator("#now .state")).to_have_text("Cancelled")
    page.get_by_role("button", name="Retry").click()
    expect(page).not_to_have_url(re.compile(job))
    new = page.url.rsplit("/", 1)[1]
    with world.http() as http:
        assert http.get(f"/v1/jobs/{new}").json()["retry_of"] == job
        http.post(f"/v1/jobs/{new}/cancel")


def test_a_job_is_sent_again_with_the_remedy_that_its_figures_speak_for(window: Window, world: World) -> None:
    with world.http() as http:
        old = http.get(f"/v1/jobs/{world.jobs['succeeded']}").json()
    offered = {remedy["key"]: remedy for remedy in old["remedies"]}
    assert offered
    page = window.go(f"/jobs/{old['id']}")
    for key, remedy in offered.items():
        expect(page.locator(".remedies li").filter(has_text=key)).to_contain_text(remedy["why"])
    page.get_by_role("button", name=re.compile("Retry with")).click()
    expect(page).not_to_have_url(re.compile(old["id"]))
    new = page.url.rsplit("/", 1)[1]
    with world.http() as http:
        again = http.get(f"/v1/jobs/{new}").json()
        http.post(f"/v1/jobs/{new}/cancel")
    assert again["retry_of"] == old["id"]
    for key, remedy in offered.items():
        place = again["recipe"]
        for part in key.removeprefix("recipe.").split("."):
            place = place[part]
        assert place == remedy["proposed"] or (isinstance(place, dict) and remedy["proposed"].items() <= place.items())


@pytest.mark.parametrize("kind", ["succeeded", "running"])
def test_a_key_for_reading_sees_and_cannot_touch(reading_window: Window, world: World, kind: str) -> None:
    job = world.jobs[kind]
    page = reading_window.go(f"/jobs/{job}")
    expect(page.get_by_text("read-only")).to_be_visible()
    expect(page.get_by_role("button", name=re.compile("Cancel|Retry"))).to_have_count(0)
    reading_window.dropped = True  # the browser writes the refusal into its console by itself
    status = page.evaluate(
        """async (job) => (await fetch(`/v1/jobs/${job}/cancel`, {method: "POST", headers: {
            "X-CSRF-Token": document.querySelector('meta[name="csrf-token"]').content}})).status""",
        job,
    )
    assert status == 403
    with world.http() as http:
        assert http.get(f"/v1/jobs/{job}").json()["state"] == kind
    reading_window.accessible()


def test_a_job_of_nobody_is_a_page_that_says_so(window: Window, world: World) -> None:
    window.dropped = True  # the browser notes the 404
    page = window.go("/jobs/job_00000000000000000000000000")
    expect(page.get_by_text("no job job_00000000000000000000000000")).to_be_visible()
    expect(page.get_by_text("What to do:")).to_be_visible()
    window.accessible()


def test_profiles_come_to_the_page_of_a_job_that_is_over(window: Window, world: World) -> None:
    job = world.jobs["succeeded"]
    page = window.go(f"/jobs/{job}")
    page.wait_for_function("document.getElementById('job').dataset.over === 'yes'")
    with page.expect_response(re.compile("/v1/profiles")), world.http() as http:
        artifact = http.get(f"/v1/jobs/{job}/artifacts").json()["items"][0]["id"]
        device = http.post("/v1/devices", json={"name": "board"}).json()["id"]
    with world.http() as http:
        asked = http.post(f"/v1/artifacts/{artifact}/profiles", json={"device": "board"})
        assert asked.status_code == 202, asked.text
        expect(page.locator("#results")).to_contain_text("waits for the device")
        http.delete(f"/v1/devices/{device}")
        expect(page.locator("#results")).to_contain_text("device_lost")
        http.delete(f"/v1/profiles/{asked.json()['id']}")
