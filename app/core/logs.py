"""Structured logs, one JSON object a line on stderr, the same in API, workers and keeper; libraries' lines too.

A line of a request carries its `request_id`; one of a job's attempt carries the job, its fence and the id of the request that
made the job; both carry `trace_id` where traces are on.
"""

import logging
import sys

import structlog
from structlog.typing import EventDict, Processor, WrappedLogger

from app.core import traces

SHARED: list[Processor] = [
    structlog.contextvars.merge_contextvars,
    structlog.processors.add_log_level,
    structlog.processors.TimeStamper(fmt="iso", utc=True),
    structlog.processors.format_exc_info,
]


MOST_ALIKE = 20
"""Lines that one place in a library may log in ALIKE_SECONDS; those above it are counted, and told with the next."""
ALIKE_SECONDS = 10.0


class FloodFilter(logging.Filter):
    """Bounds what libraries log of one kind: what strangers send must not fill the disk on which the database lies."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: dict[tuple[str, str, int], tuple[float, int]] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        """Say whether a line is written; the first after some that were not says how many."""
        place = (record.name, record.pathname, record.lineno)
        since, number = self.seen.get(place, (record.created, 0))
        if record.created - since >= ALIKE_SECONDS:
            if number > MOST_ALIKE:
                record.msg = f"{record.getMessage()} [{number - MOST_ALIKE} more like it were left out]"
                record.args = None
            since, number = record.created, 0
        self.seen[place] = (since, number + 1)
        return number < MOST_ALIKE


def configure(process: str) -> None:
    """Set up structlog and write the standard library's lines in the same form to the same stream."""
    handler = logging.StreamHandler(sys.stderr)
    handler.addFilter(FloodFilter())
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=[*SHARED, _name], processors=[_plain, structlog.processors.JSONRenderer()]
        )
    )
    logging.captureWarnings(True)
    logging.basicConfig(level=logging.WARNING, handlers=[handler])
    # uvicorn has handlers of its own. Its line a request says less than ours, but whole addresses, and a shared link is secret.
    ours, requests = logging.getLogger("uvicorn"), logging.getLogger("uvicorn.access")
    ours.handlers.clear()
    ours.propagate = True
    requests.handlers.clear()
    requests.propagate = False
    structlog.configure(
        processors=[*SHARED, structlog.processors.JSONRenderer()],
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
        wrapper_class=structlog.make_filtering_bound_logger(logging.INFO),
    )
    structlog.contextvars.bind_contextvars(process=process)
    traces.configure(process)


def request_id() -> str | None:
    """Return the id of the request that is being answered; None outside of one."""
    found = structlog.contextvars.get_contextvars().get("request_id")
    return str(found) if found else None


def _name(_: WrappedLogger, __: str, event: EventDict) -> EventDict:
    record = event.get("_record")
    if isinstance(record, logging.LogRecord):
        event["logger"] = record.name
    return event


def _plain(logger: WrappedLogger, name: str, event: EventDict) -> EventDict:
    return structlog.stdlib.ProcessorFormatter.remove_processors_meta(logger, name, event)
