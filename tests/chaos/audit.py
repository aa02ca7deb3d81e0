"""What must be true once everything is over, by plain SQL and by hashes of the bytes on disk. Each check returns its findings.

Nothing of the service is imported here: whoever checks a promise must not ask the one who made it.
"""

import hashlib
from collections import Counter, defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import psutil
import psycopg
from psycopg.rows import dict_row

from tests.chaos.orders import TERMINAL, Order

Row = dict[str, Any]


@dataclass
class Evidence:
    database: str
    root: Path
    orders: list[Order]

    @property
    def home(self) -> Path:
        return self.root / "home"

    @property
    def storage(self) -> Path:
        return self.home / "storage"

    def rows(self, query: str) -> list[Row]:
        with psycopg.connect(self.database, row_factory=dict_row) as connection:
            return connection.execute(query).fetchall()

    @cached_property
    def jobs(self) -> dict[str, Row]:
        return {row["id"]: row for row in self.rows("SELECT * FROM jobs")}

    @cached_property
    def events(self) -> dict[str, list[Row]]:
        found: dict[str, list[Row]] = {job: [] for job in self.jobs}
        for row in self.rows("SELECT job_id, seq, type, data->'row'->>'stage' AS stage FROM events ORDER BY job_id, seq"):
            found.setdefault(row["job_id"], []).append(row)
        return found

    @cached_property
    def named(self) -> list[tuple[str, int, str]]:
        files = self.rows("SELECT key, size, sha256 FROM files WHERE key IS NOT NULL")
        found = [(row["key"], row["size"], row["sha256"]) for row in files]
        for row in self.rows("SELECT prefix, files FROM checkpoints"):
            found += [(f"{row['prefix']}/{file['path']}", file["size"], file["sha256"]) for file in row["files"]]
        return found


def planned(recipe: Row) -> list[str]:
    wanted = {"quantized": "quantize", "pruned": "prune", "distilled": "distill"}
    return ["baseline", *(stage for stage, key in wanted.items() if recipe.get(key) is not None)]


def no_job_is_lost(seen: Evidence) -> list[str]:
    return [
        f"{order.key}: accepted as {job}, which is not there" for order in seen.orders for job in order.ids - set(seen.jobs)
    ]


def no_job_is_doubled(seen: Evidence) -> list[str]:
    found = [f"{order.key}: answered with {sorted(order.ids)}" for order in seen.orders if len(order.ids) != 1]
    if len(seen.jobs) != len(seen.orders):
        found.append(f"{len(seen.orders)} requests made {len(seen.jobs)} jobs")
    return found


def each_job_has_one_outcome(seen: Evidence) -> list[str]:
    """A terminal state, and one terminal event of the same name, the last."""
    found = []
    for job, row in seen.jobs.items():
        ends = [event["type"] for event in seen.events[job] if event["type"] in TERMINAL]
        last = seen.events[job][-1]["type"] if seen.events[job] else None
        if row["state"] not in TERMINAL or ends != [row["state"]] or last != row["state"]:
            found.append(f"{job}: state {row['state']}, terminal events {ends}, last event {last}")
    return found


def the_outcome_is_right(seen: Evidence) -> list[str]:
    """Kills fail no job: only a cancel and a deadline may keep one from success."""
    found = []
    for order in seen.orders:
        for job in order.ids & set(seen.jobs):
            row = seen.jobs[job]
            legal: set[tuple[str, str | None]] = {("succeeded", None)}
            if order.cancel_asked:
                legal.add(("cancelled", None))
            if order.hasty:
                legal.add(("failed", "deadline_exceeded"))
            outcome = (row["state"], (row["error"] or {}).get("code"))
            if outcome not in legal:
                found.append(f"{job} ({order.kind}): {outcome}")
    return found


def what_was_seen_stayed(seen: Evidence) -> list[str]:
    """The outcome that the client read is the outcome, and it read each event once."""
    found = []
    for order in seen.orders:
        for job in order.ids & set(seen.jobs):
            if order.outcome not in {None, seen.jobs[job]["state"]}:
                found.append(f"{job}: seen as {order.outcome}, is {seen.jobs[job]['state']}")
            if order.outcome is not None and order.events != list(range(1, len(seen.events[job]) + 1)):
                found.append(f"{job}: the client read events {order.events}, there are {len(seen.events[job])}")
    return found


