"""Structured logs: one JSON object per line on stderr, the same in API, workers and keeper, for libraries' lines too.

A line about a request has its `request_id`; a line about an attempt has the job, its fence and the id of the request that
created the job. Both have a `trace_id` if tracing is on.
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
"""Lines that one place in a library may log in ALIKE_SECONDS. Further lines are counted, and the next line gives the count."""
ALIKE_SECONDS = 10.0


class FloodFilter(logging.Filter):
    """Limits similar lines of libraries, so that requests from outside cannot fill the disk with log lines."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: dict[tuple[str, str, int], tuple[float, int]] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        """Return whether to write a line. The first line after suppressed ones gives their number."""
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
    """Set up structlog, and write the standard library's log lines in the same form to the same stream."""
    handler = logging.StreamHandler(sys.stderr)
    handler.addFilter(FloodFilter())
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=[*SHARED, _name], processors=[_plain, structlog.processors.JSONRenderer()]
        )
    )
    logging.captureWarnings(True)
    logging.basicConfig(level=logging.WARNING, handlers=[handler])
    # uvicorn has its own handlers. Its access log says less than ours, but has whole addresses, and a share link is secret.
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
    """Return the id of the current request; None outside a request."""
    found = structlog.contextvars.get_contextvars().get("request_id")
    return str(found) if found else None


def _name(_: WrappedLogger, __: str, event: EventDict) -> EventDict:
    record = event.get("_record")
    if isinstance(record, logging.LogRecord):
        event["logger"] = record.name
    return event


def _plain(logger: WrappedLogger, name: str, event: EventDict) -> EventDict:
    return structlog.stdlib.ProcessorFormatter.remove_processors_meta(logger, name, event)
