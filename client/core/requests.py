"""Requests and lists of the service's own paths, whose answers are typed objects."""

from typing import Any, TypeVar

import httpx
from pydantic import BaseModel

from client import types
from client.core.protocol import PATIENT, Listing, Request, read

T = TypeVar("T", bound=BaseModel)


def request(method: str, path: str, kind: type[T], body: Any = None, **options: Any) -> Request[T]:
    """Return a request whose answer is a typed object."""
    return Request(method, f"/v1/{path}", lambda response: read(kind, response), body=body, **options)


def listing(path: str, kind: type[T], **params: Any) -> Listing[T]:
    """Return a list of typed objects."""
    return Listing(f"/v1/{path}", lambda item: types.parse(kind, item), params)


def held(seconds: float) -> dict[str, Any]:
    """Return the options of a request that the service may hold back; the connection waits a little longer than the service."""
    if seconds <= 0:
        return {}
    return {"headers": {"Prefer": f"wait={max(1, round(seconds))}"}, "timeout": seconds + 30.0, "attempts": PATIENT}


def ignored(_response: httpx.Response) -> None:
    """Read nothing of an answer: that it came is enough."""
