"""What callers learn and what they may not: failures, addresses, paths, methods, tags, and numbers that are none."""

import json
from collections.abc import Iterator
from types import SimpleNamespace

import httpx
import pytest

from app.accounts.auth import sees_hosts
from app.api import ranges
from app.core.ids import new_id
from app.core.redaction import redact_paths
from tests.app.api.conftest import MOMENT, Json, add_artifact, entry, insert, new_team, problem, sql
from tests.app.api.test_metrics import scraped, value
from tests.conftest import Service, over_sqlite

MODEL: Json = {"name": "m", "files": [entry("w.json", b"1")]}


def test_a_bug_is_a_500_in_the_answer_the_log_and_the_figures(service: Service, http: httpx.Client) -> None:
    def counted(status: str) -> float:
        labels = {"method": "GET", "route": "/v1/models/{identifier}", "status": status}
        return value(scraped(service), "lathe_http_requests_total", **labels)

    before, gone = counted("500"), counted("499")
    made = http.post("/v1/models", json=MODEL).json()["id"]
    sql(service, "UPDATE models SET facts = %s WHERE id = %s", json.dumps("no object"), made)  # nobody can read it
    answer = http.get(f"/v1/models/{made}")
    request_id = problem(answer, 500, "internal_error")["request_id"]
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert answer.headers["cross-origin-resource-policy"] == "same-origin"
    assert (counted("500"), counted("499")) == (before + 1, gone)
    lines = [json.loads(line) for line in service.log("api").splitlines() if request_id in line]
    assert {line.get("status") for line in lines if line["event"] == "request"} == {500}
    assert any(line["event"] == "internal_error" and "ValidationError" in line["exception"] for line in lines)


@pytest.mark.parametrize("depth", [40, 260, 900, 5000])
@pytest.mark.parametrize("keyed", [False, True])
def test_recipes_nested_without_end_are_refused(http: httpx.Client, request_body: Json, depth: int, *, keyed: bool) -> None:
    headers = {"Content-Type": "application/json", **({"Idempotency-Key": new_id("key")} if keyed else {})}
    for nested in ('{"a":' * depth + "1" + "}" * depth, '{"a":' + "[" * depth + "]" * depth + "}"):
        body = json.dumps({**request_body, "recipe": "here"}).replace('"here"', nested)
        answer = http.post("/v1/jobs", content=body, headers=headers)
        assert answer.status_code == 422
        assert problem(answer, 422, answer.json()["code"])["code"] in {"invalid_recipe", "invalid_request"}


@pytest.mark.parametrize("size", [True, "7", "7.0", 7.5])
def test_numbers_are_numbers(http: httpx.Client, request_body: Json, size: object) -> None:
    files = [{**entry("w.json", b"1"), "size": size}]
    problem(http.post("/v1/models", json={"name": "m", "files": files}), 422, "invalid_request", "files.0.size")
    problem(http.post("/v1/jobs", json={**request_body, "priority": size}), 422, "invalid_request", "priority")
    recipe = {"preset": "quick", "train": {"batch": size}}
    problem(http.post("/v1/jobs", json={**request_body, "recipe": recipe}), 422, "invalid_recipe", "recipe.train.batch")
    job = http.post("/v1/jobs", json=request_body).json()["id"]
    problem(http.post(f"/v1/jobs/{job}/share", json={"expires_in": size}), 422, "invalid_request", "expires_in")


def test_a_key_whose_object_was_deleted_says_so(http: httpx.Client, request_body: Json) -> None:
    for noun, body in (("models", MODEL), ("jobs", request_body)):
        headers = {"Idempotency-Key": noun}
        made = http.post(f"/v1/{noun}", json=body, headers=headers).json()["id"]
        assert http.post(f"/v1/{noun}", json=body, headers=headers).json()["id"] == made
        http.post(f"/v1/{noun}/{made}/cancel")
        assert http.delete(f"/v1/{noun}/{made}").status_code == 204
        found = problem(http.post(f"/v1/{noun}", json=body, headers=headers), 410, "deleted", "Idempotency-Key")
        assert made in found["cause"]


def test_tenants_see_no_paths_of_the_server(service: Service, http: httpx.Client, request_body: Json) -> None:
    told = "FileNotFoundError: '/var/lib/lathe/scratch/job_1/in/model.bin', see POST /v1/jobs and /docs/errors#x"
    seen = "FileNotFoundError: '…/model.bin', see POST /v1/jobs and /docs/errors#x"
    reason = {"code": "worker_error", "cause": told, "remedy": "none", "param": None}
    job = http.post("/v1/jobs", json=request_body).json()["id"]
    sql(service, "UPDATE jobs SET state = 'failed', error = %s WHERE id = %s", json.dumps(reason), job)
    insert(service, "events", job_id=job, seq=900, type="requeued", data=json.dumps(reason), at=MOMENT)
    assert http.get(f"/v1/jobs/{job}").json()["error"]["cause"] == seen
    assert http.get("/v1/jobs").json()["items"][0]["error"]["cause"] == seen
    assert http.get(f"/v1/jobs/{job}/events").json()["items"][-1]["data"]["cause"] == seen
    model = request_body["models"]["base"]
    sql(service, "UPDATE models SET state = 'rejected', reasons = %s WHERE id = %s", json.dumps([reason]), model)
    assert http.get(f"/v1/models/{model}").json()["reasons"][0]["cause"] == seen
    assert "/var" not in problem(http.post("/v1/jobs", json=request_body), 409, "not_ready")["cause"]
    harmless = "a/b, 3/4, https://a.example/b/c, org/name, ./x/y"
    assert redact_paths(harmless) == harmless


