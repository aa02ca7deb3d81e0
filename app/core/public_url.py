"""Where the service says that it is: the public address if one is set, and otherwise only what a Host header may name.

Addresses in answers (the next page, a share link) are built here. A Host header is what its sender likes: one that names
neither this machine nor an allowed host is not repeated, and the address is then relative, to be joined to the one asked.
"""

import ipaddress
import socket
from functools import lru_cache
from urllib.parse import urlsplit

from starlette.datastructures import URL
from starlette.requests import Request

from app.core.settings import get_settings


def public_origin(request: Request) -> str:
    """Return scheme, host and port as callers know them, without a slash at the end; nothing if we cannot know."""
    if public := get_settings().public_url:
        return public
    return f"{request.url.scheme}://{request.url.netloc}" if _is_allowed(request.url.hostname) else ""


def next_page_link(request: Request, token: str) -> str:
    """Return a Link header's value for the page after this one."""
    asked = URL(request.url.path + (f"?{request.url.query}" if request.url.query else ""))
    return f'<{public_origin(request)}{asked.include_query_params(page_token=token)}>; rel="next"'


def is_secure(request: Request) -> bool:
    """Say whether callers come over TLS: by the public address, or else by what a trusted proxy says."""
    return (get_settings().public_url or "").startswith("https://") or request.url.scheme == "https"


def public_host() -> str | None:
    """Return host and port of the public address, as an Origin header names them."""
    public = get_settings().public_url
    return urlsplit(public).netloc if public else None


def _is_allowed(host: str | None) -> bool:
    """Say whether a Host header may be repeated: an IP address, this machine's name, or one of LATHE_ALLOWED_HOSTS."""
    if not host:
        return False
    try:
        return bool(ipaddress.ip_address(host))
    except ValueError:
        return host in {"localhost", _own_name(), *get_settings().hosts}


@lru_cache
def _own_name() -> str:
    return socket.gethostname().lower()
