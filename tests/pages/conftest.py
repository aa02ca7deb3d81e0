"""The pages in a real browser, against the service and its workers with a finished, a failed, a running and a waiting job.

Chromium is Debian's (`make setup-system`), or Playwright's own download (`python -m playwright install chromium`). Where there
is neither, these tests skip; in CI they fail.
"""

import contextlib
import json
import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest
from playwright.sync_api import Browser, BrowserContext, ConsoleMessage, Page, Playwright, expect, sync_playwright

from tests.conftest import ROOT, Service, over_sqlite, wait_for
from tests.support.examples import TINY_RECIPE, send_data, send_model, tiny_model, tiny_splits
from tests.support.image_jobs import SIDE, onnx_folder
from tests.support.image_uploads import arrays
from tests.support.network_graphs import GraphBuilder

AXE = (ROOT / "tests/pages/vendor/axe-4.14.1.min.js").read_text(encoding="utf-8")
OPTIONS = (
    *("--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking"),
    *("--disable-component-update", "--disable-sync", "--disable-dev-shm-usage"),
)
PATIENCE = 120_000.0
"""Milliseconds that a page has: a bound on hanging on a busy machine."""
expect.set_options(timeout=PATIENCE)


@dataclass
class World:
    service: Service
    reader: str = ""
    jobs: dict[str, str] = field(default_factory=dict)
    request: dict[str, Any] = field(default_factory=dict)

    @property
    def url(self) -> str:
        return self.service.url

    @property
    def key(self) -> str:
        return self.service.database.key

    def http(self) -> httpx.Client:
        return self.service.client()

    def restart_api(self) -> None:
        """Kill the API as a crash would, and start another."""
        self.service.kill("api")
        self.service.start_api()

    def engines(self) -> list[psutil.Process]:
        """The engine of the job that runs, with what confines it."""
        below = psutil.Process(self.service.processes["jobs"].pid).children(recursive=True)
        return [process for process in below if {"compression", "run"} <= set(process.cmdline())]

    @contextlib.contextmanager
    def at_work(self) -> Iterator[None]:
        """Have the running job's engine go on for so long. Else it stands still: it would compute as long as the tests run."""
        for engine in self.engines():
            engine.resume()
        try:
            yield
        finally:
            self.stand_still()

    def stand_still(self) -> None:
        for engine in self.engines():
            engine.suspend()

    def state(self, job: str, *wanted: str) -> dict[str, Any]:
        with self.http() as http:

            def there() -> dict[str, Any] | None:
                found: dict[str, Any] = http.get(f"/v1/jobs/{job}").json()
                return found if found["state"] in wanted else None

            return wait_for(there, 1800, every=0.2)

    def submit(self, **asked: Any) -> str:
        with self.http() as http:
            answer = http.post("/v1/jobs", json={**self.request, **asked})
            assert answer.status_code == 202, answer.text
            return str(answer.json()["id"])