def events_are_gapless(seen: Evidence) -> list[str]:
    """1 … n, as the job's own counter says, and every claim and fence told once."""
    found = []
    for job, row in seen.jobs.items():
        numbers = [event["seq"] for event in seen.events[job]]
        if numbers != list(range(1, row["event_seq"] + 1)):
            found.append(f"{job}: events {numbers}, counter {row['event_seq']}")
        claims = sum(event["type"] == "claimed" for event in seen.events[job])
        if not claims == row["attempt"] == row["fence"]:
            found.append(f"{job}: {claims} claims told, attempt {row['attempt']}, fence {row['fence']}")
    return found


def no_stage_is_done_twice(seen: Evidence) -> list[str]:
    found = []
    for job in seen.jobs:
        done = Counter(event["stage"] for event in seen.events[job] if event["type"] == "stage_finished")
        found += [f"{job}: {stage} was finished {times} times" for stage, times in done.items() if times > 1]
    return found


def successes_are_whole(seen: Evidence) -> list[str]:
    """All rows of the recipe, in the table and in the report, and every file of every artifact that the report names."""
    metrics: dict[str, list[str]] = {job: [] for job in seen.jobs}
    for row in seen.rows("SELECT job_id, stage FROM metrics ORDER BY job_id, position"):
        metrics.setdefault(row["job_id"], []).append(row["stage"])
    stored: dict[str, set[tuple[Any, ...]]] = {job: set() for job in seen.jobs}
    query = "SELECT a.job_id, a.name, f.path, f.size, f.sha256 FROM artifacts a JOIN files f ON f.artifact_id = a.id"
    for row in seen.rows(query):
        stored.setdefault(row["job_id"], set()).add((row["name"], row["path"], row["size"], row["sha256"]))
    found = []
    for job, row in seen.jobs.items():
        if row["state"] != "succeeded":
            continue
        want, report = planned(row["recipe"]), row["report"] or {"rows": [], "artifacts": []}
        if not want == metrics[job] == [told["stage"] for told in report["rows"]]:
            found.append(f"{job}: wants {want}, has {metrics[job]}, reports {[told['stage'] for told in report['rows']]}")
        files = {(a["name"], f["path"], f["size"], f["sha256"]) for a in report["artifacts"] for f in a["files"]}
        checkpoints = row["task"] != "image-classification"  # an ONNX network is no checkpoint of a library
        if files != stored[job] or len(report["artifacts"]) != len(want) + checkpoints:
            found.append(f"{job}: files that report and rows do not share: {sorted(files ^ stored[job])[:5]}")
    return found


def rows_have_their_bytes(seen: Evidence) -> list[str]:
    """Every file that a row names is there, with its size and its hash."""
    found = []
    for key, size, sha256 in seen.named:
        path = seen.storage / key
        if not path.is_file():
            found.append(f"{key}: no such file")
        elif path.stat().st_size != size:
            found.append(f"{key}: {path.stat().st_size} bytes, the row says {size}")
        elif hashlib.sha256(path.read_bytes()).hexdigest() != sha256:
            found.append(f"{key}: other bytes than the row says")
    return found


def bytes_have_their_row(seen: Evidence) -> list[str]:
    """Every file in storage is named by a row; what was never finished lies apart (`unfinished`)."""
    named = {key for key, _, _ in seen.named}
    stored = (path.relative_to(seen.storage).as_posix() for path in seen.storage.rglob("*") if path.is_file())
    return [f"{key}: no row names it" for key in stored if key not in named and not key.startswith((".incoming/", ".health/"))]


def nothing_is_left_over(seen: Evidence) -> list[str]:
    """Checkpoints of jobs that are over, and folders of attempts, are gone."""
    spent = seen.rows(
        "SELECT c.job_id, c.stage FROM checkpoints c JOIN jobs j ON j.id = c.job_id WHERE j.finished_at IS NOT NULL"
    )
    found = [f"{row['job_id']}: its {row['stage']} checkpoint is kept" for row in spent]
    return found + [f"{path.name} is left in scratch" for path in (seen.home / "scratch").glob("*/")]


def no_process_is_left(seen: Evidence) -> list[str]:
    """No engine runs, and nothing of this run is out of its parents' hands."""
    me = psutil.Process()
    ours = {me.pid, *(kin.pid for kin in [*me.parents(), *me.children(recursive=True)])}
    found = []
    for process in psutil.process_iter():
        try:
            words = process.cmdline()
            told = " ".join([*words, *process.environ().values()])
            if process.status() == psutil.STATUS_ZOMBIE or str(seen.root) not in told:
                continue
        except (psutil.NoSuchProcess, psutil.AccessDenied):
            continue
        if "compression" in words:
            found.append(f"{process.pid}: an engine is left: {' '.join(words)[:200]}")
        elif process.pid not in ours:
            found.append(f"{process.pid}: nobody's child: {' '.join(words)[:200]}")
    return found


