"""Forecasts of minutes: for the best live worker that could take a job, corrected by what finished jobs took there."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from pydantic import ValidationError
from sqlalchemy import select
from sqlalchemy.orm import Session

from app.jobs.capacity import ANY, Capacity, live_facts
from app.store.device_models import JobTimes
from app.store.models import Event, Job, Metric, Worker
from compression.planning.corrections import MOST_JOBS, Correction, learn
from compression.planning.estimator import Estimate
from compression.planning.rates import REFERENCE, Rates
from compression.planning.work import EXPORT, NO_LIMITS, TimeLimits, Work, time_work
from compression.schema.recipe.recipe import Recipe

LEAST_SECONDS = 1.0
"""Stages that were forecast to be shorter, or were, teach nothing: their time is that of files and processes."""


@dataclass(frozen=True)
class Machine:
    """What a worker's jobs run on."""

    name: str  #: of the card, or of the processor
    threads: int
    rates: Rates
    measured: bool  #: whether they are its own, or those of the reference machine

    @classmethod
    def of(cls, facts: dict[str, Any]) -> "Machine | None":
        """Return the machine that a worker's facts describe; None if the worker is of a version that does not name it."""
        device = facts.get("device") or {}
        name, threads = device.get("name") or facts.get("processor"), facts.get("threads") or facts.get("cores")
        if not name or not threads:
            return None
        kind, scores = device.get("kind", "cpu"), device.get("scores") or ()
        rates = Rates.measured(device.get("rates") or {}, kind=kind, cores=threads, on_card=scores)
        return cls(str(name)[:200], int(threads), rates or REFERENCE, rates is not None)


def kind_of(task: str, work: Sequence[Work], machine: Machine) -> str:
    """Return the kind of a job whose ratios are comparable: its task, on how many devices it trains, if at all, and by whose
    rates it was forecast.
    """
    devices = max((one.devices for one in work if one.steps), default=0)
    trains = {0: ", untrained", 1: ""}.get(devices, f", {devices} devices")
    # A card's ratios of before its products were told apart are of other forecasts.
    rates = ", rates not measured" if not machine.measured else ", by products" if machine.rates.simulated is None else ""
    return f"{task}{trains}{rates}"


def corrected(session: Session, found: Estimate, task: str, recipe: Recipe, device: str = ANY) -> Estimate:
    """Return a job's estimate with the minutes of the live worker that is fastest, of those that could take it.

    Without such a worker, or if none names its machine, they stay those of two cores.
    """
    each = [_on(session, machine, found, task, recipe) for machine in _live(session, found, device, recipe.train.devices)]
    return min(each, key=lambda one: one.minutes, default=found)


def stored(found: Estimate) -> dict[str, Any]:
    """Return an estimate for a job's row, with the work that it follows from."""
    return {"estimate": found.model_dump(mode="json"), "work": [one.model_dump(exclude_defaults=True) for one in found.work]}


def remember(session: Session, job: Job) -> None:
    """Store what a job that has just succeeded took, by stage, beside the forecast for the machine that ran it.

    Jobs teach nothing if another attempt did some of their work, if a limit of minutes ended or fitted their training, or if
    lm-eval's tasks, whose time is not forecast, were asked. Times are the database's: an engine may say anything.
    """
    taught = job.attempt == 1 and job.forecast is not None and not (job.evaluate or {}).get("lm_eval")
    worker = session.get(Worker, job.worker_id) if taught and job.worker_id else None
    machine = Machine.of(worker.facts) if worker is not None else None
    if machine is None or TimeLimits.of(job.recipe) != NO_LIMITS:
        return
    try:
        work = [Work.model_validate(one) for one in job.forecast["work"]]  # type: ignore[index]  # it is not None
    except ValidationError:
        return  # of another version
    forecast, took = time_work(_as_trained(session, job, work), machine.rates).stages, _took(session, job)
    pairs = {stage: (forecast[stage], took[stage]) for stage in forecast if stage in took}
    stages = {stage: pair for stage, pair in pairs.items() if min(pair) >= LEAST_SECONDS}
    if stages:
        session.add(
            JobTimes(
                job_id=job.id,
                machine=machine.name,
                threads=machine.threads,
                kind=kind_of(job.task, work, machine),
                stages=stages,
            )
        )