@pytest.fixture(scope="package")
def world(templates: dict[str, str], valkey: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """One service for all tests of pages, with what a team would see."""
    folder = tmp_path_factory.mktemp("pages")
    seldom = {"LATHE_HEARTBEAT_SECONDS": "1", "LATHE_LEASE_SECONDS": "60", "LATHE_KEEPER_SECONDS": "2"}  # beats move pages
    with over_sqlite(templates, valkey, folder, **seldom) as service:
        service.start_workers("jobs", "checks", "keeper")
        made = World(service)
        try:
            yield peopled(made, folder)
        finally:
            for engine in made.engines():
                engine.resume()  # or its launcher, which stands still with it, would not end it with its worker


def peopled(made: World, folder: Path) -> World:
    with made.http() as http:
        made.reader = http.post("/v1/keys", json={"name": "visitor", "scope": "read"}).json()["key"]
        images = of_images(http, folder)
        model = send_model(http, tiny_model(folder / "tiny-encoder"))["id"]
        data, many = send_data(http, tiny_splits())["id"], send_data(http, tiny_splits(3000))["id"]
    made.request = {"models": {"base": model}, "datasets": [data], "evaluate": {"length": 32}, "recipe": TINY_RECIPE}
    made.jobs["images"] = made.submit(**images)  # the oldest: no page begins with it
    learns = {"prepare": {"epochs": 12, "rate": 3e-3}, "distill": {"epochs": 4, "rate": 3e-3}}
    recipe = {**TINY_RECIPE, **learns, "quantize": {"qat": {"full": 1, "ramp": 1, "quantized": 1}}}
    targets = {"size_reduction": 0.99}  # missed, so that a remedy is offered
    labels = {"model": "tiny", "for": "<b>bold</b>"}
    forever = {**TINY_RECIPE, "quantize": None, "distill": {"epochs": 200, "rate": 1e-3}}
    made.jobs["succeeded"] = made.submit(name="reviews, small", recipe=recipe, labels=labels, targets=targets)
    pruned = {"quantize": None, "prune": {"ratio": 0.6, "multiple": 8, "calibration_rows": 64}, "distill": None}
    made.jobs["narrow"] = made.submit(name="reviews, narrow", recipe={**TINY_RECIPE, **pruned})
    made.jobs["failed"] = made.submit(name="needs synonyms", recipe={**TINY_RECIPE, **broken()})
    made.jobs["running"] = made.submit(name="long way", recipe=forever, datasets=[many])
    made.jobs["queued"] = made.submit(name="waits", recipe=recipe)
    for kind in ("images", "succeeded", "narrow", "failed", "running"):
        found = made.state(made.jobs[kind], "succeeded", "failed", *(("running",) if kind == "running" else ()))
        assert found["state"] == ("succeeded" if kind in ("images", "narrow") else kind), json.dumps(found)[:4000]

    def is_learning() -> bool:
        """Whether it is in its longest stage, foretells its end, and has artifacts of stages before."""
        with made.http() as http:
            told = http.get(f"/v1/jobs/{made.jobs['running']}").json()["progress"] or {}
        return told.get("phase") == "distill" and told["eta_seconds"] is not None

    wait_for(is_learning, 600)
    made.stand_still()
    return made


def of_images(http: httpx.Client, folder: Path) -> dict[str, Any]:
    """A job whose network is rounded, loses a block and channels, and is not trained, on images."""
    net = GraphBuilder((3, SIDE, SIDE))
    value = net.conv_norm("input", 8)
    for _ in range(2):
        value = net.op("relu", net.op("add", value, net.conv_norm(net.conv_norm(value, 8), 8, act="")))
    model = send_model(http, onnx_folder(net.classified(value), folder / "tiny-network"))
    files = {"train.npz": arrays(32, 0), "validation.npz": arrays(16, 1000), "test.npz": arrays(16, 2000)}
    data = send_data(http, files, task="image-classification", format="npz")
    recipe = {
        "prepare": {"epochs": 0},
        "quantize": {"scheme": "static-int8", "calibration_rows": 16},
        "prune": {"ratio": {"layers": 0.5, "channels": 0.25}, "calibration_rows": 16},
        "distill": None,
    }
    made = {"models": {"base": model["id"]}, "datasets": [data["id"]], "evaluate": {}, "recipe": recipe}
    return {**made, "name": "pictures, small"}


def broken() -> dict[str, Any]:
    """A recipe that asks for what no worker here has: the job fails in its engine, with a cause and a remedy."""
    return {"quantize": None, "distill": {"epochs": 1, "augment": {"synonyms": {"source": "wordnet"}}}}


def chromium(playwright: Playwright) -> str | None:
    own = playwright.chromium.executable_path
    return shutil.which("chromium") or (own if Path(own).exists() else None)


@pytest.fixture(scope="package")
def browser() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        found = chromium(playwright)
        if found is None:
            missing = "no Chromium: `make setup-system` as root, or `python -m playwright install chromium`"
            pytest.fail(missing) if os.environ.get("CI") else pytest.skip(missing)
        started = playwright.chromium.launch(executable_path=found, headless=True, args=OPTIONS, timeout=PATIENCE)
        yield started
        started.close()


class Window:
    """A page that a user looks at; what its console says of errors is an error of the test."""

    def __init__(self, page: Page, context: BrowserContext, url: str) -> None:
        self.page, self.context, self.url = page, context, url
        self.errors: list[str] = []
        self.dropped = False
        page.set_default_timeout(PATIENCE)
        page.on("console", self._console)
        page.on("pageerror", lambda error: self.errors.append(f"uncaught: {error}"))

    def _console(self, message: ConsoleMessage) -> None:
        # While the network is away the browser itself writes that it cannot load; our scripts must still say nothing.
        expected = self.dropped and message.text.startswith("Failed to load resource")
        if message.type == "error" and not expected:
            self.errors.append(f"{message.text} ({message.location})")

    def go(self, path: str) -> Page:
        self.page.goto(self.url + path)
        return self.page

    @contextlib.contextmanager
    def without_network(self) -> Iterator[None]:
        self.dropped = True
        self.context.set_offline(True)
        yield
        self.context.set_offline(False)

    def accessible(self) -> None:
        """Fail for what axe-core finds to be serious or worse, in the present theme and size."""
        if not self.page.evaluate("'axe' in window"):
            self.page.evaluate(AXE)
        found = self.page.evaluate("async () => (await axe.run(document, {resultTypes: ['violations']})).violations")
        grave = [
            (each["id"], each["impact"], [(node["target"], node["failureSummary"]) for node in each["nodes"][:5]])
            for each in found
            if each["impact"] in ("serious", "critical")
        ]
        assert grave == [], json.dumps(grave, indent=1)

    def accessible_everywhere(self) -> None:
        """Both themes, and the width of a phone, where nothing may stick out either."""
        for scheme in ("light", "dark"):
            self.page.emulate_media(color_scheme=scheme)  # type: ignore[arg-type]
            self.accessible()
        size = self.page.viewport_size
        self.page.set_viewport_size({"width": 360, "height": 740})
        assert self.page.evaluate("document.documentElement.scrollWidth") <= 360
        self.accessible()
        self.page.emulate_media(color_scheme="light")
        self.page.set_viewport_size(size)


@contextlib.contextmanager
def opened(browser: Browser, world: World, key: str | None) -> Iterator[Window]:
    # Nothing moves under the mouse.
    context = browser.new_context(viewport={"width": 1280, "height": 860}, reduced_motion="reduce")
    if key is not None:
        assert context.request.post(f"{world.url}/sign-in", form={"key": key}, max_redirects=0).status == 303
    window = Window(context.new_page(), context, world.url)
    yield window
    errors = list(window.errors)
    context.close()
    assert errors == []


@pytest.fixture
def window(browser: Browser, world: World) -> Iterator[Window]:
    with opened(browser, world, world.key) as made:
        yield made


@pytest.fixture
def reading_window(browser: Browser, world: World) -> Iterator[Window]:
    with opened(browser, world, world.reader) as made:
        yield made


@pytest.fixture
def strange_window(browser: Browser, world: World) -> Iterator[Window]:
    with opened(browser, world, None) as made:
        yield made
