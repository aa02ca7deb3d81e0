"""The page of jobs: what it shows, how it is narrowed down, and that it is live through a cut line and a restart."""

import re
from functools import partial
from operator import ne

import pytest
from playwright.sync_api import Route, expect

from tests.conftest import wait_for
from tests.pages.conftest import Window, World


def test_each_job_tells_where_it_is(window: Window, world: World) -> None:
    page = window.go("/jobs")
    done = page.locator(f"[data-job={world.jobs['succeeded']}]")
    expect(done).to_contain_text("Succeeded")
    with world.http() as http:
        ratios = http.get(f"/v1/jobs/{world.jobs['succeeded']}/report").json()["ratios"]
    expect(done).to_contain_text(f"{100 * ratios['size_reduction']:.1f} %")
    expect(done).to_contain_text(f"{ratios['speed_up']:.2f}×")
    expect(done).to_contain_text(f"{100 * ratios['retention_on_validation']:.1f} %")
    expect(done).to_contain_text("for: <b>bold</b>")  # a label is text, whatever it holds
    expect(done).to_contain_text("first")

    expect(page.locator(f"[data-job={world.jobs['failed']}]")).to_contain_text("Missing resource")
    expect(page.locator(f"[data-job={world.jobs['queued']}]")).to_contain_text("Position 1 in the queue")
    running = page.locator(f"[data-job={world.jobs['running']}]")
    expect(running.get_by_role("progressbar", name="Progress of long way")).to_be_visible()
    expect(running).to_contain_text("left")
    window.accessible_everywhere()


def test_what_is_wanted_stands_in_the_address(window: Window, world: World) -> None:
    page = window.go("/jobs")
    page.locator(".chip", has_text="Failed").click()
    expect(page).to_have_url(f"{world.url}/jobs?state=failed")
    expect(page.locator("[data-job]")).to_have_count(1)
    page.locator(".chip", has_text="Failed").click()
    page.get_by_role("searchbox").fill("Synonyms")
    expect(page).to_have_url(re.compile("search=Synonyms"))
    expect(page.locator("[data-job]")).to_have_count(1)
    page.reload()
    expect(page.get_by_role("searchbox")).to_have_value("Synonyms")
    expect(page.locator("[data-job]")).to_have_count(1)
    page.go_back()
    expect(page.locator("[data-job]")).not_to_have_count(1)

    window.go("/jobs?search=100%25")
    expect(page.get_by_role("heading", name="Nothing matches")).to_be_visible()
    page.get_by_role("link", name="Show all jobs").click()
    page.get_by_role("link", name="model: tiny").first.click()
    expect(page).to_have_url(f"{world.url}/jobs?label=model%3Atiny")
    with world.http() as http:
        labelled = http.get("/v1/jobs", params={"label": "model:tiny"}).json()["items"]
    expect(page.locator("[data-job]")).to_have_count(len(labelled))


def test_parameters_of_others_do_not_cut_the_line(window: Window, world: World) -> None:
    page = window.go("/jobs?utm_source=mail&state=failed")
    expect(page.locator("[data-job]")).to_have_count(1)
    expect(page.locator("#live")).to_have_attribute("data-is", "live")


def test_an_answer_that_comes_late_does_not_undo_a_filter(window: Window, world: World) -> None:
    page, held = window.go("/jobs"), list[Route]()
    page.route(re.compile("/jobs$"), lambda route: held.append(route))  # playwright writes into what it is given
    job = world.submit(name="late")
    wait_for(lambda: page.wait_for_timeout(20) or held)  # the list asks again, perhaps for a running job
    page.get_by_role("searchbox").fill("Synonyms")
    expect(page.locator("[data-job]")).to_have_count(1)
    with page.expect_response(re.compile("/jobs$")) as came:
        held[0].continue_()
    came.value.finished()
    page.wait_for_timeout(200)
    assert page.locator("[data-job]").count() == 1
    with world.http() as http:
        assert http.post(f"/v1/jobs/{job}/cancel").status_code == 202


def test_pages_follow_each_other_without_gap(window: Window, world: World) -> None:
    page = window.go("/jobs?page_size=2")
    seen = []
    while True:
        seen += [row.get_attribute("data-job") for row in page.locator("[data-job]").all()]
        older = page.get_by_role("link", name="Older")
        if not older.count():
            break
        other = partial(ne, page.url)
        older.click()
        page.wait_for_url(other)  # and until it is loaded: a page without its rows has no link to older ones either
        expect(page.locator(f"[data-job={seen[-1]}]")).to_have_count(0)
    with world.http() as http:
        assert seen == [job["id"] for job in http.get("/v1/jobs").json()["items"]]
    page.get_by_role("link", name="Newest").click()
    expect(page.locator("[data-job]").first).to_have_attribute("data-job", seen[0] or "")


def test_the_list_is_live_and_survives_a_cut_line_and_a_restart(window: Window, world: World) -> None:
    page = window.go("/jobs")
    expect(page.locator("#live")).to_have_attribute("data-is", "live")
    page.evaluate("window.stillHere = true")
    running = page.locator(f"[data-job={world.jobs['running']}]")
    before = running.get_attribute("data-version") or ""
    with world.at_work():
        expect(running).not_to_have_attribute("data-version", before)

    new = world.submit(name="new one")
    expect(page.locator(f"[data-job={new}]")).to_be_visible()
    with window.without_network():
        expect(page.locator("#offline")).to_be_visible()
        with world.http() as http:
            http.post(f"/v1/jobs/{new}/cancel")
        expect(page.locator(f"[data-job={new}]")).to_contain_text("Queued")
    expect(page.locator(f"[data-job={new}]")).to_contain_text("Cancelled")
    expect(page.locator("#offline")).to_be_hidden()

    window.dropped = True
    world.restart_api()
    another = world.submit(name="after the restart")
    expect(page.locator(f"[data-job={another}]")).to_be_visible()
    window.dropped = False
    with world.http() as http:
        http.post(f"/v1/jobs/{another}/cancel")
    expect(page.locator(f"[data-job={another}]")).to_contain_text("Cancelled")
    assert page.evaluate("window.stillHere") is True


@pytest.mark.parametrize("width", [360, 1280])
def test_a_page_of_jobs_is_light(window: Window, world: World, width: int) -> None:
    window.page.set_viewport_size({"width": width, "height": 800})
    assert len(window.page.goto(f"{world.url}/jobs").body()) < 100_000


def test_the_way_back_leads_to_a_list_that_is_live(window: Window, world: World) -> None:
    page = window.go("/jobs")
    page.locator(".chip", has_text="Failed").click()
    expect(page).to_have_url(f"{world.url}/jobs?state=failed")
    page.go_back()
    expect(page).to_have_url(f"{world.url}/jobs")
    expect(page.locator("#live")).to_have_attribute("data-is", "live")
    running = page.locator(f"[data-job={world.jobs['running']}]")
    before = running.get_attribute("data-version") or ""
    with world.at_work():
        expect(running).not_to_have_attribute("data-version", before)
