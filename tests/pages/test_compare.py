"""The page that holds jobs against each other: points, rows, differences, and what can be taken along."""

import csv
import io
from pathlib import Path

from playwright.sync_api import expect

from tests.pages.conftest import Window, World


def test_jobs_stand_side_by_side(window: Window, world: World) -> None:
    page = window.go("/compare")
    with world.http() as http:
        found = {item["id"]: item for item in http.get("/v1/compare").json()["items"]}
    picked = [world.jobs["succeeded"], world.jobs["narrow"]]
    assert set(picked) <= set(found)
    for chart in ("#bytes-chart canvas", "#latency_ms-chart canvas"):
        expect(page.locator(chart)).to_be_visible()
    line = page.locator(f"[data-point={picked[0]}]")
    expect(line).to_contain_text(f"{100 * found[picked[0]]['ratios']['size_reduction']:.1f} %")
    shown = [item for item in found.values() if item["datasets"] == found[picked[0]]["datasets"]]
    best = [item["id"] for item in shown if "bytes" in item["best_by"]]
    expect(page.locator("[data-point]").filter(has_text="best by size")).to_have_count(len(best))
    window.accessible_everywhere()

    page.get_by_label("Select reviews, small").check()
    page.get_by_label("Select reviews, narrow").check()
    differences = page.get_by_role("region", name="Differences")
    ratio = differences.get_by_role("row").filter(has_text="recipe.prune.ratio")
    expect(ratio).to_contain_text("0.5")
    expect(ratio).to_contain_text("0.6")
    expect(differences.get_by_role("row").filter(has_text="recipe.version")).to_have_count(0)
    window.accessible()

    with page.expect_download() as taken:
        page.get_by_role("link", name="Download CSV of selected").click()
    lines = list(csv.DictReader(io.StringIO(Path(taken.value.path()).read_text())))
    assert {line["job"] for line in lines} == set(picked)
    with page.expect_download() as drawn:
        page.get_by_role("button", name="PNG").first.click()
    assert Path(drawn.value.path()).read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"

    page.reload()  # the picked stand in the address
    expect(page.get_by_label("Select reviews, narrow")).to_be_checked()
    expect(differences.get_by_role("row").filter(has_text="recipe.prune.ratio")).to_be_visible()


def test_a_point_is_picked_by_a_click(window: Window, world: World) -> None:
    page = window.go("/compare")
    place = page.locator("#bytes-chart canvas")
    expect(place).to_be_visible()
    # Where the chart has put the job's point, asked of the chart itself.
    at = page.evaluate(
        """(id) => {
            const chart = echarts.getInstanceByDom(document.getElementById('bytes-chart'));
            for (const [number, series] of chart.getOption().series.entries()) {
                const found = (series.data ?? []).find((one) => one.id === id);
                if (found) return chart.convertToPixel({seriesIndex: number}, found.value);
            }
        }""",
        world.jobs["narrow"],
    )
    place.evaluate("(canvas) => canvas.scrollIntoView({block: 'center'})")
    box = place.bounding_box()
    page.mouse.click(box["x"] + at[0], box["y"] + at[1])
    # Points may lie on each other; the one on top is picked.
    expect(page.locator("input[name=job]:checked")).to_have_count(1)


def test_a_team_without_jobs_is_told_what_to_do(window: Window) -> None:
    page = window.go("/compare?model=mdl_unknown")  # falls back to what there is
    expect(page.get_by_role("heading", name="Compare", exact=True)).to_be_visible()
    expect(page.locator("#all")).to_be_visible()