def test_tenants_see_no_hosts_and_processes(service: Service) -> None:
    worker = new_id("wkr")
    lives = dict.fromkeys(("started_at", "seen_at"), "2099-01-01 00:00:00.000000")
    insert(service, "workers", id=worker, kind="jobs", host="vault-7", pid=4711, facts="{}", drain=False, **lives)
    with service.client(new_team(service)) as tenant:  # its admin, who does not run the service
        seen = next(one for one in tenant.get("/v1/workers").json()["items"] if one["id"] == worker)
        assert (seen["host"], seen["pid"], seen["kind"]) == (None, None, "jobs")
        assert tenant.post("/sign-in", data={"key": tenant.headers["authorization"].split()[1]}).status_code == 303
        assert "vault-7" not in tenant.get("/fleet").text
    sql(service, "DELETE FROM workers WHERE id = %s", worker)
    assert sees_hosts(SimpleNamespace(scope="admin", operator=True))


def test_downloads_are_named_and_known_by_their_tags(service: Service, http: httpx.Client, request_body: Json) -> None:
    job, data = http.post("/v1/jobs", json=request_body).json()["id"], b"weights"
    artifact = add_artifact(service, job, "onnx/model.onnx", data, {})
    place = f"/v1/artifacts/{artifact}/files/onnx/model.onnx"
    whole = http.get(place)
    assert whole.content == data
    assert whole.headers["content-disposition"] == 'attachment; filename="model.onnx"'
    tag = whole.headers["etag"]
    for known in (tag, f"W/{tag}", f'"other", {tag}', f'W/"x" , W/{tag}', "*"):
        assert http.get(place, headers={"If-None-Match": known}).status_code == 304, known
    for unknown in ('"other"', tag.strip('"'), f'{tag[:-2]}"', ""):
        assert http.get(place, headers={"If-None-Match": unknown}).status_code == 200, unknown
    expected = "attachment; filename=\"b___X___.txt\"; filename*=UTF-8''b%22%0D%0AX%3A%20%C3%BC.txt"
    assert ranges.content_disposition('a/b"\r\nX: ü.txt') == expected


def test_addresses_repeat_no_host_of_a_stranger(service: Service, http: httpx.Client, request_body: Json) -> None:
    job = http.post("/v1/jobs", json=request_body).json()["id"]
    http.post("/v1/models", json=MODEL)
    sql(service, "UPDATE jobs SET state = 'succeeded', report = '{}' WHERE id = %s", job)

    def told(host: str) -> tuple[str, str]:
        made = http.post(f"/v1/jobs/{job}/share", json={}, headers={"Host": host}).json()["url"]
        return made, http.get("/v1/models?page_size=1", headers={"Host": host}).headers["link"]

    for path in ("/v1/jobs/", "/sign-in/"):
        answer = http.get(path, headers={"Host": "evil.example"})
        assert (answer.status_code, answer.headers.get("location")) == (404, None)
    url, link = told("evil.example")
    assert url.startswith("/share/")
    assert link.startswith("</v1/models?page_size=1&page_token=")
    url, link = told(f"127.0.0.1:{service.port}")
    assert url.startswith(f"{service.url}/share/")
    assert link.startswith(f"<{service.url}/v1/models?page_size=1&page_token=")


@pytest.fixture(scope="module")
def public(templates: dict[str, str], valkey: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """An API that is reached over TLS at a public address."""
    address = {"LATHE_PUBLIC_URL": "https://lathe.example.com/"}
    with over_sqlite(templates, valkey, tmp_path_factory.mktemp("public"), **address) as made:
        yield made


def test_a_public_address_is_in_links_and_shuts_plain_http_out(public: Service) -> None:
    key = public.database.key
    with public.client() as http:
        for _ in range(2):
            http.post("/v1/models", json=MODEL)
        page = http.get("/v1/models?page_size=1", headers={"Host": "evil.example"})
        assert page.headers["link"].startswith("<https://lathe.example.com/v1/models?page_size=1&page_token=")
        assert page.headers["strict-transport-security"] == "max-age=31536000"
        assert "server" not in page.headers
    with httpx.Client(base_url=public.url) as browser:
        forged = browser.post("/sign-in", data={"key": key}, headers={"Origin": "https://evil.example"})
        assert forged.status_code == 403
        answer = browser.post("/sign-in", data={"key": key}, headers={"Origin": "https://lathe.example.com"})
        held, *attributes = answer.headers["set-cookie"].split("; ")
        assert held.startswith("__Host-lathe_session=")
        assert {"Secure", "Path=/"} <= set(attributes)
        assert "domain" not in answer.headers["set-cookie"].lower()
        assert httpx.get(f"{public.url}/jobs", headers={"Cookie": held}).status_code == 200
        plain = held.removeprefix("__Host-")
        assert httpx.get(f"{public.url}/jobs", headers={"Cookie": plain}).status_code == 303  # set by a neighbour without TLS


def test_without_tls_there_is_no_hsts(http: httpx.Client) -> None:
    assert not {"strict-transport-security", "server"} & set(http.get("/healthz/live").headers)
