"""Who is hit, and how. A strike does not wait for a good moment."""

import random
import signal
from contextlib import suppress

import psutil

from tests.chaos.house import SETTINGS, House

WEIGHTS = {"api": 3, "worker": 3, "child": 3, "engine": 5, "keeper": 2, "valkey": 2, "postgres": 2, "zombie": 3}
"""How often each kind of victim is drawn. A zombie is a worker that stands still for longer than its lease."""
LEASE = float(SETTINGS["LATHE_LEASE_SECONDS"])


def strike(house: House, chance: random.Random) -> str | None:
    """Hit one victim; return its kind, or None where there is no such process just now."""
    kind = chance.choices(list(WEIGHTS), list(WEIGHTS.values()))[0]
    worker = chance.choice(house.workers)
    own, engines = house.family(worker)
    match kind:
        case "api" | "keeper" | "valkey":
            return kind if _kill(house, kind) else None
        case "worker":
            return kind if _kill(house, worker) else None
        case "postgres":
            # At once and with all its children, or by its own immediate shutdown: either way the next one must recover.
            hard = chance.random() < 0.7
            return kind if _kill(house, kind, signal.SIGKILL if hard else signal.SIGQUIT) else None
        case "child":
            return kind if _kill_one(own[1:], chance) else None
        case "engine":
            return kind if _kill_one(engines, chance) else None
        case "zombie" if own and not house.frozen:
            # Alone, while its engine goes on; or with its engine, as a machine that stands still.
            house.freeze(own + (engines if chance.random() < 0.5 else []), LEASE * chance.uniform(1.2, 2))
            return kind
    return None


def _kill(house: House, name: str, number: int = signal.SIGKILL) -> bool:
    if house.service.processes[name].poll() is not None:
        return False
    house.kill(name, number)
    return True


def _kill_one(processes: list[psutil.Process], chance: random.Random) -> bool:
    if not processes:
        return False
    with suppress(psutil.NoSuchProcess):
        chance.choice(processes).kill()
        return True
    return False
