"""A service over a network that is not to be relied on."""

import json
from dataclasses import dataclass, field

from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, Response, StreamingResponse

JOB = {"id": "job_1", "name": "j", "state": "queued", "version": 1, "created_at": "2026-01-01T00:00:00Z", "from_the_future": 1}


@dataclass
class Flaky:
    """Answers each POST /v1/jobs with the next of `answers` (None: breaks the connection), then with a job."""

    answers: list[Response | None] = field(default_factory=list)
    keys: list[str | None] = field(default_factory=list)
    events: list[list[str]] = field(default_factory=list)
    resumed_at: list[str | None] = field(default_factory=list)

    def app(self) -> FastAPI:
        app = FastAPI()

        @app.post("/v1/{noun}")
        async def create(request: Request) -> Response:
            self.keys.append(request.headers.get("idempotency-key"))
            if not self.answers:
                return JSONResponse(JOB, 202)
            answer = self.answers.pop(0)
            if answer is None:

                async def broken() -> object:
                    raise ConnectionAbortedError
                    yield b""

                return StreamingResponse(broken(), headers={"Content-Length": "10"})
            return answer

        @app.get("/v1/jobs/job_1")
        async def job() -> dict[str, object]:
            return {**JOB, "state": "running" if self.events else "succeeded"}

        @app.get("/v1/jobs/job_1/events")
        async def stream(request: Request) -> Response:
            if "text/event-stream" not in request.headers["accept"]:
                return JSONResponse({"items": [], "next_page_token": None})
            self.resumed_at.append(request.headers.get("last-event-id"))
            return Response("".join(self.events.pop(0)), media_type="text/event-stream")

        return app


def event(seq: int) -> str:
    data = json.dumps({"seq": seq, "at": "2026-01-01T00:00:00Z", "data": {"message": f"m{seq}"}})
    return f"id: {seq}\nevent: log\ndata: {data}\n\n"
