"""What workers offer a job: a device, the host's memory and a card's. Claims, forecasts of the queue and warnings go by it."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, Self

from sqlalchemy import ColumnElement, func, or_, select
from sqlalchemy.orm import Session

from app.store.broker import GPU_JOBS, JOBS, wake_after_commit
from app.store.clock import now
from app.store.models import Job, Worker
from compression.planning.estimator import Estimate
from compression.schema.worker_device import DeviceKind

ALIVE_SECONDS = 60.0
"""A worker that is silent for longer is offered nothing."""
ANY = "any"
Lack = Literal["worker", "device", "memory"]


@dataclass(frozen=True)
class Capacity:
    """What one worker offers; None: without limit."""

    kind: DeviceKind
    host_bytes: int | None = None  #: resident memory of an engine
    card_bytes: int | None = None  #: memory of the card, of several the smallest
    devices: int = 1  #: processes that a training may have: cards, or cores of a CPU

    @classmethod
    def of(cls, facts: dict[str, Any]) -> Self | None:
        """Return what a worker's row offers; None while its device is lost. Rows of older workers name no device: a CPU."""
        device: dict[str, Any] = facts.get("device") or {}
        if device.get("lost"):
            return None
        host, devices = facts.get("memory_bytes"), facts.get("train_devices", 1)
        if device.get("kind") != "cuda":
            return cls("cpu", host, devices=devices)
        return cls("cuda", host, device.get("memory_bytes"), devices)

    def conditions(self, job: Any) -> tuple[ColumnElement[bool], ...]:
        """Return the conditions under which this worker can take a job. job: the table, or an alias of it."""
        host = job.memory_bytes if self.kind == "cpu" else func.coalesce(job.host_bytes_with_card, job.memory_bytes)
        limits = [(host, self.host_bytes), *([(job.card_bytes, self.card_bytes)] if self.kind == "cuda" else [])]
        fits = (or_(needed.is_(None), needed <= limit) for needed, limit in limits if limit is not None)
        return job.device.in_((ANY, self.kind)), job.devices <= self.devices, *fits

    def has_device(self, device: str, devices: int) -> bool:
        """Return whether it offers as many devices of a kind, as `conditions` decides it."""
        return device in (ANY, self.kind) and devices <= self.devices

    def has_memory(self, job: Job | Estimate) -> bool:
        """Return whether a job, or what one is estimated to be, fits the memory, as `conditions` decides it."""
        host = job.memory_bytes
        if self.kind == "cuda":
            host = host if job.host_bytes_with_card is None else job.host_bytes_with_card
            if (job.card_bytes or 0) > _limit(self.card_bytes):
                return False
        return (host or 0) <= _limit(self.host_bytes)


def _limit(limit: int | None) -> float:
    return float("inf") if limit is None else limit


def live_facts(session: Session, *, on_other_hosts_than: str | None = None) -> list[dict[str, Any]]:
    """Return the facts of each live worker that runs jobs, but for those on the host of the worker that is named."""
    alive = select(Worker.facts).where(Worker.kind == JOBS, Worker.drain.is_(False), Worker.seen_at > now(-ALIVE_SECONDS))
    if on_other_hosts_than is not None:
        host = select(Worker.host).where(Worker.id == on_other_hosts_than).correlate(None).scalar_subquery()
        alive = alive.where(Worker.host != host)
    return list(session.scalars(alive))


def live_capacities(session: Session) -> list[Capacity | None]:
    """Return what each live worker that runs jobs offers; None for one whose device is lost."""
    return [Capacity.of(facts) for facts in live_facts(session)]


def find_lack(job: Job, live: Sequence[Capacity | None]) -> Lack | None:
    """Return what no live worker offers a job; None if one could take it."""
    if not live:
        return "worker"
    matching = [one for one in live if one is not None and one.has_device(job.device, job.devices or 1)]
    if not matching:
        return "device"
    return None if any(one.has_memory(job) for one in matching) else "memory"


def placement_warnings(job: Job, live: Sequence[Capacity | None]) -> list[str]:
    """Return a warning if no live worker could take a job; nothing if none lives at all, which may change soon."""
    lack = find_lack(job, live)
    of_kind = [one.devices for one in live if one is not None and one.has_device(job.device, 1)]
    if lack == "device" and of_kind:
        what = f"it wants {job.devices} devices, and no online worker for it has more than {max(of_kind)}"
        return [f"device_absent: the job waits, because {what}. Start one with as many, or lower train.devices."]
    if lack == "device":
        what = {"cuda": "a working GPU", "cpu": "no GPU"}.get(job.device, "a working device")
        other = "" if job.device == ANY else ", or send device: any"
        return [
            f"device_absent: the job waits, because no online worker has {what}. Start one "
            f"(python -m workers jobs --device {'cpu' if job.device == 'cpu' else 'cuda:0'}){other}."
        ]
    if lack == "memory":
        return ["memory_absent: the job waits, because no online worker with such a device has the memory of this forecast."]
    return []


def has_gpu_worker(session: Session) -> bool:
    """Return whether a live worker computes on a card."""
    return any(one is not None and one.kind == "cuda" for one in live_capacities(session))


def wake_workers(session: Session) -> None:
    """Wake the workers that run jobs, once the transaction has committed; those with a card have their own wake-ups."""
    wake_after_commit(session, JOBS)
    if has_gpu_worker(session):
        wake_after_commit(session, GPU_JOBS)
