"""/v1/jobs/{id}/try: predict with a finished job's models, before and after, on the same input."""

import asyncio
import datetime as dt
import json
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Header, Response
from fastapi.responses import JSONResponse
from pydantic import AfterValidator, Field

from app.accounts import audit
from app.accounts.auth import Caller
from app.api.dependencies import CallerDep, OnceDep, WriterDep
from app.api.idempotency import Once
from app.api.long_poll import change_poller, parse_wait
from app.api.openapi import problems
from app.core.errors import NothingToTry, ReportNotReady, TooManyTries
from app.core.redaction import redact_paths
from app.core.schemas import Out
from app.jobs import predictions
from app.store.db import reading, writing
from app.store.models import TERMINAL, Prediction
from compression.schema.prediction import Answered
from compression.schema.prediction_request import FILES, Question
from compression.schema.recipe.base import PartName

router = APIRouter(prefix="/v1/jobs/{job_id}/try", tags=["try"])
ASKING = problems(ReportNotReady, NothingToTry, TooManyTries)


class TryCreate(Question):
    """A request to a finished job's models: the texts that its task reads, or a row of its data."""

    part: Annotated[PartName, Field(description="Of several datasets, the one whose models are asked.")] = ""

    @property
    def asked(self) -> Question:
        """The input of the models."""
        return Question(**self.model_dump(exclude={"part"}))


class TryOut(Out):
    """A prediction request and, once it is done, both answers side by side with the time each took."""

    id: str
    job: str
    part: str
    asked: dict[str, Any]
    state: Literal["queued", "running", "succeeded", "failed"]
    result: Answered | None
    error: Annotated[dict[str, Any] | None, AfterValidator(redact_paths)]
    created_at: dt.datetime
    finished_at: dt.datetime | None


def _out(row: Prediction) -> TryOut:
    """Return a prediction's public fields; files that were asked about are left out."""
    asked = {name: value for name, value in row.asked.items() if name not in FILES}
    same = ("id", "part", "state", "result", "error", "created_at", "finished_at")
    return TryOut(job=row.job_id, asked=asked, **{name: getattr(row, name) for name in same})


def _read(team: str, job_id: str, try_id: str) -> TryOut:
    with reading() as session:
        return _out(predictions.get(session, team, job_id, try_id))


def _ask(caller: Caller, once: Once, job_id: str, body: TryCreate) -> Response:
    with writing() as session:
        made = once(
            session, caller, body, 202, lambda: _out(predictions.create(session, caller.team, job_id, body.part, body.asked))
        )
        audit.record_success(session, once.request)
        return made


async def _answered(team: str, job_id: str, try_id: str, prefer: str | None) -> TryOut:
    """Return the prediction; if it is not done, wait as long as preferred."""
    found = await asyncio.to_thread(_read, team, job_id, try_id)
    seconds = parse_wait(prefer)
    while seconds and found.state not in TERMINAL and await change_poller.changed("try", try_id, found.state, seconds):
        found = await asyncio.to_thread(_read, team, job_id, try_id)
        seconds /= 2  # its state changes twice: claimed, and done
    return found


@router.post("", status_code=202, response_model=TryOut, responses={200: {"model": TryOut}, **ASKING})
async def ask(
    job_id: str, body: TryCreate, caller: WriterDep, once: OnceDep, prefer: Annotated[str | None, Header()] = None
) -> Response:
    """Ask the baseline and the compressed model; a worker answers in a sandbox. `Prefer: wait=30` waits, and returns 200."""
    stored = await asyncio.to_thread(_ask, caller, once, job_id, body)
    if not parse_wait(prefer):
        return stored
    found = await _answered(caller.team, job_id, json.loads(bytes(stored.body))["id"], prefer)
    return JSONResponse(found.model_dump(mode="json"), 200 if found.state in TERMINAL else 202)


@router.get("/{try_id}", response_model=TryOut)
async def show(job_id: str, try_id: str, caller: CallerDep, prefer: Annotated[str | None, Header()] = None) -> TryOut:
    """Show a prediction request and, once it is done, its answers. `Prefer: wait=30` waits for them."""
    return await _answered(caller.team, job_id, try_id, prefer)
