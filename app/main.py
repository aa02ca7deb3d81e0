"""The application, which server.py serves."""

from fastapi import Depends

from app.accounts.audit import AuditMiddleware
from app.accounts.rate_limits import RateLimitMiddleware
from app.api import exception_handlers
from app.api.dependencies import refuse_unknown_parameters
from app.api.middleware import BodyLimit, ErrorMiddleware, NulFilter, RequestContext, SecurityHeaders
from app.api.openapi import DocumentedApi, operation_id
from app.api.routes import (
    artifacts,
    audit,
    compare,
    described_devices,
    device_tables,
    devices,
    fleet,
    health,
    jobs,
    keys,
    metrics,
    predictions,
    profiles,
    quotas,
    reference,
    resources,
    shares,
    targets,
    teams,
)
from app.core import logs
from app.core.settings import Settings, get_settings
from app.pages.dashboard import (
    assets,
    compare as compare_page,
    fleet as fleet_page,
    job as job_page,
    jobs as jobs_page,
    keys as keys_page,
    new as new_page,
    predictions as try_page,
    routes as dashboard,
    views,
)
from app.pages.report_page import routes as report_page

DESCRIPTION = "Compression as a service: POST a model, its data and a recipe; poll; download what was measured."


def create_app(settings: Settings) -> DocumentedApi:
    """Assemble the routes, the problem documents and the middleware."""
    logs.configure("api")
    # FastAPI's own schema pages load scripts from a CDN, which would run in signed-in browsers; our pages load none.
    app = DocumentedApi(
        title="Lathe",
        version="1",
        description=DESCRIPTION,
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,  # such an address would repeat the sender's Host header
        generate_unique_id_function=operation_id,
        dependencies=[Depends(refuse_unknown_parameters)],
    )
    exception_handlers.install(app)
    app.state.error_page = views.problem_page
    for router in (
        resources.models,
        resources.datasets,
        jobs.router,
        report_page.router,
        predictions.router,
        targets.router,
        shares.router,
        report_page.shared,
        compare.router,
        fleet.router,
        quotas.router,
        artifacts.router,
        devices.router,
        described_devices.router,
        device_tables.router,
        profiles.router,
        reference.router,
        keys.router,
        teams.router,
        audit.router,
        health.router,
        assets.router,
        dashboard.router,
        jobs_page.router,
        job_page.router,
        new_page.router,
        compare_page.router,
        try_page.router,
        fleet_page.router,
        keys_page.router,
        metrics.router,
    ):
        app.include_router(router)
    app.add_middleware(AuditMiddleware)
    app.add_middleware(BodyLimit, limit=settings.max_body_bytes)
    app.add_middleware(NulFilter)
    app.add_middleware(ErrorMiddleware)
    app.add_middleware(RateLimitMiddleware)
    app.add_middleware(SecurityHeaders, over_tls=(settings.public_url or "").startswith("https://"))
    app.add_middleware(RequestContext)
    return app


app = create_app(get_settings())
