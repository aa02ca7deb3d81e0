"""Traces of requests and of jobs' stages, if LATHE_TRACES is set (extra `otel`); otherwise nothing is imported or done.

A job's row keeps the `traceparent` of the request that created it, so a worker's spans hours later belong to that request.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from app.core.settings import get_settings
from compression.schema.extras import pip_install

if TYPE_CHECKING:
    from opentelemetry.context import Context
    from opentelemetry.sdk.trace import SpanProcessor, TracerProvider
    from opentelemetry.trace import Span, Tracer

OTLP, FILE = "otlp", "file:"
PARENT = "traceparent"

_provider: "TracerProvider | None" = None
_tracer: "Tracer | None" = None


class TracingUnavailable(Exception):
    """Tracing is requested, but the extra is not installed or the destination is invalid."""


def configure(process: str) -> None:
    """Start tracing if LATHE_TRACES is set. Raises TracingUnavailable."""
    global _provider, _tracer
    place = get_settings().traces
    if not place or _tracer is not None:
        return
    try:
        sdk, resources = import_module("opentelemetry.sdk.trace"), import_module("opentelemetry.sdk.resources")
        processor = _processor(place)
    except ImportError as error:
        raise TracingUnavailable(f"LATHE_TRACES is set, and {error.name} is not installed: {pip_install('otel')}") from error
    _provider = sdk.TracerProvider(resource=resources.Resource.create({"service.name": f"lathe-{process}"}))
    _provider.add_span_processor(processor)
    _tracer = _provider.get_tracer("lathe")


def _processor(place: str) -> "SpanProcessor":
    export = import_module("opentelemetry.sdk.trace.export")
    found: SpanProcessor
    if place == OTLP:  # OpenTelemetry's own variables say where to and how: OTEL_EXPORTER_OTLP_ENDPOINT and so on
        otlp = import_module("opentelemetry.exporter.otlp.proto.http.trace_exporter")
        found = export.BatchSpanProcessor(otlp.OTLPSpanExporter())
        return found
    if not place.startswith(FILE):
        raise TracingUnavailable(f"LATHE_TRACES is {place!r}; it must be `otlp` or `file:` and a path")
    path = Path(place.removeprefix(FILE).removeprefix("//"))
    out = path.open("a", encoding="utf-8", buffering=1)
    exporter = export.ConsoleSpanExporter(out=out, formatter=lambda span: span.to_json(indent=None) + "\n")
    found = export.SimpleSpanProcessor(exporter)
    return found


class SpanHandle:
    """A span, or nothing if tracing is off."""

    def __init__(self, span: "Span | None" = None) -> None:
        self.span = span

    def set_attributes(self, name: str | None = None, **attributes: Any) -> None:
        """Rename the span, or add attributes."""
        if self.span is not None:
            if name:
                self.span.update_name(name)
            self.span.set_attributes({f"lathe.{key}": value for key, value in attributes.items() if value is not None})

    def end(self, error: str | None = None) -> None:
        """End the span, with an error if there was one. Ending it twice has no effect."""
        if self.span is not None and self.span.is_recording():
            if error:
                trace = import_module("opentelemetry.trace")
                self.span.set_status(trace.Status(trace.StatusCode.ERROR, error))
            self.span.end()


def start_span(name: str, **attributes: Any) -> SpanHandle:
    """Start a span below the current one."""
    handle = SpanHandle(_tracer.start_span(name) if _tracer else None)
    handle.set_attributes(**attributes)
    return handle


@contextmanager
def span(name: str, parent: str | None = None, **attributes: Any) -> Iterator[SpanHandle]:
    """Trace the block. `parent` is a `traceparent` from elsewhere; without it the span is below the current one."""
    if _tracer is None:
        yield SpanHandle()
        return
    context = _context(parent) if parent else None
    with _tracer.start_as_current_span(name, context=context) as started:
        handle = SpanHandle(started)
        handle.set_attributes(**attributes)
        yield handle


def current_traceparent() -> str | None:
    """Return the `traceparent` of the current span; None without one."""
    if _tracer is None:
        return None
    carrier: dict[str, str] = {}
    _propagator().inject(carrier)
    return carrier.get(PARENT)


def trace_fields() -> dict[str, str]:
    """Return the log fields that identify the current span."""
    found = current_traceparent()
    return {"trace_id": found.split("-")[1]} if found else {}


def flush() -> None:
    """Export finished spans, because this process may be killed."""
    if _provider is not None:
        _provider.force_flush(2000)


def _context(parent: str) -> "Context":
    context: Context = _propagator().extract({PARENT: parent})
    return context


def _propagator() -> Any:
    return import_module("opentelemetry.trace.propagation.tracecontext").TraceContextTextMapPropagator()
