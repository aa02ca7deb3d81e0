"""One run: orders come in, strikes go out, and in the end everything is looked at."""

import random
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from app.core.settings import Settings
from app.store.broker import JOBS, WakeUpSender
from tests.chaos import audit, tenants
from tests.chaos.audit import Evidence
from tests.chaos.house import House
from tests.chaos.orders import Client, Order, Sender, plan
from tests.chaos.slow_clients import SlowClients
from tests.chaos.strikes import strike
from tests.chaos.tenants import Filler, Peaks, Tenant
from tests.support.examples import send_data, send_model, tiny_model, tiny_splits
from tests.support.image_uploads import OF_IMAGES, image_splits, tiny_network

TICK = 0.1
FIRST_GUESS = 60.0
"""Wall-clock seconds a job with one worker, before any has ended. A job costs 20 to 40 core-seconds."""
SHORTEST = 1.0
"""Seconds between two strikes, so that what was hit gets to its feet now and then."""
TELL = 60.0
"""Seconds between two words on how far it is."""
LOOK = 0.5
"""Seconds between two counts of what each team has waiting and at work."""
SETTLE = 180.0
"""Seconds that keeper and workers have to clean up after the last strike."""


@dataclass
class Result:
    seed: int
    orders: list[Order]
    kills: Counter[str] = field(default_factory=Counter)
    crashes: Counter[str] = field(default_factory=Counter)
    own_deaths: Counter[str] = field(default_factory=Counter)
    findings: dict[str, list[str]] = field(default_factory=dict)
    repeated: int = 0
    held_back: int = 0
    full: int = 0
    closed: int = 0
    attempts: int = 0
    unfinished: int = 0
    seconds: float = 0.0

    @property
    def clean(self) -> bool:
        return not any(self.findings.values())


def rampage(
    house: House, *, jobs: int, kills: int, seed: int, limit: float, say: Callable[[str], None] = lambda _: None
) -> tuple[Result, Evidence]:
    """Do `jobs` jobs under `kills` kills; return what came of it, and where to look further.

    `limit`: seconds after which the kills stop, whatever is left; a bound on hanging. `say` hears how far it is.
    """
    senders, third = tenants.made(house.service)
    client = _client(house, senders, jobs, seed)
    filler = Filler(house.service.url, third, random.Random(f"{seed}-filler"))
    slow = SlowClients(house.service.port, random.Random(f"{seed}-slow"))
    result = Result(seed, client.orders)
    started = time.monotonic()
    for thread in (client, filler, slow):
        thread.start()
    peaks = Peaks(house.service.database.url)
    _strike_until_over(house, client, peaks, result, kills, random.Random(f"{seed}-kills"), started + limit, say)
    house.settle()
    evidence = Evidence(house.service.database.url, house.root, client.orders)
    for thread in (client, filler, slow):
        thread.stopped.set()
        thread.join()
    _settle(house, evidence)
    result.seconds = time.monotonic() - started
    result.crashes, result.own_deaths = house.crashes(), house.own_deaths
    result.repeated, result.held_back, result.full, result.closed = client.repeated, client.held_back, filler.full, slow.closed
    result.unfinished = audit.unfinished(evidence)
    result.attempts = sum(row["attempt"] for row in evidence.jobs.values())
    result.findings = {
        "what_the_clients_met": [*client.surprises, *filler.surprises],
        "quotas_held_all_the_while": peaks.findings(),
        **audit.audit(evidence),
    }
    return result, evidence


def _client(house: House, senders: list[Tenant], jobs: int, seed: int) -> Client:
    """Send each team's model and data, while nothing is hit yet, and draw the orders."""
    files: dict[str, tuple[Path, dict[str, bytes], dict[str, str]]] = {
        "texts": (tiny_model(house.root / "model"), tiny_splits(64), {}),
        "images": (tiny_network(house.root / "network"), image_splits(64), OF_IMAGES),
    }
    sent = []
    for tenant in senders:
        uploads = {}
        with house.service.client(tenant.key) as http:
            for name, (folder, splits, about) in files.items():
                model, data = send_model(http, folder), send_data(http, splits, **about)
                assert (model["state"], data["state"]) == ("ready", "ready"), (model["reasons"], data["reasons"])
                uploads[name] = model["id"], data["id"]
        sent.append(Sender(tenant.key, uploads))
    orders = plan(jobs, sent, random.Random(f"{seed}-orders"), f"chaos-{seed}")
    return Client(house.service.url, orders, width=3 * len(house.workers))


