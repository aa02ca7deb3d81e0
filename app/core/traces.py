"""Traces of requests and of jobs' stages, for who asks for them (LATHE_TRACES, extra `otel`); else nothing is imported or done.

A job's row keeps the `traceparent` of the request that made it, so what workers do hours later hangs beneath that request.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from app.core.settings import get_settings

if TYPE_CHECKING:
    from opentelemetry.context import Context
    from opentelemetry.sdk.trace import SpanProcessor, TracerProvider
    from opentelemetry.trace import Span, Tracer

OTLP, FILE = "otlp", "file:"
PARENT = "traceparent"

_provider: "TracerProvider | None" = None
_tracer: "Tracer | None" = None


class TracingUnavailable(Exception):
    """Traces are asked for where the extra is not installed, or to a place that there is not."""


def configure(process: str) -> None:
    """Begin to trace where LATHE_TRACES says so. Raises Missing."""
    global _provider, _tracer
    place = get_settings().traces
    if not place or _tracer is not None:
        return
    try:
        sdk, resources = import_module("opentelemetry.sdk.trace"), import_module("opentelemetry.sdk.resources")
        processor = _processor(place)
    except ImportError as error:
        raise TracingUnavailable(
            f"LATHE_TRACES is set, and {error.name} is not installed: pip install 'lathe[otel]'"
        ) from error
    _provider = sdk.TracerProvider(resource=resources.Resource.create({"service.name": f"lathe-{process}"}))
    _provider.add_span_processor(processor)
    _tracer = _provider.get_tracer("lathe")


def _processor(place: str) -> "SpanProcessor":
    export = import_module("opentelemetry.sdk.trace.export")
    found: SpanProcessor
    if place == OTLP:  # where to, and how, say OpenTelemetry's own variables: OTEL_EXPORTER_OTLP_ENDPOINT and so on
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
    """A span, or nothing where traces are off."""

    def __init__(self, span: "Span | None" = None) -> None:
        self.span = span

    def set_attributes(self, name: str | None = None, **attributes: Any) -> None:
        """Give it another name, or say more of it."""
        if self.span is not None:
            if name:
                self.span.update_name(name)
            self.span.set_attributes({f"lathe.{key}": value for key, value in attributes.items() if value is not None})

    def end(self, error: str | None = None) -> None:
        """End it, with an error where there was one. Ending it again does nothing."""
        if self.span is not None and self.span.is_recording():
            if error:
                trace = import_module("opentelemetry.trace")
                self.span.set_status(trace.Status(trace.StatusCode.ERROR, error))
            self.span.end()


def start_span(name: str, **attributes: Any) -> SpanHandle:
    """Begin a span beneath the one that is at work."""
    stretch = SpanHandle(_tracer.start_span(name) if _tracer else None)
    stretch.set_attributes(**attributes)
    return stretch


@contextmanager
def span(name: str, parent: str | None = None, **attributes: Any) -> Iterator[SpanHandle]:
    """Trace what is done within. parent: a `traceparent` of elsewhere; without, the span that is at work here."""
    if _tracer is None:
        yield SpanHandle()
        return
    context = _context(parent) if parent else None
    with _tracer.start_as_current_span(name, context=context) as started:
        stretch = SpanHandle(started)
        stretch.set_attributes(**attributes)
        yield stretch


def current_traceparent() -> str | None:
    """Return the `traceparent` of the span that is at work; None where there is none."""
    if _tracer is None:
        return None
    carrier: dict[str, str] = {}
    _propagator().inject(carrier)
    return carrier.get(PARENT)


def trace_fields() -> dict[str, str]:
    """Return what a line of the log says of the span that is at work."""
    found = current_traceparent()
    return {"trace_id": found.split("-")[1]} if found else {}


def flush() -> None:
    """Send what has ended: a process that may be killed must not keep it."""
    if _provider is not None:
        _provider.force_flush(2000)


def _context(parent: str) -> "Context":
    context: Context = _propagator().extract({PARENT: parent})
    return context


def _propagator() -> Any:
    return import_module("opentelemetry.trace.propagation.tracecontext").TraceContextTextMapPropagator()
