"""Keys are made, rotated and revoked on their page, teams made and closed; the audit log tells of it."""

import httpx
from playwright.sync_api import expect

from tests.pages.conftest import Window, World


def works(world: World, key: str) -> bool:
    return httpx.get(f"{world.url}/v1/jobs", headers={"Authorization": f"Bearer {key}"}).status_code == 200


def test_a_key_is_made_rotated_and_revoked(window: Window, world: World) -> None:
    page = window.go("/keys")
    page.on("dialog", lambda dialog: dialog.accept())
    page.get_by_label("Name", exact=True).fill("night shift")
    page.get_by_label("Scope").select_option("read")
    page.get_by_role("button", name="Create key").click()
    shown = page.locator("#made-key")
    expect(shown).to_contain_text("lathe_")
    old = shown.inner_text()
    assert works(world, old)
    expect(page.get_by_role("row").filter(has_text="night shift")).to_contain_text("reads everything of the team")
    window.accessible_everywhere()

    page.get_by_role("button", name="Rotate key night shift").click()
    expect(page.get_by_role("button", name="Rotate key night shift")).to_have_count(2)
    expect(shown).not_to_have_text(old)
    new = shown.inner_text()
    assert works(world, old)
    assert works(world, new)
    listed = page.get_by_role("row").filter(has_text=new.split("_")[1])
    listed.get_by_role("button", name="Revoke key night shift").click()
    expect(listed).to_have_count(0)
    assert not works(world, new)


def test_a_team_is_made_and_closed(window: Window, world: World) -> None:
    page = window.go("/keys")
    page.on("dialog", lambda dialog: dialog.accept())
    page.get_by_label("New team's name").fill("vision")
    page.get_by_role("button", name="Create team").click()
    shown = page.locator("#made-key")
    expect(shown).to_contain_text("lathe_")
    key = shown.inner_text()
    assert works(world, key)
    page.get_by_role("button", name="Close team vision").click()
    expect(page.locator("#messages")).to_contain_text("vision is closed")
    assert not works(world, key)


def test_the_audit_log_is_read_and_narrowed_down(window: Window, world: World) -> None:
    with world.http() as http:
        made = http.post("/v1/keys", json={"name": "looked for"}).json()["id"]
    page = window.go("/audit")
    expect(page.get_by_role("row").filter(has_text=made)).to_contain_text("keys.create")
    window.accessible_everywhere()
    page.get_by_label("Action").fill("sessions")
    page.get_by_role("button", name="Filter").click()
    expect(page.get_by_role("row").filter(has_text="sessions.begin").first).to_be_visible()
    expect(page.get_by_role("row").filter(has_text="keys.create")).to_have_count(0)


def test_a_key_for_reading_sees_keys_and_changes_none(reading_window: Window, world: World) -> None:
    page = reading_window.go("/keys")
    expect(page.get_by_role("row").filter(has_text="current")).to_contain_text("visitor")
    expect(page.get_by_role("button", name="Revoke")).to_have_count(0)
    expect(page.get_by_role("link", name="Audit")).to_have_count(0)
    reading_window.accessible()
