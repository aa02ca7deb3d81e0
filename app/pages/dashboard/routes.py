"""Sign-in and sign-out, the redirect from / to the jobs, and the pages of endpoints and errors."""

import re

from fastapi import APIRouter, Request, Response
from fastapi.responses import RedirectResponse

from app.accounts import audit, auth, rate_limits, sessions
from app.api.dependencies import SessionDep, SettingsDep
from app.core.errors import ALL_PROBLEMS
from app.core.failures import FAILURES
from app.pages.dashboard.views import FormDep, PageRoute, SignInNeeded, get_visitor, render
from app.store.models import READ
from compression.schema.errors import ALL_ERRORS

router = APIRouter(include_in_schema=False, route_class=PageRoute)
_OURS = re.compile(r"/(?![/\\])[^\x00-\x20\\]*")


SIGNS_IN = auth.Requires(READ)
"""Pages need scope read; a device key has no use for them."""


def destination(asked: str) -> str:
    """Return the path to open after sign-in; never another host."""
    return asked if _OURS.fullmatch(asked) else "/jobs"


@router.get("/")
def home() -> Response:
    """Redirect to the jobs."""
    return RedirectResponse("/jobs", 303)


@router.get("/docs")
def docs(request: Request) -> Response:
    """List every endpoint of the API; no sign-in needed."""
    paths = request.app.openapi()["paths"].items()
    ways = [(method.upper(), path, way) for path, methods in paths for method, way in methods.items()]
    return render(request, "docs.html", _visitor_if_any(request), ways=ways)


@router.get("/docs/errors")
def error_codes(request: Request) -> Response:
    """Explain every error code; a problem's `type` links here."""
    kinds = [
        ("Requests", [(kind.code, kind.status, kind.__doc__, kind.remedy) for kind in ALL_PROBLEMS]),
        (
            "Models, datasets and recipes: status 422, or a job's error",
            [(kind.code, None, kind.__doc__, kind.remedy) for kind in ALL_ERRORS],
        ),
        ("Machine", [(code, None, cause, remedy) for code, (cause, remedy) in FAILURES.items()]),
    ]
    return render(request, "errors.html", _visitor_if_any(request), kinds=kinds)


def _visitor_if_any(request: Request) -> sessions.Visitor | None:
    try:
        return get_visitor(request)
    except SignInNeeded:
        return None


@router.get("/sign-in")
def sign_in_page(request: Request, next: str = "") -> Response:  # noqa: A002 (it is what the address says)
    """Show the sign-in form."""
    try:
        get_visitor(request)
    except SignInNeeded:
        return render(request, "signin.html", next=destination(next), wrong=False)
    return RedirectResponse(destination(next), 303)


@router.post("/sign-in")
def sign_in(request: Request, form: FormDep, settings: SettingsDep, session: SessionDep) -> Response:
    """Exchange a key for a session cookie."""
    sessions.check_origin(request)
    target = destination(form.get("next", ""))
    key = form.get("key", "").strip()
    rate_limits.admit_form(request, key)
    caller = auth.recognize_key(request, key)
    if caller is None:
        return render(request, "signin.html", status=401, next=target, wrong=True)
    audit.begin_action(request, caller.team, caller.key, changes=True, action="sessions.begin")
    SIGNS_IN.check(request, caller)
    if old := sessions.read_cookie(request):
        sessions.sign_out(session, old)
    token = sessions.sign_in(session, caller.key, settings.session_seconds)
    answer = RedirectResponse(target, 303)
    sessions.set_cookie(answer, request, token, settings.session_seconds)
    rate_limits.remember_session(token)
    return answer


@router.post("/sign-out")
def sign_out(request: Request, form: FormDep, session: SessionDep) -> Response:
    """End the session in the browser and in the database."""
    visitor = get_visitor(request)
    audit.begin_action(request, visitor.team, visitor.key, changes=True, action="sessions.end")
    sessions.check_csrf(visitor, form.get(sessions.CSRF_FIELD))
    sessions.sign_out(session, sessions.read_cookie(request) or "")
    answer = RedirectResponse("/sign-in", 303)
    sessions.delete_cookie(answer, request)
    return answer
