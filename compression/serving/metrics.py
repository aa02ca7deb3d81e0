"""Metrics of `lathe serve` in Prometheus' text format."""

from collections.abc import Sequence

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, Info, ProcessCollector, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_LATEST
from starlette.responses import Response

from compression.serving.batcher import Batcher, Ran
from compression.serving.served_model import ServedModel

SECONDS = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5)
ROWS = (1, 2, 4, 8, 16, 32, 64, 128)


class Metrics:
    """What a server counts."""

    def __init__(self, model: ServedModel) -> None:
        self.registry = CollectorRegistry()
        own = self.registry
        ProcessCollector(registry=own)
        about = {"artifact": model.folder.name, "format": model.format.name, "task": model.task, "runtime": model.runner.name}
        Info("lathe_serve_model", "The artifact that is served.", registry=own).info(about)
        self.requests = Counter("lathe_serve_requests", "Requests to predict, by status.", ("status",), registry=own)
        self.seconds = _histogram("lathe_serve_seconds", "From a request's whole body to its answer.", SECONDS, own)
        self.batches = _histogram("lathe_serve_batch_rows", "Rows of a batch.", ROWS, own)
        self.computing = _histogram("lathe_serve_batch_seconds", "Time that the model took a batch.", SECONDS, own)
        self.waits = _histogram("lathe_serve_wait_seconds", "From a row's arrival to its batch.", SECONDS, own)
        self.waiting = Gauge("lathe_serve_waiting_rows", "Rows that wait for a batch.", registry=own)
        self.open = Gauge("lathe_serve_open_requests", "Requests to predict that are not answered yet.", registry=own)

    def ran(self, batch: Ran) -> None:
        """Count a batch."""
        self.batches.observe(batch.rows)
        self.computing.observe(batch.seconds)
        for wait in batch.waits:
            self.waits.observe(wait)

    def shown(self, batcher: Batcher, open_requests: int) -> Response:
        """Return all metrics as they are now."""
        self.waiting.set(batcher.waiting)
        self.open.set(open_requests)
        return Response(generate_latest(self.registry), media_type=CONTENT_TYPE_LATEST)


def _histogram(name: str, about: str, buckets: Sequence[float], registry: CollectorRegistry) -> Histogram:
    return Histogram(name, about, buckets=buckets, registry=registry)
