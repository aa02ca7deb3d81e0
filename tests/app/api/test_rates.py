"""How often one may ask: by key, by address, and for what is tried in vain; alike with counts in the process and in Valkey."""

import datetime as dt
import itertools
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import httpx
import pytest

from tests.app.api.conftest import problem
from tests.conftest import Service, over_sqlite
from tests.support.saying import says

RATES = {"LATHE_RATE_PER_KEY": "5/hour", "LATHE_RATE_PER_ADDRESS": "1000/hour", "LATHE_RATE_WRONG": "3/hour"}
DATABASES = itertools.cycle(range(1, 16))
"""Valkey's, one after the other: a test does not meet the counts of the one before."""
WRONG = f"lathe_0123456789_{'s' * 43}"


@pytest.fixture(params=["memory", "valkey", "away"])
def strict(request: pytest.FixtureRequest, templates: dict[str, str], valkey: str, tmp_path: Path) -> Iterator[Service]:
    """An API with low bounds, over each place for counts; `away`: one that does not answer."""
    patient = "socket_timeout=60&socket_connect_timeout=60"  # else half a second's standstill is an outage
    counts = f"{valkey.replace('/0', f'/{next(DATABASES)}')}?{patient}"
    place = {"memory": "", "valkey": counts, "away": "redis://127.0.0.1:1/0"}
    settings = {**RATES, "LATHE_RATE_STORAGE_URL": place[request.param], "FORWARDED_ALLOW_IPS": "127.0.0.1"}
    with over_sqlite(templates, valkey, tmp_path, **settings) as made:
        yield made


def from_address(service: Service, address: str, key: str | None = None) -> httpx.Client:
    """A client whose requests come from an address, as a proxy says."""
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    return httpx.Client(base_url=service.url, headers={**headers, "X-Forwarded-For": address}, timeout=30)


def test_a_key_asks_so_often_and_is_told_what_is_left(strict: Service) -> None:
    key = strict.database.key
    with from_address(strict, "10.0.0.1", key) as http, from_address(strict, "10.0.0.2", key) as elsewhere:
        left = []
        for _ in range(5):
            answer = http.get("/v1/jobs")
            assert answer.status_code == 200
            assert answer.headers["ratelimit-policy"] == '"address";q=1000;w=3600, "key";q=5;w=3600'
            left.append(answer.headers["ratelimit"].split('"key";r=')[1].split(";")[0])
        assert left == ["4", "3", "2", "1", "0"]
        refused = elsewhere.get("/v1/jobs")  # the same key, whatever address it comes from
        quota = problem(refused, 429, "rate_limited")["quota"]
        assert (quota["name"], quota["limit"]) == ("rate_key", 5)
        assert 0 < int(refused.headers["retry-after"]) <= 3600
        left = dt.datetime.fromisoformat(quota["frees_at"]) - dt.datetime.now(dt.UTC)
        assert 0 < left.total_seconds() <= 3600
        assert '"key";r=0' in refused.headers["ratelimit"]
        assert http.get("/healthz/live").status_code == 200


def test_wrong_keys_count_against_their_address_and_no_other(strict: Service) -> None:
    key = strict.database.key
    with from_address(strict, "10.0.0.1", WRONG) as guesser, from_address(strict, "10.0.0.1", key) as neighbour:
        assert neighbour.get("/v1/jobs").status_code == 200
        assert [guesser.get("/v1/jobs").status_code for _ in range(3)] == [401, 401, 401]
        quota = problem(guesser.get("/v1/jobs"), 429, "rate_limited")["quota"]
        assert (quota["name"], quota["limit"]) == ("rate_wrong", 3)
        assert guesser.post("/sign-in", data={"key": WRONG}).status_code == 429  # nor by the other door
        assert neighbour.get("/v1/jobs").status_code == 200  # who was let in before still is
        with from_address(strict, "10.0.0.1") as silent:
            assert silent.get("/v1/jobs").status_code == 401  # it guesses nothing
    with from_address(strict, "10.0.0.9", key) as other:
        assert other.get("/v1/jobs").status_code == 200


def test_who_signs_in_beside_a_guesser_sees_pages_and_the_guesser_a_page_that_says_why(strict: Service) -> None:
    key = strict.database.key
    with from_address(strict, "10.0.0.3") as guesser, from_address(strict, "10.0.0.3") as browser:
        assert browser.post("/sign-in", data={"key": key}).status_code == 303
        browser.cookies.set("another", "from an app at the same host")
        guesses = [guesser.post("/sign-in", data={"key": WRONG}).status_code for _ in range(4)]
        assert guesses == [401, 401, 401, 429]  # whoever signed in before: no guess goes on beside them
        assert browser.get("/fleet").status_code == 200
        assert browser.post("/sign-in", data={"key": key}).status_code == 303  # a key that was accepted lately
        assert browser.get("/jobs").status_code == 200
        seen = {"Accept": "text/html,application/xhtml+xml,*/*;q=0.8", "Cookie": "lathe_session=guessed"}
        refused = guesser.get("/jobs", headers=seen)
        assert (refused.status_code, refused.headers["content-type"]) == (429, "text/html; charset=utf-8")
        says(refused.text, "What to do:", "rate_limited", "with wrong keys or links")
        assert int(refused.headers["retry-after"]) > 0


def test_guessed_links_count_as_wrong_keys_do(strict: Service) -> None:
    with from_address(strict, "2001:db8::1") as guesser, from_address(strict, "2001:db8::2") as same_network:
        assert [guesser.get(f"/share/{'x' * 42}{n}").status_code for n in range(3)] == [404, 404, 404]
        problem(same_network.get(f"/share/{'y' * 43}"), 429, "rate_limited")
        assert guesser.get("/openapi.json").status_code == 200


def test_an_address_asks_so_often(strict: Service) -> None:
    tight = replace(strict, settings={**strict.settings, "LATHE_RATE_PER_ADDRESS": "3/hour"})
    tight.kill("api")
    tight.start_api()
    with from_address(tight, "10.1.0.1") as http:
        assert [http.get("/openapi.json").status_code for _ in range(5)] == [200, 200, 200, 429, 429]
        assert http.get("/healthz/ready").status_code == 200  # what watches the service is answered all the same
    with from_address(tight, "::ffff:10.1.0.1") as http:
        problem(http.get("/openapi.json"), 429, "rate_limited")  # the same address, as a socket for both families spells it
    with from_address(tight, "10.1.0.2") as http:
        assert http.get("/openapi.json").status_code == 200
