"""The page of the fleet: who works on what, and what teams used."""

import datetime as dt
import json

from playwright.sync_api import expect

from tests.app.api.conftest import insert, sql
from tests.pages.conftest import PATIENCE, Window, World
from tests.support.examples import TINY_RECIPE


def test_the_fleet_tells_who_works_on_what(window: Window, world: World) -> None:
    with world.http() as http:
        workers = http.get("/v1/workers").json()["items"]
        used = http.get("/v1/usage").json()["items"]
    busy = next(worker for worker in workers if worker["job"])
    page = window.go("/fleet")
    line = page.get_by_role("row").filter(has_text=busy["id"])
    expect(line.get_by_role("link", name=world.jobs["running"])).to_be_visible()
    expect(line).to_contain_text(busy["facts"]["confinement"])
    expect(line).to_contain_text(busy["facts"]["devices"][0])
    expect(line).to_contain_text("ago")
    expect(page.get_by_role("row").filter(has_text="yours")).to_contain_text(str(used[0]["jobs"]["failed"]))
    expect(page.locator(".tile").filter(has_text="running")).to_contain_text("1")
    window.accessible_everywhere()


def test_a_worker_that_rests_says_so(window: Window, world: World) -> None:
    now = dt.datetime.now(dt.UTC)
    seen, later = (f"{moment:%F %T.%f}" for moment in (now, now + dt.timedelta(hours=1)))
    lives = {"drain": False, "started_at": seen, "seen_at": seen, "rests_until": later, "rest_reason": "disk <full>"}
    with world.http() as http:
        facts = json.dumps(http.get("/v1/workers").json()["items"][0]["facts"])
    insert(world.service, "workers", id="wkr_rests", kind="jobs", host="h", pid=1, facts=facts, **lives)
    line = window.go("/fleet").get_by_role("row").filter(has_text="wkr_rests")
    expect(line).to_contain_text("rests until")
    expect(line).to_contain_text(": disk <full>")
    sql(world.service, "DELETE FROM workers WHERE id = %s", "wkr_rests")


def test_it_stays_new_by_itself_through_a_cut_line(window: Window, world: World) -> None:
    page = window.go("/fleet")
    waiting = page.locator(".tile").filter(has_text="waiting").locator(".figure")
    before = int(waiting.inner_text())
    with window.without_network():
        expect(page.locator("#offline")).to_be_visible()
        job = world.submit(name="beside the page", recipe=TINY_RECIPE)
    expect(waiting).to_have_text(str(before + 1), timeout=PATIENCE)
    expect(page.locator("#offline")).to_be_hidden()
    with world.http() as http:
        http.post(f"/v1/jobs/{job}/cancel")
    expect(waiting).to_have_text(str(before), timeout=PATIENCE)
