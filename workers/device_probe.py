"""The probe of a worker's device: a confined child that tries it, as its engines will find it."""

import secrets
from functools import cache
from subprocess import TimeoutExpired
from typing import Any

import structlog
from pydantic import ValidationError
from sqlalchemy import select
from sqlalchemy.orm import Session

from app.core.redaction import redact_paths
from app.core.settings import Settings
from app.store import broker
from app.store.models import Worker
from compression.schema.worker_device import ProbeSpec, WorkerDevice
from compression.system.processor import processor, usable_cores
from workers import engine
from workers.card_locks import free_cards, take_cards
from workers.devices import AUTO, CPU, CUDA, Device, DeviceAbsent, has_cards, parse_device
from workers.folders import private_folder
from workers.limits import engine_threads, machine_memory
from workers.sandbox import CannotConfine, get_sandbox

log = structlog.get_logger()
SECONDS = 300.0
"""Maximum time of a probe: a driver that nothing has used since the start takes half a minute to wake up."""
Chosen = tuple[Device, WorkerDevice]


@cache
def choose_device(settings: Settings) -> Chosen:
    """Return this worker's device and what is known of it. A card is locked and probed, once per process; forked children know
    the result.

    `auto` is the first card that no other worker has, if the probe finds that it works, else the CPU. Raises DeviceAbsent for a
    card that was named.
    """
    kind = parse_device(settings.device)[0]
    if kind == "cpu" or (kind == AUTO and not has_cards()):
        return CPU, unmeasured_cpu()
    try:
        device = take_cards(settings)
        return device, run_probe(device, settings)
    except DeviceAbsent as problem:
        free_cards()
        if kind != AUTO:
            raise
        log.warning(
            "card_not_used", cause=problem.cause, note="jobs are trained on the CPU; --device cuda:0 would refuse to start"
        )
        return CPU, unmeasured_cpu()


def wake_up_target(lane: str, settings: Settings) -> str:
    """Return the wake-ups that a worker of a lane listens to: GPU workers have their own. Raises DeviceAbsent."""
    return broker.GPU_JOBS if lane == broker.JOBS and choose_device(settings)[0].kind == CUDA else lane


def count_devices(settings: Settings) -> int:
    """Return how many processes a training may have here: one for each card; on a CPU, for each core that it may use.

    They talk through the loopback of a network of their own, which bubblewrap alone makes.
    """
    device, facts = choose_device(settings)
    if get_sandbox(settings, device).level == "landlock+seccomp":
        return 1
    return facts.cards if device.kind == CUDA else usable_cores()


def unmeasured_cpu() -> WorkerDevice:
    """Return what is known of the CPU before it is measured."""
    return WorkerDevice(kind="cpu", name=processor(), memory_bytes=machine_memory())


def run_probe(device: Device, settings: Settings, *, measure: bool = True) -> WorkerDevice:
    """Let a confined child try the device, of several cards each. Raises DeviceAbsent with its reason if that fails."""
    if device.parts:
        each = [run_probe(card, settings, measure=measure and card == device.parts[0]) for card in device.parts]
        names = {one.name: None for one in each}
        name = f"{len(each)} × {each[0].name}" if len(names) == 1 else ", ".join(one.name for one in each)
        return each[0].model_copy(
            update={"cards": len(each), "name": name, "memory_bytes": min(one.memory_bytes for one in each)}
        )
    asked = ProbeSpec(kind=device.kind, measure=measure, threads=engine_threads(settings))
    try:
        with private_folder(settings.scratch, f"probe-{secrets.token_hex(6)}") as folder:
            spec = folder / "spec.json"
            spec.write_text(asked.model_dump_json(), "utf-8")
            found = WorkerDevice.model_validate_json(engine.run_query("probe", spec, folder, settings, SECONDS, device))
    except (CannotConfine, RuntimeError, ValidationError, TimeoutExpired, OSError) as problem:
        reason = " ".join(str(problem).split())[-500:]
        raise DeviceAbsent(f"the device {device.visible or device.kind} does not work: {reason}") from problem
    return found if device.kind != CPU.kind else found.model_copy(update={"memory_bytes": machine_memory()})


def find_fault(settings: Settings) -> str | None:
    """Probe this worker's card again; return why it does not work, or None if it does."""
    device, _ = choose_device(settings)
    if device == CPU:
        return None
    try:
        run_probe(device, settings, measure=False)
    except DeviceAbsent as problem:
        return problem.cause
    return None


def mark_lost(session: Session, worker_id: str | None, cause: str) -> None:
    """Write into a worker's row that its device is lost, after which it takes no jobs."""
    row = session.scalar(select(Worker).where(Worker.id == worker_id).with_for_update())
    if row is not None:
        facts: dict[str, Any] = dict(row.facts)
        row.facts = {**facts, "device": {**facts.get("device", {}), "lost": redact_paths(cause)}}  # all teams read it
        log.error("device_lost", worker=worker_id, cause=cause)
