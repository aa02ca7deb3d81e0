"""In and out of the dashboard, as somebody with a key does it."""

import re

from playwright.sync_api import expect

from tests.pages.conftest import Window, World


def test_a_key_opens_the_window_and_sign_out_closes_it(strange_window: Window, world: World) -> None:
    page = strange_window.go("/jobs?state=failed")
    expect(page).to_have_url(re.compile(r"/sign-in\?next="))
    strange_window.accessible_everywhere()
    strange_window.dropped = True  # the browser writes the 401 of the wrong key into its console by itself
    page.get_by_label("API key").fill("lathe_0000000000_" + "x" * 43)
    page.get_by_role("button", name="Sign in").click()
    expect(page.get_by_role("alert")).to_contain_text("unknown, revoked or expired")
    strange_window.dropped = False
    strange_window.accessible()

    page.get_by_label("API key").fill(world.key)
    page.keyboard.press("Enter")
    expect(page).to_have_url(f"{world.url}/jobs?state=failed")
    expect(page.get_by_role("link", name="needs synonyms")).to_be_visible()
    assert world.key not in page.content()
    assert page.evaluate("document.cookie") == ""

    page.get_by_role("button", name="Sign out").click()
    expect(page.get_by_role("heading", name="Sign in")).to_be_visible()
    strange_window.go("/jobs")
    expect(page).to_have_url(re.compile("/sign-in"))


def test_a_chosen_theme_stays(window: Window) -> None:
    page = window.go("/jobs")
    ground = "getComputedStyle(document.body).backgroundColor"
    page.emulate_media(color_scheme="light")
    light = page.evaluate(ground)
    toggle = page.get_by_role("button", name=re.compile("Theme"))
    toggle.click()
    toggle.click()
    expect(toggle).to_have_accessible_name("Theme: dark")
    dark = page.evaluate(ground)
    assert dark != light
    page.reload()
    assert page.evaluate(ground) == dark


def test_the_keyboard_reaches_the_content_first(window: Window) -> None:
    page = window.go("/jobs")
    page.keyboard.press("Tab")
    expect(page.get_by_role("link", name="Skip to the content")).to_be_focused()
    page.keyboard.press("Enter")
    assert page.evaluate("document.activeElement.id") == "main"


def test_whoever_has_no_key_can_read_what_the_api_offers_and_what_its_errors_mean(strange_window: Window) -> None:
    page = strange_window.go("/docs")
    strange_window.accessible_everywhere()
    page.get_by_role("link", name="error codes").click()
    expect(page.get_by_role("heading", name="Errors")).to_be_visible()
    strange_window.accessible_everywhere()
    page = strange_window.go("/docs/errors#not_found")
    expect(page.get_by_role("rowheader", name="not_found")).to_be_in_viewport()
