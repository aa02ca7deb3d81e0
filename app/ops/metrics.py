"""Metrics. Each process counts its own requests; everything else is read from the database.

Several API processes of one host (uvicorn --workers) are summed if PROMETHEUS_MULTIPROC_DIR names a folder that is empty at
their start: prometheus-client's own way. Figures from the database are the same in every process.
"""

import os
import threading
import time
from collections import Counter as Counted
from collections.abc import Iterable, Iterator
from typing import Any

import structlog
from prometheus_client import CollectorRegistry, Counter, Histogram, ProcessCollector
from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.multiprocess import MultiProcessCollector
from prometheus_client.registry import Collector
from sqlalchemy import case, func, select
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.orm import Session
from starlette.types import Scope

from app.core.failures import FAILURES
from app.store.broker import CHECKS, JOBS, LANES
from app.store.clock import now
from app.store.db import reading
from app.store.models import JOB_STATES, QUEUED, TERMINAL, Dataset, Event, Job, Leader, Metric as StageRow, Model, Worker
from compression.schema.errors import ALL_ERRORS

log = structlog.get_logger()
FRESH_SECONDS = 5.0
"""Minimum time between two reads of the database, however many scrape."""
SEEN_SECONDS = 600.0
"""A worker that was silent for so long is no longer reported; the alert fires before."""
ALIVE_SECONDS = 60.0
STAGE_BUCKETS = (10, 30, 60, 300, 900, 1800, 3600, 10800, 36000)
REQUEST_BUCKETS = (0.002, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 10)
LOST = "worker_lost"
CODES = frozenset(FAILURES) | {error.code for error in ALL_ERRORS}
"""Failure codes that become labels: a hostile engine could send any code, and each would become a time series."""

process_registry = CollectorRegistry()
ProcessCollector(registry=process_registry)
requests = Counter(
    "lathe_http_requests", "Requests, by route, method and status.", ("method", "route", "status"), registry=process_registry
)
seconds = Histogram(
    "lathe_http_request_seconds",
    "Until a response began. Without requests that asked to wait (Prefer: wait).",
    ("method", "route"),
    buckets=REQUEST_BUCKETS,
    registry=process_registry,
)
refused = Counter(
    "lathe_connections_refused",
    "Connections closed by us, by reason: total, address, files (before a request); headers, body (too slow); "
    "answer (not read); malformed.",
    ("reason",),
    registry=process_registry,
)
METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
"""Other methods are counted as OTHER, so that nobody can create time series."""


def count_response(scope: Scope, status: int, began: float | None, waited: bool) -> str:
    """Count a response; return the route.

    status: 0, reported as 499, if the client disconnected before the response began; began: seconds until it began.
    """
    route = str(getattr(scope.get("route"), "path", None) or "other")
    method = scope["method"] if scope["method"] in METHODS else "OTHER"
    requests.labels(method, route, str(status or 499)).inc()
    if began is not None and not waited:
        seconds.labels(method, route).observe(began)
    return route


