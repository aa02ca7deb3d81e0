"""Sign-in and sign-out, the way from / to the first page, and what the API offers."""

import re

from fastapi import APIRouter, Request, Response
from fastapi.responses import RedirectResponse

from app import auth, sessions
from app.dashboard.views import FormDep, PageRoute, SignInNeeded, get_visitor, render
from app.db import reading
from app.deps import SessionDep, SettingsDep

router = APIRouter(include_in_schema=False, route_class=PageRoute)
_OURS = re.compile(r"/(?![/\\])[^\x00-\x20\\]*")


def destination(asked: str) -> str:
    """Return where to go after sign-in: a path of ours, never another host."""
    return asked if _OURS.fullmatch(asked) else "/jobs"


@router.get("/")
def home() -> Response:
    """Go to the jobs."""
    return RedirectResponse("/jobs", 303)


@router.get("/docs")
def docs(request: Request) -> Response:
    """List every path of the API, for whoever asks: the schema is no secret."""
    try:
        visitor = get_visitor(request)
    except SignInNeeded:
        visitor = None
    paths = request.app.openapi()["paths"].items()
    ways = [(method.upper(), path, way) for path, methods in paths for method, way in methods.items()]
    return render(request, "docs.html", visitor, ways=ways)


@router.get("/sign-in")
def sign_in_page(request: Request, next: str = "") -> Response:  # noqa: A002 (it is what the address says)
    """Ask for a key."""
    try:
        get_visitor(request)
    except SignInNeeded:
        return render(request, "signin.html", next=destination(next), wrong=False)
    return RedirectResponse(destination(next), 303)


@router.post("/sign-in")
def sign_in(request: Request, form: FormDep, settings: SettingsDep, session: SessionDep) -> Response:
    """Take a key and give a cookie for it."""
    sessions.check_origin(request)
    target = destination(form.get("next", ""))
    with reading() as looked:
        caller = auth.authenticate(looked, form.get("key", "").strip())
    if caller is None:
        return render(request, "signin.html", status=401, next=target, wrong=True)
    if old := request.cookies.get(sessions.COOKIE):
        sessions.end(session, old)
    token = sessions.begin(session, caller.key, settings.session_seconds)
    answer = RedirectResponse(target, 303)
    sessions.remember(answer, request, token, settings.session_seconds)
    return answer


@router.post("/sign-out")
def sign_out(request: Request, form: FormDep, session: SessionDep) -> Response:
    """End the session, here and in the database."""
    visitor = get_visitor(request)
    sessions.check_csrf(visitor, form.get(sessions.CSRF_FIELD))
    sessions.end(session, request.cookies[sessions.COOKIE])
    answer = RedirectResponse("/sign-in", 303)
    sessions.forget(answer, request)
    return answer
