"""The pages of keys and of the audit log as the server makes them: who sees what, and nobody's name as a tag."""

from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from tests.app.api.conftest import Json
from tests.app.api.finished import HOSTILE, Page, done
from tests.app.api.test_sessions import sign_in
from tests.conftest import Service


@pytest.fixture
def seen(service: Service, http: httpx.Client, request_body: Json) -> Iterator[Any]:
    """Opens a page as a key of a scope sees it; the team has a hostile name for each thing."""
    http.post("/v1/keys", json={"name": HOSTILE})
    job = done(service, http, request_body)
    http.post(f"/v1/jobs/{job}/share", json={})
    http.delete("/v1/keys/<img src=x onerror=alert(1)>")

    def opened(path: str, scope: str) -> httpx.Response:
        key = http.post("/v1/keys", json={"name": f"eyes {scope}", "scope": scope}).json()["key"]
        with httpx.Client(base_url=service.url) as browser:
            assert sign_in(browser, key).status_code == 303
            return browser.get(path)

    return opened


def test_keys_are_changed_by_admins_alone(seen: Any) -> None:
    admin, writer, reader = (Page(seen("/keys", scope).text) for scope in ("admin", "write", "read"))
    for page in (admin, writer, reader):
        assert HOSTILE in page.text
        assert page.tags.count("img") == 0
        assert "Links to reports" in page.text
        assert "Your team" in page.text

    def labels(page: Page, what: str) -> list[str]:
        return [value for name, value in page.attributes if name == "aria-label" and value and value.startswith(what)]

    assert len(labels(admin, "Rotate key")) >= 3
    assert len(labels(admin, "Revoke key")) >= 3
    assert labels(writer, "Revoke key") == ["Revoke key eyes write"]
    assert labels(writer, "Rotate key") == labels(reader, "Revoke") == []
    assert len(labels(writer, "Revoke link")) == 1
    assert ("id", "key-new") in admin.attributes
    assert ("id", "key-new") not in writer.attributes
    assert ("id", "team-new") not in admin.attributes  # its team does not run the service


def test_the_audit_log_is_for_admins_and_shows_names_as_text(seen: Any) -> None:
    page = Page(seen("/audit", "admin").text)
    assert "<img src=x onerror=alert(1)>" in page.text
    assert page.tags.count("img") == 0
    assert ("href", "/audit") in page.attributes
    narrowed = Page(seen("/audit?outcome=not_found", "admin").text)
    assert "keys.revoke" in narrowed.text
    assert "keys.create" not in narrowed.text
    for scope in ("write", "read"):
        refused = seen("/audit", scope)
        assert refused.status_code == 403
        assert "insufficient_scope" in refused.text
        assert ("href", "/audit") not in Page(refused.text).attributes
