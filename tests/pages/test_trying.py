"""The page on which both models answer: a real worker asks them, in its sandbox."""

import re

from playwright.sync_api import expect

from tests.pages.conftest import PATIENCE, Window, World


def test_both_models_answer_what_was_typed(window: Window, world: World) -> None:
    page = window.go(f"/try?job={world.jobs['succeeded']}")
    page.get_by_label("Text").fill("<b>the film</b> was lovely")
    page.get_by_role("button", name="Run both models").click()
    answers = page.get_by_role("region", name="Predictions").first
    expect(answers.get_by_role("row").filter(has_text="Prediction")).to_contain_text(
        re.compile("positive|negative"), timeout=PATIENCE
    )
    expect(answers.get_by_role("row").filter(has_text="Time")).to_contain_text("ms")
    expect(page.locator("#asked")).to_contain_text("<b>the film</b> was lovely")  # text, whatever it holds
    expect(page.locator("#verdict")).to_contain_text("the compressed model is")
    window.accessible_everywhere()


def test_a_row_of_the_data_is_asked(window: Window, world: World) -> None:
    page = window.go(f"/try?job={world.jobs['succeeded']}")
    page.get_by_label("Row number").fill("3")
    page.get_by_role("button", name="Run this row").click()
    expect(page.locator("#asked")).to_contain_text("Expected", timeout=PATIENCE)
    expect(page.locator("#asked")).to_contain_text(re.compile("positive|negative"))


def test_a_key_for_reading_asks_nothing(reading_window: Window, world: World) -> None:
    page = reading_window.go(f"/try?job={world.jobs['succeeded']}")
    expect(page.get_by_role("button", name="Run both models")).to_be_disabled()
    expect(page.get_by_role("button", name="Random row")).to_be_disabled()
    reading_window.accessible()


def test_a_job_without_both_models_says_so(window: Window, world: World) -> None:
    expect(window.go(f"/try?job={world.jobs['failed']}").get_by_text("cannot be tried here")).to_be_visible()
