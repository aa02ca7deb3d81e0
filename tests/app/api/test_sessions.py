"""How a browser gets in and out, what it may do with its cookie, and what a key for reading may not."""

import html
from typing import Any
from urllib.parse import urljoin

import httpx
import pytest

from app.accounts.sessions import COOKIE
from app.main import app
from tests.app.api.conftest import Json, problem, sql
from tests.conftest import Service
from tests.support.saying import lacks, says


@pytest.fixture
def browser(service: Service) -> Any:
    """Whoever has not signed in yet."""
    with httpx.Client(base_url=service.url, timeout=70) as client:
        yield client


def sign_in(browser: httpx.Client, key: str, **form: str) -> httpx.Response:
    return browser.post("/sign-in", data={"key": key, **form})


def token(browser: httpx.Client) -> str:
    """What our own pages know of the session, as their scripts read it."""
    page = browser.get("/jobs").text
    return page.split('name="csrf-token" content="')[1].split('"')[0]


def test_a_key_becomes_a_cookie_and_the_cookie_ends(service: Service, browser: httpx.Client) -> None:
    sent_away = browser.get("/jobs?state=failed")
    assert (sent_away.status_code, sent_away.headers["location"]) == (303, "/sign-in?next=%2Fjobs%3Fstate%3Dfailed")
    wrong = sign_in(browser, service.database.key[:-1] + "x")
    assert wrong.status_code == 401
    assert COOKIE not in browser.cookies
    welcome = sign_in(browser, f" {service.database.key}\n", next="/jobs?state=failed")
    assert (welcome.status_code, welcome.headers["location"]) == (303, "/jobs?state=failed")
    says(welcome.headers["set-cookie"].lower(), "httponly", "samesite=lax")
    assert service.database.key not in welcome.headers["set-cookie"]
    assert browser.get("/jobs").status_code == 200
    assert browser.get("/v1/jobs").status_code == 200
    held = browser.cookies[COOKIE]
    assert browser.post("/sign-out", data={"csrf_token": "guessed"}).status_code == 403
    assert browser.get("/jobs").status_code == 200
    assert browser.post("/sign-out", data={"csrf_token": token(browser)}).status_code == 303
    assert COOKIE not in browser.cookies
    for path in ("/jobs", "/v1/jobs"):
        old = httpx.get(service.url + path, cookies={COOKIE: held})
        assert old.status_code == (401 if path.startswith("/v1") else 303)


@pytest.mark.parametrize(("form", "status"), [("a&" * 500_000, 413), ("a=1&" * 20, 422), ("key=" + "%41" * 9000, 413)])
def test_a_form_of_many_fields_is_refused_before_it_is_read(browser: httpx.Client, form: str, status: int) -> None:
    headers = {"Content-Type": "application/x-www-form-urlencoded"}
    assert browser.post("/sign-in", content=form, headers=headers).status_code == status


def test_over_tls_the_cookie_stays_there(service: Service, browser: httpx.Client) -> None:
    behind_a_proxy = browser.post("/sign-in", data={"key": service.database.key}, headers={"X-Forwarded-Proto": "https"})
    assert "secure" in behind_a_proxy.headers["set-cookie"].lower()
    assert "secure" not in sign_in(browser, service.database.key).headers["set-cookie"].lower()


@pytest.mark.parametrize(
    "elsewhere", ["https://evil.example/", "//evil.example", "/\\evil.example", "javascript:alert(1)", "/a\nb"]
)
def test_sign_in_leads_nowhere_else(service: Service, browser: httpx.Client, elsewhere: str) -> None:
    assert sign_in(browser, service.database.key, next=elsewhere).headers["location"] == "/jobs"
    assert browser.get("/sign-in", params={"next": elsewhere}).headers["location"] == "/jobs"


def test_another_sites_page_cannot_use_the_cookie(service: Service, browser: httpx.Client, request_body: Json) -> None:
    for headers in ({"Origin": "https://evil.example"}, {"Origin": "null"}, {"Sec-Fetch-Site": "cross-site"}):
        answer = browser.post("/sign-in", data={"key": service.database.key}, headers=headers)
        assert answer.status_code == 403
        assert "csrf_failed" in answer.text
    sign_in(browser, service.database.key)
    problem(browser.post("/v1/jobs", json=request_body), 403, "csrf_failed")
    problem(browser.post("/v1/jobs", json=request_body, headers=[(b"X-CSRF-Token", "é".encode())]), 403, "csrf_failed")
    assert browser.get("/v1/jobs").json()["items"] == []
    sent = browser.post("/v1/jobs", json=request_body, headers={"X-CSRF-Token": token(browser)})
    assert sent.status_code == 202
    with httpx.Client(base_url=service.url) as another:
        sign_in(another, service.database.key)
        cancel = f"/v1/jobs/{sent.json()['id']}/cancel"
        problem(another.post(cancel, headers={"X-CSRF-Token": token(browser)}), 403, "csrf_failed")


def test_a_session_ends_with_its_key_and_with_its_time(service: Service, http: httpx.Client, browser: httpx.Client) -> None:
    made = http.post("/v1/keys", json={"name": "guest"}).json()
    sign_in(browser, made["key"])
    assert browser.get("/v1/jobs").status_code == 200
    http.delete(f"/v1/keys/{made['id']}")
    problem(browser.get("/v1/jobs"), 401, "unauthorized")
    assert browser.get("/jobs").status_code == 303
    sign_in(browser, service.database.key)
    assert browser.get("/v1/jobs").status_code == 200
    sql(service, "UPDATE sessions SET expires_at = %s", "2020-01-01 00:00:00.000000")
    problem(browser.get("/v1/jobs"), 401, "unauthorized")


