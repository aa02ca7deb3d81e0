"""A link to a report is made on the job's page, opened by somebody without a key, and revoked."""

from playwright.sync_api import expect

from tests.pages.conftest import PATIENCE, Window, World


def test_a_report_is_shown_by_its_link_until_it_is_revoked(window: Window, strange_window: Window, world: World) -> None:
    page = window.go(f"/jobs/{world.jobs['succeeded']}")
    page.locator("summary", has_text="Share the report").click()
    page.get_by_role("button", name="Create link").click()
    address = page.locator("#share-url")
    expect(address).to_contain_text("/share/", timeout=PATIENCE)
    with world.http() as http:
        link = http.get(f"/v1/jobs/{world.jobs['succeeded']}/share").json()["items"][0]["id"][-6:]
    expect(page.locator("#share-list")).to_contain_text(link, timeout=PATIENCE)
    window.accessible()

    url = address.inner_text()
    guest = strange_window.page
    answer = guest.goto(url)
    assert answer.status == 200
    # The page is shut off from all scripts, a test's too: it is looked at by its text, and as the file that it can be kept as.
    text = answer.text()
    assert "reviews, small" in text
    assert "<a href=" not in text  # it leads nowhere
    strange_window.page = guest = strange_window.context.new_page()
    guest.set_content(text)
    expect(guest.get_by_role("heading", level=1)).to_be_visible()
    strange_window.accessible()

    page.get_by_role("button", name=f"Revoke link {link}").click()
    expect(page.locator("#share-list")).not_to_contain_text(link, timeout=PATIENCE)
    gone = strange_window.context.request.get(url)
    assert gone.status == 404
    assert "this link is not valid" in gone.text()


def test_a_key_for_reading_makes_no_link(reading_window: Window, world: World) -> None:
    page = reading_window.go(f"/jobs/{world.jobs['succeeded']}")
    page.locator("summary", has_text="Share the report").click()
    expect(page.get_by_role("button", name="Create link")).to_be_disabled()