class DatabaseCollector(Collector):
    """Figures from the database, read again after FRESH_SECONDS. If it is away, only its figures are missing."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.collected_at = -FRESH_SECONDS
        self.families: list[Metric] = []

    def describe(self) -> Iterable[Metric]:
        """Return nothing, so that registration reads nothing."""
        return []

    def collect(self) -> Iterator[Metric]:
        """Yield the last figures, and whether the database answered."""
        with self.lock:
            if time.monotonic() - self.collected_at >= FRESH_SECONDS:
                self.families = _collect_families()
                self.collected_at = time.monotonic()
            yield from self.families


database_collector = DatabaseCollector()


def registry() -> CollectorRegistry:
    """Return all metrics."""
    if "PROMETHEUS_MULTIPROC_DIR" in os.environ:
        every = CollectorRegistry()
        MultiProcessCollector(every)  # type: ignore[no-untyped-call]
    else:
        every = process_registry
    whole = CollectorRegistry()
    for part in (every, database_collector):
        whole.register(_Part(part))
    return whole


class _Part(Collector):
    """A registry or a collector as part of another registry."""

    def __init__(self, part: CollectorRegistry | Collector) -> None:
        self.part = part

    def describe(self) -> Iterable[Metric]:
        return []

    def collect(self) -> Iterable[Metric]:
        return self.part.collect()


def _collect_families() -> list[Metric]:
    up = GaugeMetricFamily("lathe_database_up", "Whether the database answered last time.")
    try:
        with reading() as session:
            found = [*_jobs(session), *_queues(session), *_stages(session), *_setbacks(session), *_workers(session)]
    except SQLAlchemyError as error:
        log.warning("metrics_without_database", error=str(error))
        up.add_metric((), 0)
        return [up]
    up.add_metric((), 1)
    return [up, *found]


def _jobs(session: Session) -> Iterator[Metric]:
    there, over = (
        GaugeMetricFamily("lathe_jobs", "Existing jobs, by state.", labels=("state",)),
        CounterMetricFamily("lathe_jobs_finished", "Jobs that ended, including deleted ones, by outcome.", labels=("outcome",)),
    )
    counted = {
        (state, gone): number
        for state, gone, number in session.execute(
            select(Job.state, Job.deleted_at.is_not(None), func.count()).group_by(Job.state, Job.deleted_at.is_not(None))
        )
    }
    for state in JOB_STATES:
        there.add_metric((state,), counted.get((state, False), 0))
    for state in TERMINAL:
        over.add_metric((state,), counted.get((state, False), 0) + counted.get((state, True), 0))
    yield from (there, over)


def _queues(session: Session) -> Iterator[Metric]:
    depth = GaugeMetricFamily("lathe_queue_depth", "What waits for a worker, by lane.", labels=("lane",))
    oldest = GaugeMetricFamily("lathe_queue_oldest_seconds", "How long the oldest of a lane has waited.", labels=("lane",))
    waits: dict[str, list[Any]] = {
        JOBS: [select(func.count(), func.min(Job.created_at)).where(Job.state == QUEUED)],
        CHECKS: [
            select(func.count(), func.min(kind.created_at)).where(kind.state == "validating", kind.deleted_at.is_(None))
            for kind in (Model, Dataset)
        ],
    }
    moment = session.scalar(select(now()))
    for lane in LANES:
        found = [session.execute(query).one() for query in waits[lane]]
        since = [first for _, first in found if first is not None]
        depth.add_metric((lane,), sum(number for number, _ in found))
        oldest.add_metric((lane,), max((moment - min(since)).total_seconds(), 0.0) if since and moment else 0.0)
    keeper = GaugeMetricFamily("lathe_keeper_seconds", "Remaining time of the keeper's term; negative: time since its end.")
    until = session.scalar(select(Leader.until).where(Leader.office == "keeper"))
    if until is not None and moment is not None:
        keeper.add_metric((), (until - moment).total_seconds())
    yield from (depth, oldest, keeper)


def _stages(session: Session) -> Iterator[Metric]:
    family = HistogramMetricFamily(
        "lathe_stage_seconds", "Duration of finished stages, with export and measuring.", labels=("stage",)
    )
    within = [func.sum(case((StageRow.seconds <= bound, 1), else_=0)) for bound in STAGE_BUCKETS]
    query = select(StageRow.stage, func.count(), func.sum(StageRow.seconds), *within)
    for stage, number, total, *counts in session.execute(
        query.where(StageRow.seconds.is_not(None)).group_by(StageRow.stage).order_by(StageRow.stage)
    ):
        buckets = [(str(float(bound)), float(count)) for bound, count in zip(STAGE_BUCKETS, counts, strict=True)]
        family.add_metric((stage,), [*buckets, ("+Inf", float(number))], float(total))
    yield family


def _setbacks(session: Session) -> Iterator[Metric]:
    again, failed, lost = (
        CounterMetricFamily("lathe_setbacks", "Attempts that ended without an outcome and are repeated.", labels=("code",)),
        CounterMetricFamily("lathe_jobs_failed", "Jobs that failed, by code.", labels=("code",)),
        CounterMetricFamily("lathe_lease_losses", "Attempts whose worker was lost: killed, cut off or suspended."),
    )
    codes = {}
    for family, code, chosen in (
        (again, Event.data["code"].as_string(), Event.type == "requeued"),
        (failed, Job.error["code"].as_string(), Job.state == "failed"),
    ):
        each = select(code.label("code")).where(chosen).subquery()
        rows = session.execute(select(each.c.code, func.count()).group_by(each.c.code)).tuples()
        found: Counted[str] = Counted()
        for code, number in rows:
            found[code if code in CODES else "unknown"] += number
        codes[family.name] = found
        for name, number in sorted(found.items()):
            family.add_metric((name,), number)
    lost.add_metric((), sum(found.get(LOST, 0) for found in codes.values()))
    yield from (again, failed, lost)


def _workers(session: Session) -> Iterator[Metric]:
    who = ("worker", "kind", "host")
    alive = GaugeMetricFamily("lathe_workers", f"Workers seen within {ALIVE_SECONDS:g} s, by kind.", labels=("kind",))
    devices = GaugeMetricFamily("lathe_devices", "Live workers of jobs by device.", labels=("device", "confinement"))
    age = GaugeMetricFamily("lathe_worker_heartbeat_age_seconds", "Time since a worker was last seen.", labels=who)
    memory = GaugeMetricFamily("lathe_worker_memory_bytes", "Memory that a job may use on a worker.", labels=who)
    drains = GaugeMetricFamily("lathe_worker_draining", "1 if a worker takes no more jobs.", labels=who)
    moment = session.scalar(select(now()))
    counted: dict[str, int] = dict.fromkeys(LANES, 0)
    computing: dict[tuple[str, str], int] = {}
    for worker in session.scalars(select(Worker).where(Worker.seen_at > now(-SEEN_SECONDS)).order_by(Worker.id)):
        silent = max((moment - worker.seen_at).total_seconds(), 0.0) if moment else 0.0
        names = (worker.id, worker.kind, worker.host)
        age.add_metric(names, silent)
        memory.add_metric(names, float(worker.facts.get("memory_bytes") or 0))
        drains.add_metric(names, float(worker.drain))
        if silent <= ALIVE_SECONDS:
            counted[worker.kind] = counted.get(worker.kind, 0) + 1
            if worker.kind == JOBS:
                for device in worker.facts.get("devices") or ["CPU"]:
                    place = (str(device), str(worker.facts.get("confinement") or "unknown"))
                    computing[place] = computing.get(place, 0) + 1
    for kind, number in counted.items():
        alive.add_metric((kind,), number)
    for place, number in sorted(computing.items()):
        devices.add_metric(place, number)
    yield from (alive, devices, age, memory, drains)
