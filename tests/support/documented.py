"""Holds each answer that a test gets against the OpenAPI document: status, content type, headers, a problem's code."""

import re
from typing import Any

import httpx

OTHER_ADDRESS = "127.0.0.9"
"""Whence the document is asked for, so that no test's requests are counted together with that one."""
paths: list[tuple[re.Pattern[str], dict[str, Any]]] = []
"""A path's pattern and its operations, plain paths first; empty until `learn`."""
shared: dict[str, Any] = {}
"""Responses and headers that operations have in common."""


def learn(url: str) -> None:
    """Read the document of an API that is up, once a process."""
    if paths:
        return
    with httpx.Client(transport=httpx.HTTPTransport(local_address=OTHER_ADDRESS), timeout=60) as http:
        know(http.get(f"{url}/openapi.json").json())


def know(document: dict[str, Any]) -> None:
    """Hold answers against this document from now on."""
    paths.clear()
    shared.update({name: document["components"][name] for name in ("responses", "headers")})
    for path, ways in sorted(document["paths"].items(), key=lambda pair: pair[0].count("{")):
        paths.append((re.compile(re.sub(r"\{(\w+)\}", _pattern, path)), ways))


def _pattern(part: re.Match[str]) -> str:
    return ".+" if part[1] == "path" else "[^/]+"


def difference(answer: httpx.Response) -> str | None:
    """Say how an answer differs from the document; None if it does not, or if the path is none of the document's."""
    request = answer.request
    ways = next((ways for pattern, ways in paths if pattern.fullmatch(request.url.path)), None)
    if ways is None:
        return None
    way = ways.get(request.method.lower())
    if way is None:
        return None if answer.status_code in (400, 404, 405, 408, 413, 422, 429) else "undocumented method"
    said = way["responses"].get(str(answer.status_code))
    if said is None:
        return f"undocumented status {answer.status_code}"
    said = shared["responses"][said["$ref"].rsplit("/", 1)[1]] if "$ref" in said else said
    always = {name for name in said["headers"] if shared["headers"][name].get("required")}
    if missing := sorted(name for name in always if name not in answer.headers):
        return f"status {answer.status_code} without {', '.join(missing)}"
    kind = answer.headers.get("content-type", "").partition(";")[0]
    if request.method == "HEAD" or not kind:
        return None
    if kind not in said.get("content", {}):
        return f"undocumented {kind} with status {answer.status_code}"
    if kind == "application/problem+json":
        answer.read()
        code = answer.json()["code"]
        return None if code in said["x-problems"] else f"undocumented problem {code}"
    return None


def check(answer: httpx.Response) -> None:
    found = difference(answer)
    assert found is None, f"{answer.request.method} {answer.request.url.path} answered {found}"
