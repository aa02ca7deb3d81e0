"""/metrics for Prometheus. It tells of all teams, so it wants a token of its own, unless a setting opens it to everybody.

Where a request comes from decides nothing: behind a proxy, every stranger comes from the proxy's address.
"""

import hmac

from fastapi import APIRouter, Request, Response
from prometheus_client.exposition import choose_encoder

from app.deps import SettingsDep
from app.errors import Unauthorized
from app.metrics import registry
from app.settings import Settings

router = APIRouter(tags=["health"])


def _admit(request: Request, settings: Settings) -> None:
    """Raises Unauthorized for who has no token."""
    if settings.metrics_token is None:
        if settings.metrics_open:
            return
        raise Unauthorized(
            "/metrics is closed: no token is set",
            remedy="Set LATHE_METRICS_TOKEN and send it as `Authorization: Bearer`, or set LATHE_METRICS_OPEN=true.",
        )
    kind, _, token = request.headers.get("authorization", "").partition(" ")
    wanted = settings.metrics_token.get_secret_value().encode()
    if kind.lower() != "bearer" or not hmac.compare_digest(token.strip().encode(), wanted):
        raise Unauthorized(
            "/metrics wants its own token", remedy="Send `Authorization: Bearer` with the value of LATHE_METRICS_TOKEN."
        )


@router.get("/metrics", response_class=Response)
def metrics(request: Request, settings: SettingsDep) -> Response:
    """All figures in Prometheus's text format, or OpenMetrics for who asks for it."""
    _admit(request, settings)
    encode, media = choose_encoder(request.headers.get("accept", ""))
    return Response(encode(registry()), media_type=media, headers={"Cache-Control": "no-store"})
