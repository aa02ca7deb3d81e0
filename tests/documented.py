"""Holds each answer that a test gets against the OpenAPI document: status, content type and a problem's code must be in it."""

import re
from typing import Any

import httpx

OTHER_ADDRESS = "127.0.0.9"
"""Whence the document is asked for, so that no test's requests are counted together with that one."""
paths: list[tuple[re.Pattern[str], dict[str, Any]]] = []
"""A path's pattern and its operations, plain paths first; empty until `learn`."""
shared: dict[str, Any] = {}
"""Responses that operations have in common."""


def learn(url: str) -> None:
    """Read the document of an API that is up, once a process."""
    if paths:
        return
    with httpx.Client(transport=httpx.HTTPTransport(local_address=OTHER_ADDRESS), timeout=60) as http:
        know(http.get(f"{url}/openapi.json").json())


def know(document: dict[str, Any]) -> None:
    """Hold answers against this document from now on."""
    paths.clear()
    shared.update(document["components"]["responses"])
    for path, ways in sorted(document["paths"].items(), key=lambda pair: pair[0].count("{")):
        paths.append((re.compile(re.sub(r"\{(\w+)\}", _pattern, path)), ways))


def _pattern(part: re.Match[str]) -> str:
    return ".+" if part[1] == "path" else "[^/]+"


def undocumented(answer: httpx.Response) -> str | None:
    """Say what of an answer the document does not have; None if all is there, or if the path is none of the document's."""
    request = answer.request
    ways = next((ways for pattern, ways in paths if pattern.fullmatch(request.url.path)), None)
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
