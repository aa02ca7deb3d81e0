"""Problem documents as raw bytes, for what is refused before there is a request: same form, same security headers."""

import http

from app.core.errors import Problem, problem_body
from app.core.ids import new_id

SECURITY_HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
}
"""Browsers respect the content type, and hide our addresses from other sites."""


def response_parts(problem: Problem) -> tuple[list[tuple[bytes, bytes]], bytes]:
    """Return headers and body of a problem whose response ends its connection."""
    request_id = new_id("req")
    body = problem_body(problem, request_id)
    headers = {
        "Content-Type": "application/problem+json",
        "Content-Length": str(len(body)),
        "Connection": "close",
        "X-Request-Id": request_id,
        **SECURITY_HEADERS,
        **problem.all_headers,
    }
    return [(name.encode(), value.encode()) for name, value in headers.items()], body


def raw_response(problem: Problem) -> bytes:
    """Return the complete response as HTTP/1.1."""
    headers, body = response_parts(problem)
    start = f"HTTP/1.1 {problem.status} {http.HTTPStatus(problem.status).phrase}\r\n".encode()
    return start + b"".join(name + b": " + value + b"\r\n" for name, value in headers) + b"\r\n" + body
