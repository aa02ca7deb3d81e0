"""Sliders on a finished job's page: the real solver answers them from tables that a tiny engine made."""

import re

import pytest
from playwright.sync_api import expect

from tests.pages.conftest import Window, World
from tests.support.solved_tables import store_tables


@pytest.fixture(scope="module")
def solved(world: World) -> str:
    """Return the id of a finished job that has tables."""
    job = world.jobs["narrow"]
    store_tables(world.service, job)
    return job


def test_a_slider_asks_what_another_target_comes_to(window: Window, world: World, solved: str) -> None:
    page = window.go(f"/jobs/{world.jobs['succeeded']}")
    expect(page.locator("#targets")).to_have_count(0)  # its recipe searched for nothing
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url) if "/targets" in request.url else None)
    page.set_viewport_size({"width": 1000, "height": 300})
    window.go(f"/jobs/{solved}")
    expect(page.locator("#target-form")).to_be_attached()
    expect(page.locator("#target-params")).to_have_attribute("aria-valuetext", "50 %")  # its script has run
    assert not [url for url in asked if url.partition("?")[0].endswith("/targets")]  # nothing is solved for who does not look
    page.locator("#target-form").scroll_into_view_if_needed()
    cut = page.get_by_role("region", name="The predicted cut")
    parameters = cut.get_by_role("row").filter(has_text="Parameters")
    expect(parameters).to_contain_text(re.compile(r"−[5-9]\d\.\d %"))
    before = parameters.text_content() or ""
    expect(page.locator("#target-remarks")).to_contain_text("No milliseconds: ")
    expect(page.locator("#target-ms-field")).to_be_hidden()
    slider = page.get_by_label("Parameters, at most")
    slider.fill("80")
    expect(parameters).not_to_have_text(before)
    expect(parameters).to_contain_text(re.compile(r"−\d\d\.\d %"))
    state = page.locator("#target-state")
    expect(state).to_contain_text(re.compile(r"A cut to .* parameters \(−\d\d\.\d %\), predicted error"))
    told = slider.get_attribute("aria-valuetext")
    slider.press("ArrowLeft")
    expect(slider).not_to_have_attribute("aria-valuetext", told or "")
    expect(state).to_contain_text("A cut to")
    page.get_by_text("Front as a table").click()
    assert page.locator("#front-rows tr").count() > 4
    window.accessible_everywhere()
    refusal = {"code": "too_many_targets", "cause": "too many questions wait", "remedy": "Repeat it."}
    page.route("**/targets", lambda route: route.fulfill(status=429, json=refusal))
    window.dropped = True  # the browser writes the refusal into its console by itself
    slider.press("ArrowLeft")
    expect(state).to_have_text("too many questions wait. Repeat it.")
    expect(cut).to_be_hidden()  # it answers where the slider was before
    expect(page.locator("#messages .message")).to_have_count(0)


def test_a_key_for_reading_may_ask(reading_window: Window, solved: str) -> None:
    page = reading_window.go(f"/jobs/{solved}")
    page.locator("#target-form").scroll_into_view_if_needed()
    expect(page.get_by_role("region", name="The predicted cut")).to_contain_text("Predicted error")
