"""The service's own address: the public URL if one is set, otherwise the Host header if that names an allowed host.

Addresses in answers (the next page, a share link) are built here. The sender chooses the Host header: if it names neither
this machine nor an allowed host, it is not repeated and the address is relative.
"""

import ipaddress
import socket
from functools import lru_cache
from urllib.parse import urlsplit

from starlette.datastructures import URL
from starlette.requests import Request

from app.core.settings import get_settings


def public_origin(request: Request) -> str:
    """Return scheme, host and port as callers know them, without a trailing slash; an empty string if they are unknown."""
    if public := get_settings().public_url:
        return public
    return f"{request.url.scheme}://{request.url.netloc}" if _is_allowed(request.url.hostname) else ""


def next_page_link(request: Request, token: str) -> str:
    """Return the Link header's value for the next page."""
    asked = URL(request.url.path + (f"?{request.url.query}" if request.url.query else ""))
    return f'<{public_origin(request)}{asked.include_query_params(page_token=token)}>; rel="next"'


def is_secure(request: Request) -> bool:
    """Return whether callers use TLS, according to the public URL or to a trusted proxy."""
    return (get_settings().public_url or "").startswith("https://") or request.url.scheme == "https"


def public_host() -> str | None:
    """Return host and port of the public URL, as in an Origin header."""
    public = get_settings().public_url
    return urlsplit(public).netloc if public else None


def _is_allowed(host: str | None) -> bool:
    """Return whether a Host header may be repeated: an IP address, this machine's name, or one of LATHE_ALLOWED_HOSTS."""
    if not host:
        return False
    try:
        return bool(ipaddress.ip_address(host))
    except ValueError:
        return host in {"localhost", _own_name(), *get_settings().hosts}


@lru_cache
def _own_name() -> str:
    return socket.gethostname().lower()
