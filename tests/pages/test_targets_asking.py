"""What the section Targets asks, and when: the section and its script alone, with a service that answers as the test says."""

from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from playwright.sync_api import Browser, Page, Route, expect

from app.pages.dashboard import views
from tests.conftest import wait_for
from tests.pages.conftest import PATIENCE

STATIC = Path(views.__file__).parent / "static"
PLACE = "http://lathe.test"
CHART = "window.echarts = { init: () => ({ setOption() {}, resize() {}, dispose() {} }) };"
START = 'import { targets } from "/static/targets.js"; targets();'


def figures(total: int) -> dict[str, Any]:
    return {"parameters": {"total": total}, "bytes": 4 * total, "flops": None, "milliseconds": None}


def point(total: int) -> dict[str, Any]:
    shape = {"layers": 2, "hidden": 64, "heads": 2, "ffn": 128}
    return {**figures(total), "shape": shape, "layers": [0, 1], "error": 0.5, "score": None, "proven": False}


class Asked:
    """Questions that the page has asked and that wait for their answer."""

    def __init__(self, page: Page) -> None:
        self.page = page
        page.set_default_timeout(PATIENCE)
        self.waiting: list[Route] = []
        text = views.templates().get_template("job_targets.html")
        section = text.render(job=SimpleNamespace(id="job_a"), solved=["mood", "topic"], units=[])
        html = f'<!doctype html>{section}<script>{CHART}</script><script type="module">{START}</script>'
        page.route(f"{PLACE}/", lambda route: route.fulfill(body=html, content_type="text/html"))
        page.route(f"{PLACE}/static/*", lambda route: route.fulfill(path=STATIC / route.request.url.rpartition("/")[2]))
        page.route(f"{PLACE}/v1/**", lambda route: self.waiting.append(route))  # playwright writes into what it is given
        page.goto(f"{PLACE}/")

    def next(self, method: str) -> Route:
        """Return the one question that waits, once there is one."""
        self.page.wait_for_function("() => document.getElementById('target-state').textContent === 'Solving …'")
        wait_for(lambda: self.page.wait_for_timeout(20) or self.waiting)
        assert [one.request.method for one in self.waiting] == [method]
        return self.waiting.pop()

    def answer(self, method: str, total: int = 500) -> dict[str, Any]:
        """Answer the question that waits, and return what it asked."""
        route, told = self.next(method), {"whole": figures(1000), "no_milliseconds": None, "no_score": None}
        found = {"by": "parameters", "points": [point(total)]} if method == "GET" else {"reached": True, "point": point(total)}
        route.fulfill(json={**told, **found, "missed": None})
        return route.request.post_data_json or {"url": route.request.url}


@pytest.fixture
def asked(browser: Browser) -> Iterator[Asked]:
    context = browser.new_context()
    yield Asked(context.new_page())
    context.close()


def test_a_slider_that_moves_while_the_front_loads_asks_nothing_beside_it(asked: Asked) -> None:
    slider = asked.page.get_by_label("Parameters, at most")
    front = asked.next("GET")
    slider.fill("70")
    slider.fill("60")
    asked.page.wait_for_timeout(100)
    assert not asked.waiting
    asked.waiting.append(front)
    asked.answer("GET")
    assert asked.answer("POST") == {"target_params": 600, "part": "mood"}  # where the slider is by now
    expect(asked.page.locator("#target-state")).to_contain_text("A cut to 500 parameters")
    expect(asked.page.locator("#target-remarks")).to_contain_text("It is not proven that no other cut errs less.")


def test_of_several_places_the_last_is_asked_for_once_the_question_before_is_answered(asked: Asked) -> None:
    slider = asked.page.get_by_label("Parameters, at most")
    asked.answer("GET")
    first = asked.next("POST")
    slider.fill("70")
    slider.fill("60")
    asked.page.wait_for_timeout(100)
    assert not asked.waiting
    asked.waiting.append(first)
    asked.answer("POST", 400)
    assert asked.answer("POST", 550)["target_params"] == 600
    expect(asked.page.locator("#target-state")).to_contain_text("A cut to 550 parameters")


def test_another_dataset_is_asked_for_once_the_running_front_ends(asked: Asked) -> None:
    front = asked.next("GET")
    asked.page.get_by_label("Dataset").select_option("topic")
    asked.page.wait_for_timeout(100)
    assert not asked.waiting
    asked.waiting.append(front)
    assert "part=mood" in asked.answer("GET", 900)["url"]
    assert "part=topic" in asked.answer("GET", 500)["url"]
    assert asked.answer("POST")["part"] == "topic"


def test_a_front_that_failed_is_asked_for_again(asked: Asked) -> None:
    asked.next("GET").fulfill(status=429, json={"code": "too_many_targets", "cause": "full", "remedy": "Repeat it."})
    expect(asked.page.locator("#target-state")).to_have_text("full. Repeat it.")
    asked.page.get_by_label("Parameters, at most").fill("60")
    asked.answer("GET")
    assert asked.answer("POST")["target_params"] == 600


@pytest.mark.parametrize(("solved", "part"), [(["mood", "topic"], " --part mood"), (["topic"], " --part topic"), ([""], "")])
def test_the_command_names_a_dataset_where_a_job_has_several(solved: list[str], part: str) -> None:
    text = views.templates().get_template("job_targets.html")
    html = text.render(job=SimpleNamespace(id="job_a"), solved=solved, units=[])
    assert f"<code>lathe target job_a --params -0.5{part}</code>" in html