def counts_are_right(seen: Evidence) -> list[str]:
    """What quotas and shares go by agrees with the jobs: how many wait and work, and for how long a team's have worked."""
    teams = seen.rows("SELECT id, queued, running FROM teams")
    days = {
        row["team_id"]: row["seconds"] for row in seen.rows("SELECT team_id, sum(seconds) AS seconds FROM team_days GROUP BY 1")
    }
    worked, begun = defaultdict[str, float](float), dict[str, Any]()
    for row in seen.rows("SELECT job_id, type, at FROM events ORDER BY job_id, seq"):
        if row["type"] == "claimed":
            begun[row["job_id"]] = row["at"]
        elif row["type"] in ("released", "requeued", *TERMINAL) and row["job_id"] in begun:
            worked[row["job_id"]] += (row["at"] - begun.pop(row["job_id"])).total_seconds()
    found = []
    for team in teams:
        mine = [job for job in seen.jobs.values() if job["team_id"] == team["id"]]
        for state in ("queued", "running"):
            number = sum(job["state"] == state for job in mine)
            if team[state] != number:
                found.append(f"{team['id']}: {team[state]} counted as {state}, there are {number}")
        seconds = sum(worked[job["id"]] for job in mine)
        if abs(days.get(team["id"], 0.0) - seconds) > 1 + 0.1 * sum(
            job["attempt"] for job in mine
        ):  # events come a moment later
            found.append(f"{team['id']}: {days.get(team['id'], 0.0):.1f} s counted, its jobs worked {seconds:.1f} s")
    return found


def stores_hold_what_they_may(seen: Evidence) -> list[str]:
    found = seen.rows(
        "SELECT t.id, (t.quotas->>'bytes_stored')::bigint AS most, sum(f.size) AS kept FROM teams t"
        " JOIN models m ON m.team_id = t.id AND m.deleted_at IS NULL JOIN files f ON f.model_id = m.id"
        " WHERE t.quotas ? 'bytes_stored' GROUP BY t.id"
    )
    return [f"{row['id']}: {row['kept']} bytes, {row['most']} at most" for row in found if row["kept"] > row["most"]]


def no_room_is_held(seen: Evidence) -> list[str]:
    """Uploads that were broken off, by their sender or by a kill, hold no room."""
    held = seen.rows("SELECT id, team_id, bytes FROM reservations WHERE expires_at > now()")
    return [f"{row['id']}: {row['bytes']} bytes for {row['team_id']}" for row in held]


def doors_stay_open(seen: Evidence) -> list[str]:
    """The API never ran out of descriptors, and says of the slow clients no more than a line now and then."""
    lines = (seen.home / "api.log").read_bytes().splitlines()
    loud = sum(b"out of system resource" in line or b"Too many open files" in line for line in lines)
    return [f"api.log says {loud} times that descriptors ran out"] if loud else []


CHECKS: tuple[Callable[[Evidence], list[str]], ...] = (
    no_job_is_lost,
    no_job_is_doubled,
    each_job_has_one_outcome,
    the_outcome_is_right,
    what_was_seen_stayed,
    events_are_gapless,
    no_stage_is_done_twice,
    successes_are_whole,
    rows_have_their_bytes,
    bytes_have_their_row,
    nothing_is_left_over,
    no_process_is_left,
    counts_are_right,
    stores_hold_what_they_may,
    no_room_is_held,
    doors_stay_open,
)
SETTLING = (bytes_have_their_row, nothing_is_left_over, no_process_is_left, no_room_is_held)
"""What the keeper and the workers may still need a moment for after the last kill."""


def audit(seen: Evidence, checks: tuple[Callable[[Evidence], list[str]], ...] = CHECKS) -> dict[str, list[str]]:
    """Run the checks on a fresh look; return what each found."""
    fresh = Evidence(seen.database, seen.root, seen.orders)
    return {check.__name__: check(fresh) for check in checks}


def unfinished(seen: Evidence) -> int:
    """Count what killed writers left half written; the keeper frees it after a day."""
    return sum(path.is_file() for path in (seen.storage / ".incoming").glob("*"))