def test_what_is_told_live_ends_with_key_and_sign_in(
    service: Service, http: httpx.Client, browser: httpx.Client, request_body: Json
) -> None:
    made = http.post("/v1/keys", json={"name": "guest", "scope": "read"}).json()
    sign_in(browser, service.database.key)
    ends = {
        "key": lambda: http.delete(f"/v1/keys/{made['id']}"),
        "sign-in": lambda: browser.post("/sign-out", data={"csrf_token": token(browser)}),
    }
    live = {"Accept": "text/event-stream"}
    with service.client(made["key"]) as guest:
        for (what, end), client in zip(ends.items(), (guest, browser), strict=True):
            job = http.post("/v1/jobs", json=request_body).json()["id"]
            with (
                client.stream("GET", f"/v1/jobs/{job}/events", headers=live) as events,
                client.stream("GET", "/v1/jobs", headers=live) as page,
            ):
                told, listed = events.iter_lines(), page.iter_lines()
                assert "event: queued" in (next(told), next(told), next(told))
                next(line for line in listed if line == "event: jobs")
                assert end().status_code in (204, 303), what
                newest = http.post("/v1/jobs", json=request_body).json()["id"]
                http.post(f"/v1/jobs/{job}/cancel")
                assert "event: cancelled" not in list(told), what
                assert not [line for line in listed if newest in line], what


def changing_routes() -> list[tuple[str, str]]:
    """Every way to change something under /v1."""
    paths = [(path, ways) for path, ways in app.openapi()["paths"].items() if path.startswith("/v1")]
    return [(method.upper(), path) for path, ways in paths for method in ways if method not in ("get", "head", "options")]


def test_a_key_for_reading_changes_nothing_anywhere(
    service: Service, http: httpx.Client, browser: httpx.Client, request_body: Json
) -> None:
    job = http.post("/v1/jobs", json=request_body).json()["id"]
    made = http.post("/v1/keys", json={"name": "eyes", "scope": "read"}).json()
    assert made["scope"] == "read"
    assert {key["name"]: key["scope"] for key in http.get("/v1/keys").json()["items"]} == {"first": "admin", "eyes": "read"}
    paths = changing_routes()
    assert ("POST", "/v1/jobs/{job_id}/cancel") in paths
    sign_in(browser, made["key"])
    csrf = {"X-CSRF-Token": token(browser)}
    with service.client(made["key"]) as eyes:
        assert [item["id"] for item in eyes.get("/v1/jobs").json()["items"]] == [job]
        asking = {("POST", "/v1/recipes/check"), ("POST", "/v1/jobs/{job_id}/targets")}  # they change nothing
        for method, path in set(paths) - asking:
            there = path.replace("{job_id}", job)
            problem(eyes.request(method, there, json=request_body), 403, "read_only_key")
            problem(browser.request(method, there, json=request_body, headers=csrf), 403, "read_only_key")
    assert http.get(f"/v1/jobs/{job}").json()["state"] == "queued"
    assert httpx.get(f"{service.url}/v1/keys", headers={"Authorization": f"Bearer {made['key']}"}).status_code == 200


def test_no_page_runs_what_another_host_serves(service: Service, http: httpx.Client, browser: httpx.Client) -> None:
    for _ in ("a stranger", "signed in"):
        page = browser.get("/docs")
        assert page.status_code == 200
        assert "script-src 'self'" in page.headers["content-security-policy"]
        assert "/v1/jobs/{job_id}/events" in page.text
        assert not [part for part in page.text.split('src="')[1:] if not part.startswith("/static/")]
        assert browser.get("/redoc").status_code == 404
        sign_in(browser, service.database.key)
    assert "Sign out" in page.text
    assert "/v1/jobs" in http.get("/openapi.json").json()["paths"]


def test_a_problem_s_type_is_the_address_that_explains_it(service: Service, http: httpx.Client, browser: httpx.Client) -> None:
    told = problem(http.get("/v1/jobs/none"), 404, "not_found")
    page = browser.get(urljoin(service.url, told["type"]))
    assert page.status_code == 200
    place = page.text.split(f'id="{told["type"].partition("#")[2]}"')[1].split("</tr>")[0]
    assert told["remedy"] in html.unescape(place)
    assert place.count("404") == 1
    for code in ("unsupported_shape", "engine_stalled"):
        assert f'id="{code}"' in page.text


def test_pages_carry_their_policy_and_files_their_hash(browser: httpx.Client) -> None:
    page = browser.get("/sign-in")
    policy = page.headers["content-security-policy"]
    assert "script-src 'self'" in policy
    assert "unsafe" not in policy
    assert page.headers["x-content-type-options"] == "nosniff"
    assert page.headers["cache-control"] == "no-store"
    lacks(page.text, "<script>", " style=")
    address = page.text.split('stylesheet" href="')[1].split('"')[0]
    file = browser.get(address)
    assert file.status_code == 200
    assert "immutable" in file.headers["cache-control"]
    assert file.headers["content-encoding"] == "gzip"
    assert browser.get("/static/0000000000000000/lathe.css").headers["cache-control"] == "no-store"
    for outside in ("/static/x/../main.py", "/static/x/%2e%2e/routes.py", "/static/x//etc/passwd"):
        assert browser.get(outside, follow_redirects=True).status_code == 404
