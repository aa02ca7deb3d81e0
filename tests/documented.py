"""Holds each answer that a test gets against the OpenAPI document: status, content type and a problem's code must be in it."""

import re
from functools import lru_cache
from typing import Any

import httpx

Operations = list[tuple[re.Pattern[str], dict[str, Any]]]


@lru_cache
def operations() -> tuple[Operations, dict[str, Any]]:
    """Return (path's pattern, its operations), plain paths first, and the responses that they share."""
    from app.main import app  # only tests of the service need it

    document = app.openapi()
    paths = sorted(document["paths"].items(), key=lambda pair: pair[0].count("{"))
    found = [(re.compile(re.sub(r"\{(\w+)\}", _pattern, path)), ways) for path, ways in paths]
    return found, document["components"]["responses"]


def _pattern(part: re.Match[str]) -> str:
    return ".+" if part[1] == "path" else "[^/]+"


def undocumented(answer: httpx.Response) -> str | None:
    """Say what of an answer the document does not have; None if all is there, or if the path is none of the document's."""
    request = answer.request
    found, shared = operations()
    ways = next((ways for pattern, ways in found if pattern.fullmatch(request.url.path)), None)
    if ways is None:
        return None
    way = ways.get(request.method.lower())
    if way is None:
        return None if answer.status_code in (400, 404, 405, 408, 413, 422, 429) else "the method"
    said = way["responses"].get(str(answer.status_code))
    if said is None:
        return f"status {answer.status_code}"
    if "$ref" in said:
        said = shared[said["$ref"].rsplit("/", 1)[1]]
    kind = answer.headers.get("content-type", "").partition(";")[0]
    if request.method == "HEAD" or not kind:
        return None
    if kind not in said.get("content", {}):
        return f"{kind} with status {answer.status_code}"
    if kind == "application/problem+json":
        code = answer.read() and answer.json()["code"]
        return None if code in said["x-problems"] else f"problem {code}"
    return None


def check(answer: httpx.Response) -> None:
    """Raise AssertionError for an answer that is not as the document says."""
    missing = undocumented(answer)
    assert missing is None, f"the document lacks {missing} of {answer.request.method} {answer.request.url.path}"
