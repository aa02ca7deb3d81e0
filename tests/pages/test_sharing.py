"""A link to a report is made on the job's page, opened by somebody without a key, and revoked."""

from playwright.sync_api import expect

from tests.pages.conftest import Window, World


def test_a_report_is_shown_to_who_has_the_link_until_it_is_revoked(
    window: Window, strange_window: Window, world: World
) -> None:
    page = window.go(f"/jobs/{world.jobs['succeeded']}")
    page.locator("summary", has_text="Share the report").click()
    page.get_by_role("button", name="Make a link").click()
    address = page.locator("#share-url")
    expect(address).to_contain_text("/share/")
    expect(page.locator("#share-list li")).to_have_count(1)
    window.accessible()

    url = address.inner_text()
    guest = strange_window.page
    answer = guest.goto(url)
    assert answer is not None
    assert answer.status == 200
    expect(guest.get_by_text("reviews, small").first).to_be_visible()
    assert guest.locator("a[href]:not([href^='#'])").count() == 0  # it leads nowhere
    strange_window.accessible()

    page.get_by_role("button", name="Revoke").click()
    expect(page.locator("#share-list li")).to_have_count(0)
    gone = guest.goto(url)
    assert gone is not None
    assert gone.status == 404
    strange_window.errors.clear()  # the browser itself tells of the 404
    expect(guest.get_by_text("this link shows nothing")).to_be_visible()


def test_a_key_for_reading_makes_no_link(reading_window: Window, world: World) -> None:
    page = reading_window.go(f"/jobs/{world.jobs['succeeded']}")
    page.locator("summary", has_text="Share the report").click()
    expect(page.get_by_role("button", name="Make a link")).to_be_disabled()
