"""/metrics for Prometheus. It covers all teams, so it needs its own token, or an admin key of the operating team.

The client's address proves nothing: a local proxy has this machine's address, and not every proxy names its client.
"""

import hmac

from fastapi import APIRouter, Request, Response
from prometheus_client.exposition import choose_encoder

from app.accounts.auth import recognize_key
from app.api.dependencies import SettingsDep
from app.api.openapi import problems
from app.core.errors import Unauthorized
from app.core.settings import Settings
from app.ops.metrics import registry
from app.store.models import ADMIN

router = APIRouter(tags=["health"])
FIGURES = {media: {"schema": {"type": "string"}} for media in ("text/plain", "application/openmetrics-text")}


def _admit(request: Request, settings: Settings) -> None:
    """Raise Unauthorized unless the request has the token or an admin key of the operating team."""
    kind, _, token = request.headers.get("authorization", "").partition(" ")
    sent = token.strip() if kind.lower() == "bearer" else ""
    wanted = settings.metrics_token.get_secret_value() if settings.metrics_token else ""
    if wanted and hmac.compare_digest(sent.encode(), wanted.encode()):
        return
    caller = recognize_key(request, sent)
    if caller is None or caller.scope != ADMIN or not caller.operator:
        raise Unauthorized(
            "/metrics wants its own token, or an admin key of the operating team",
            remedy="Set LATHE_METRICS_TOKEN and send its value as `Authorization: Bearer`.",
        )


@router.get("/metrics", response_class=Response, responses={200: {"content": FIGURES}, **problems(Unauthorized)})
def metrics(request: Request, settings: SettingsDep) -> Response:
    """Return all metrics in Prometheus's text format, or as OpenMetrics if requested."""
    _admit(request, settings)
    encode, media = choose_encoder(request.headers.get("accept", ""))
    return Response(encode(registry()), media_type=media, headers={"Cache-Control": "no-store"})