def _as_trained(session: Session, job: Job, work: Sequence[Work]) -> list[Work]:
    """Return a job's work with as many epochs of the original as there were: when they end says nothing of the machine."""
    row = session.scalar(select(Metric.row).where(Metric.job_id == job.id, Metric.position == 0))
    done = ((row or {}).get("preparation") or {}).get("epochs")
    return [one.limited(done / one.epochs) if done and one.epochs else one for one in work]


def training_seconds(session: Session, job: Job) -> float | None:
    """Return the seconds that a claimed job is forecast to train on its worker's machine; None without a forecast."""
    if job.forecast is None:
        return None
    worker = session.get(Worker, job.worker_id) if job.worker_id else None
    machine = Machine.of(worker.facts) if worker is not None else None
    try:
        work = [Work.model_validate(one) for one in job.forecast["work"]]
    except ValidationError:  # of another version
        return 60 * float(job.forecast["estimate"].get("training_minutes", 0.0))
    rates = machine.rates if machine is not None else REFERENCE
    return time_work(work, rates, limits=TimeLimits.of(job.recipe)).training


def find_correction(session: Session, machine: Machine, kind: str) -> Correction:
    """Return what the last jobs of a kind teach of a machine."""
    mine = (JobTimes.machine == machine.name, JobTimes.threads == machine.threads, JobTimes.kind == kind)
    last = select(JobTimes.stages).where(*mine).order_by(JobTimes.finished_at.desc()).limit(MOST_JOBS)
    return learn([{stage: (pair[0], pair[1]) for stage, pair in stages.items()} for stages in session.scalars(last)])


def _live(session: Session, needed: Estimate, device: str, devices: int) -> set[Machine]:
    """Return the machines of the live workers that could take a job."""
    each = [(Capacity.of(facts), Machine.of(facts)) for facts in live_facts(session)]
    takers = [one for one in each if one[0] is not None and one[0].has_device(device, devices) and one[0].has_memory(needed)]
    return {machine for _, machine in takers if machine is not None}


def _on(session: Session, machine: Machine, found: Estimate, task: str, recipe: Recipe) -> Estimate:
    correction = find_correction(session, machine, kind_of(task, found.work, machine))
    factors = correction.factors({one.stage for one in found.work})
    times = time_work(found.work, machine.rates, limits=TimeLimits.of_recipe(recipe), factors=factors)
    low, high = (None, None) if correction.spread is None else (round(times.total * off / 60, 1) for off in correction.spread)
    return found.model_copy(
        update={
            "minutes": round(times.total / 60, 1),
            "training_minutes": round(times.training / 60, 1),
            "minutes_low": low,
            "minutes_high": high,
            "jobs": correction.jobs,
            "machine": machine.name,
        }
    )


def _took(session: Session, job: Job) -> dict[str, float]:
    """Return the seconds of each stage of a finished job's only attempt, by the database's clock.

    The time behind the last stage counts unless the job waited for devices.
    """
    began = session.scalar(select(Event.at).where(Event.job_id == job.id, Event.type == "started").order_by(Event.seq).limit(1))
    if began is None:
        return {}
    rows = session.execute(
        select(Metric.stage, Metric.created_at).where(Metric.job_id == job.id).order_by(Metric.position)
    ).all()
    ends = [(row.stage, row.created_at) for row in rows]
    if job.finished_at is not None and not (job.evaluate or {}).get("devices"):
        ends.append((EXPORT, job.finished_at))
    starts = [began, *(at for _, at in ends)]
    return {stage: (at - before).total_seconds() for (stage, at), before in zip(ends, starts, strict=False)}