def _strike_until_over(
    house: House,
    client: Client,
    peaks: Peaks,
    result: Result,
    kills: int,
    chance: random.Random,
    until: float,
    say: Callable[[str], None],
) -> None:
    """Spread the kills over the time that the orders will take, as far as that can be told while it passes."""
    started = time.monotonic()
    due, told, looked = started + FIRST_GUESS * chance.random(), started, started
    while time.monotonic() < until:
        house.look_after()
        if time.monotonic() - looked > LOOK:
            looked = time.monotonic()
            peaks.look()
        left, over, now = kills - result.kills.total(), client.over, time.monotonic()
        if over == len(client.orders) and left <= 0:
            return
        if now - told > TELL:
            told = now
            jobs, hits = f"{over} of {len(client.orders)} jobs over", f"{kills - left} of {kills} kills done"
            say(f"{(now - started) / 60:5.1f} min: {jobs}, {hits}")
        if left > 0 and now >= due and (hit := strike(house, chance)) is not None:
            result.kills[hit] += 1
            each = (now - started) / over if over else max(now - started, FIRST_GUESS / len(house.workers))
            mean = each * (len(client.orders) - over) / left
            due = now + SHORTEST + chance.expovariate(1 / max(mean - SHORTEST, 0.1))
        time.sleep(TICK)


def _settle(house: House, evidence: Evidence) -> None:
    """Wait until what may be cleaned up late has been. A wake-up lets a worker look for folders of its predecessors."""
    bell = WakeUpSender(Settings(broker_url=house.service.broker))
    end, rung = time.monotonic() + SETTLE, 0.0
    while time.monotonic() < end:
        house.look_after()
        if time.monotonic() - rung > 5:
            rung = time.monotonic()
            bell.send(JOBS)
        # The last strike may have hit PostgreSQL: it is asked only once it answers again.
        standing = not house.due and not house.frozen and house.database_answers()
        if standing and not any(audit.audit(evidence, audit.SETTLING).values()):
            return
        time.sleep(1)


def table(result: Result, root: Path) -> str:
    outcomes = Counter(order.outcome or "not seen to end" for order in result.orders)
    kinds = Counter(order.kind for order in result.orders)

    def told(counts: Counter[str]) -> str:
        return ", ".join(f"{name} {number}" for name, number in sorted(counts.items())) or "none"

    found = result.findings
    lines = {
        "seed": str(result.seed),
        "wall time": f"{result.seconds / 60:.1f} min",
        "jobs": f"{len(result.orders)} ({told(kinds)})",
        "outcomes": told(outcomes),
        "attempts": str(result.attempts),
        "kills": f"{result.kills.total()} ({told(result.kills)})",
        "and at crash points": f"{result.crashes.total()} ({told(result.crashes)})",
        "deaths of their own": told(result.own_deaths),
        "requests sent again": str(result.repeated),
        "refused by quota": f"{result.held_back} jobs, {result.full} uploads",
        "slow clients cut off": str(result.closed),
        "duplicates": str(len(found["no_job_is_doubled"]) + len(found["no_stage_is_done_twice"])),
        "losses": str(sum(len(found[name]) for name in ("no_job_is_lost", "successes_are_whole", "rows_have_their_bytes"))),
        "orphans": str(
            sum(
                len(found[name])
                for name in ("bytes_have_their_row", "nothing_is_left_over", "no_process_is_left", "no_room_is_held")
            )
        ),
        "half-written files": f"{result.unfinished} (freed after a day)",
        "folder": str(root),
    }
    text = "".join(f"{name:<20} {value}\n" for name, value in lines.items())
    for name, findings in found.items():
        text += f"{'ok' if not findings else 'NOT':<4} {name.replace('_', ' ')}\n"
        text += "".join(f"       {finding}\n" for finding in findings[:20])
        text += f"       and {len(findings) - 20} more\n" if len(findings) > 20 else ""
    return text
