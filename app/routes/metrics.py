"""/metrics for Prometheus. It tells of all teams, so it wants a token of its own, or a caller on this very machine."""

import hmac
import ipaddress

from fastapi import APIRouter, Request, Response
from prometheus_client.exposition import choose_encoder

from app.deps import SettingsDep
from app.errors import Unauthorized
from app.metrics import registry
from app.settings import Settings

router = APIRouter(tags=["health"])
PASSED_ON = ("forwarded", "x-forwarded-for", "x-real-ip")
"""Headers of a proxy: who asked it may be anywhere, though the connection comes from here."""


def _admit(request: Request, settings: Settings) -> None:
    """Raises Unauthorized for who has no token and does not ask from this machine."""
    if settings.metrics_token is not None:
        kind, _, token = request.headers.get("authorization", "").partition(" ")
        wanted = settings.metrics_token.get_secret_value().encode()
        if kind.lower() == "bearer" and hmac.compare_digest(token.strip().encode(), wanted):
            return
        raise Unauthorized(
            "/metrics wants its own token", remedy="Send `Authorization: Bearer` with the value of LATHE_METRICS_TOKEN."
        )
    if not _is_here(request):
        raise Unauthorized(
            "/metrics without a token answers this machine alone",
            remedy="Set LATHE_METRICS_TOKEN and send it as `Authorization: Bearer`.",
        )


def _is_here(request: Request) -> bool:
    """Not every proxy says for whom it asks, but it asks for the host that it was asked for."""
    if request.client is None or any(name in request.headers for name in PASSED_ON):
        return False
    return _is_loopback(request.client.host) and (request.url.hostname == "localhost" or _is_loopback(request.url.hostname))


def _is_loopback(host: str | None) -> bool:
    try:
        return ipaddress.ip_address(host or "").is_loopback
    except ValueError:
        return False


@router.get("/metrics", response_class=Response)
def metrics(request: Request, settings: SettingsDep) -> Response:
    """All figures in Prometheus's text format, or OpenMetrics for who asks for it."""
    _admit(request, settings)
    encode, media = choose_encoder(request.headers.get("accept", ""))
    return Response(encode(registry()), media_type=media, headers={"Cache-Control": "no-store"})
