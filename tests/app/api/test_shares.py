"""A link to a report: it shows that report to whoever has it, and nothing else, until it is over."""

from typing import Any

import httpx
import pytest

from tests.app.api.conftest import Json, problem, sha, sql
from tests.app.api.finished import done
from tests.conftest import Service


@pytest.fixture
def job(service: Service, http: httpx.Client, request_body: Json) -> str:
    return done(service, http, request_body, name="Shown to all")


def shared(http: httpx.Client, job: str, **body: Any) -> Json:
    answer = http.post(f"/v1/jobs/{job}/share", json=body)
    assert answer.status_code == 201, answer.text
    return answer.json()


def test_who_has_the_link_sees_the_report_and_needs_no_key(service: Service, http: httpx.Client, job: str) -> None:
    link = shared(http, job, expires_in=3600)
    assert link["url"].startswith(f"{service.url}/share/")
    answer = httpx.get(link["url"])
    assert answer.status_code == 200
    assert "Shown to all" in answer.text
    assert "noindex" in answer.headers["x-robots-tag"]
    assert answer.headers["referrer-policy"] == "no-referrer"
    assert answer.headers["cache-control"] == "private, no-store"
    assert "default-src 'none'" in answer.headers["content-security-policy"]
    assert "set-cookie" not in answer.headers
    assert 'href="' not in answer.text  # it leads nowhere
    # It opens nothing but that page.
    token = link["url"].rpartition("/")[2]
    for way in ({"Authorization": f"Bearer {token}"}, {"Cookie": f"lathe_session={token}"}):
        assert httpx.get(f"{service.url}/v1/jobs/{job}", headers=way).status_code == 401
    assert token not in service.log("api")


def test_only_the_hash_of_a_link_is_kept(service: Service, http: httpx.Client, job: str) -> None:
    link = shared(http, job)
    (listed,) = http.get(f"/v1/jobs/{job}/share").json()["items"]
    assert listed == {**link, "url": None}
    token = link["url"].rpartition("/")[2]
    sql(service, "UPDATE share_links SET token_sha256 = %s WHERE token_sha256 = %s", sha(b"other"), sha(token.encode()))
    assert httpx.get(link["url"]).status_code == 404
    assert httpx.get(f"{service.url}/share/other").status_code == 200


def test_a_link_ends_when_it_expires_is_revoked_or_its_job_goes(service: Service, http: httpx.Client, job: str) -> None:
    old, revoked, last = (shared(http, job) for _ in range(3))
    sql(service, "UPDATE share_links SET expires_at = '2026-01-01 00:00:00.000000' WHERE id = %s", old["id"])
    assert http.delete(f"/v1/jobs/{job}/share/{revoked['id']}").status_code == 204
    problem(http.delete(f"/v1/jobs/{job}/share/{revoked['id']}"), 404, "not_found")
    pages = [httpx.get(link["url"]) for link in (old, revoked)]
    pages.append(httpx.get(f"{service.url}/share/{'x' * 43}"))
    for page in pages:  # nobody learns which of them it was
        assert page.status_code == 404
        assert "this link is not valid" in page.text.lower()
        assert "noindex" in page.headers["x-robots-tag"]
    assert [item["id"] for item in http.get(f"/v1/jobs/{job}/share").json()["items"]] == [last["id"]]
    assert httpx.get(last["url"]).status_code == 200
    assert http.delete(f"/v1/jobs/{job}").status_code == 204
    assert httpx.get(last["url"]).status_code == 404


def test_only_a_report_that_is_there_is_shared_and_not_for_ever(http: httpx.Client, job: str, request_body: Json) -> None:
    waiting = http.post("/v1/jobs", json=request_body).json()["id"]
    problem(http.post(f"/v1/jobs/{waiting}/share", json={}), 404, "report_not_ready")
    problem(http.post(f"/v1/jobs/{job}/share", json={"expires_in": 59}), 422, "invalid_request", "expires_in")
    problem(http.post(f"/v1/jobs/{job}/share", json={"expires_in": 10**9}), 422, "invalid_request", "expires_in")


def test_a_job_has_so_many_links(http: httpx.Client, job: str) -> None:
    for _ in range(50):
        shared(http, job)
    problem(http.post(f"/v1/jobs/{job}/share", json={}), 409, "too_many_links")
