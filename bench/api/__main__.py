"""`python -m bench api`: measure the API, each figure beside its target.

- `lists`: response time of a list of many jobs against a list of few.
- `polling`: polling one job against a minimal FastAPI handler with one query (minimal_app.py): responses per second, and
  responses per second of the server's CPU time, which holds on a busy machine too.
- `streams`: memory that 100 open event streams add to the API process.
- `restarts`: events that a listener misses or gets twice while the API is killed and restarted.
- `queues`: claiming a job, and finding a waiting job's place, among 100,000 waiting jobs against 1,000 (PostgreSQL).
- `writers`: twenty clients that submit and cancel jobs on SQLite: the 99th percentile of response times.
- `half-open`: health checks that fail while 2,000 sockets send half a request and nothing more, and how much the log grows.
- `mixed-load`: 1,000 idle streams, 100 clients that poll once a second and ten that submit, for three minutes.
"""

import argparse
import os
import statistics
import sys
from collections.abc import Sequence

from bench.api import half_open, mixed_load, queues, seed_jobs, streams
from bench.api.load import rate, times
from bench.api.servers import Server, databases

LISTS = {
    "GET /v1/jobs": "/v1/jobs",
    "… ?state=running": "/v1/jobs?state=running",
    "… ?state=failed, 2 of them": "/v1/jobs?state=failed&page_size=2",
    "… ?label=experiment:e7, 2 of them": "/v1/jobs?label=experiment:e7&page_size=2",
    "the page of jobs": "/jobs",
}
"""Pages that both servers can fill: 100 jobs have two of one label."""
SERVED = ("lists", "polling", "streams", "restarts")
PARTS = (*SERVED, "queues", "writers", "half-open", "mixed-load")
ASKED = 12
"""Requests per server and round of lists."""
LINES = 8
STREAMS, EVENTS, RESTARTS = 100, 200, 3
MOST_TIMES, LEAST_RATE, MOST_BYTES = 1.2, 0.5, 50 * 2**20
SHORT, LONG, MOST_BY_QUEUE = 1000, 100_000, 2.0
WRITERS, WRITING_SECONDS, MOST_WRITING = 20, 20.0, 2.0
MIXED_SECONDS, MOST_GROWN = 180.0, 10 * 2**20
STRANGERS, FLOOD_SECONDS, FILES, MOST_LOGGED = 2000, 40.0, (300, 20_000), 2**20


def main(arguments: Sequence[str]) -> None:
    """Measure and print one table."""
    parser = argparse.ArgumentParser(
        prog="python -m bench api", description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--jobs", type=int, default=10_000, help="jobs of the long list")
    parser.add_argument("--few", type=int, default=100, help="jobs of the short list")
    parser.add_argument("--rounds", type=int, default=7, help="interleaved rounds; the median counts")
    parser.add_argument("--only", nargs="+", choices=PARTS, default=PARTS, help="measure these alone")
    parser.add_argument("--seconds", type=float, default=2.0, help="seconds of polling per side and round")
    asked = parser.parse_args(arguments)
    print(f"{os.cpu_count()} cores, load {os.getloadavg()[0]:.1f} before; {asked.rounds} rounds, interleaved; medians\n")
    print("| what | baseline | ours | ratio | target | |")
    print("| --- | --- | --- | --- | --- | --- |")
    if set(asked.only) & set(SERVED):
        served(asked)
    if "queues" in asked.only:
        long_queues(asked.rounds)
    if "writers" in asked.only:
        writers()
    if "half-open" in asked.only:
        half_open_connections()
    if "mixed-load" in asked.only:
        many_clients()
    print(f"\nload {os.getloadavg()[0]:.1f} after")


def served(asked: argparse.Namespace) -> None:
    """Run the parts that need servers on few and on many jobs."""
    with databases("few", "many") as (folder, found):
        ids = {name: seed_jobs.fill(found[name][0], number) for name, number in (("few", asked.few), ("many", asked.jobs))}
        servers = {name: Server("app.main:app", url, folder / name, key) for name, (url, key) in found.items()}
        bare = Server("bench.api.minimal_app:app", found["many"][0], folder / "bare")
        try:
            for server in servers.values():
                server.start("/healthz/ready")
                server.sign_in()
            bare.start("/openapi.json")
            few, many, running = servers["few"], servers["many"], ids["many"]
            if "lists" in asked.only:
                for name, path in LISTS.items():
                    lists(name, path, few, many, asked.rounds)
            if "polling" in asked.only:
                polling(bare, many, running[0], asked.rounds, asked.seconds)
            if "streams" in asked.only:
                open_streams(many, running)
            if "restarts" in asked.only:
                restarts(many, running[1])
        finally:
            for server in (*servers.values(), bare):
                server.kill()


def verdict(what: str, baseline: str, ours: str, ratio: str, target: str, met: bool) -> None:
    """Print a row."""
    print(f"| {what} | {baseline} | {ours} | {ratio} | {target} | {'met' if met else 'MISSED'} |", flush=True)


def lists(name: str, path: str, few: Server, many: Server, rounds: int) -> None:
    """Compare the response time of one list of few and of many jobs."""
    for server in (few, many):
        times(server.port, server.request(path), ASKED)
    medians: list[tuple[float, float]] = []
    for number in range(rounds):
        pair = {}
        for server in (few, many) if number % 2 else (many, few):
            pair[server.port] = statistics.median(times(server.port, server.request(path), ASKED))
        medians.append((pair[few.port], pair[many.port]))
    ratio = statistics.median(more / less for less, more in medians)
    first, last = (statistics.median(side) * 1000 for side in zip(*medians, strict=True))
    verdict(name, f"{first:.1f} ms", f"{last:.1f} ms", f"{ratio:.2f}", f"≤ {MOST_TIMES}", ratio <= MOST_TIMES)


def polling(bare: Server, ours: Server, job_id: str, rounds: int, seconds: float) -> None:
    """Compare polling with the minimal handler, by wall time and by CPU time."""
    asked = {bare: bare.request(f"/jobs/{job_id}"), ours: ours.request(f"/v1/jobs/{job_id}")}
    for server, request in asked.items():
        rate(server.port, request, LINES, 1.0)
    walls: list[tuple[float, float]] = []
    works: list[tuple[float, float]] = []
    for number in range(rounds):
        wall, work = {}, {}
        for server in (bare, ours) if number % 2 else (ours, bare):
            before = server.cpu_seconds()
            wall[server], answers = rate(server.port, asked[server], LINES, seconds)
            work[server] = answers / (server.cpu_seconds() - before)
        walls.append((wall[bare], wall[ours]))
        works.append((work[bare], work[ours]))
    for name, found in (("polling one job: answers a second", walls), ("… for a second of processor", works)):
        ratio = statistics.median(mine / other for other, mine in found)
        first, last = (statistics.median(side) for side in zip(*found, strict=True))
        verdict(name, f"{first:.0f}", f"{last:.0f}", f"{ratio:.2f}", f"≥ {LEAST_RATE}", ratio >= LEAST_RATE)


def open_streams(server: Server, running: Sequence[str]) -> None:
    """Measure the memory that open streams add to the API process."""
    before, most = streams.held(server, running, STREAMS)
    sides = (f"{before / 2**20:.0f} MiB", f"{most / 2**20:.0f} MiB", f"+{(most - before) / 2**20:.1f} MiB")
    verdict(f"{STREAMS} event streams: memory", *sides, "< 50 MiB", most - before < MOST_BYTES)


def restarts(server: Server, job_id: str) -> None:
    """Count the events that a listener missed or got twice."""
    written, heard = streams.across_restarts(server, job_id, EVENTS, RESTARTS)
    whole = [1, *written]  # the first is that it was queued
    lost, twice = len(set(whole) - set(heard.seen)), len(heard.seen) - len(set(heard.seen))
    sides = (f"{len(whole)} written", f"{len(heard.seen)} heard in {heard.taken_up} streams", f"{lost} lost, {twice} twice")
    verdict(f"events across {RESTARTS} kills of the API", *sides, "none", heard.seen == whole)


def long_queues(rounds: int) -> None:
    """Compare claims and places in a long queue with those in a short one."""
    with databases("short", "long") as (_, found):
        for name, number in (("short", SHORT), ("long", LONG)):
            queues.fill(found[name][0], number)
        took = queues.compared({name: url for name, (url, _) in found.items()}, rounds)
    for what, sides in took.items():
        short, long = (queues.median_ms(sides[name]) for name in ("short", "long"))
        row = (f"{what} among {LONG:,} jobs, not {SHORT:,}", f"{short:.1f} ms", f"{long:.1f} ms", f"{long / short:.2f}")
        verdict(*row, f"≤ {MOST_BY_QUEUE:g}", long <= MOST_BY_QUEUE * short)


def writers() -> None:
    """Measure the response times of twenty writers on SQLite."""
    took, odd = queues.written(WRITERS, WRITING_SECONDS)
    median, most = statistics.median(took), statistics.quantiles(took, n=100)[-1]
    row = (
        f"{WRITERS} writers on SQLite, {len(took)} answers: p99",
        f"median {median:.2f} s",
        f"{most:.2f} s",
        f"{len(odd)} refused",
    )
    verdict(*row, f"< {MOST_WRITING:g} s", most < MOST_WRITING)


def half_open_connections() -> None:
    """Flood servers with few and with many file descriptors with half requests."""
    with databases("half_open") as (folder, found):
        url, key = found["half_open"]
        for files in FILES:
            server = Server("app.main:app", url, folder / str(files), key, files)
            try:
                server.start("/healthz/ready")
                held = half_open.flood(server.port, STRANGERS, FLOOD_SECONDS)
            finally:
                server.kill()
            logged = (server.home / "log").stat().st_size
            sides = (f"{held.opened:,} opened", f"{held.failed} of {held.asked} failed, slowest {held.slowest:.2f} s")
            met = held.asked > 0 and not held.failed and logged < MOST_LOGGED
            row = f"{STRANGERS:,} half requests at {files:,} descriptors"
            verdict(row, *sides, f"log +{logged / 1000:.0f} kB", "none failed, < 1 MB", met)


def many_clients() -> None:
    """Measure ten teams at once. Rate limits per key stay in force; all clients share one address."""
    with databases("mixed_load") as (folder, found):
        url, key = found["mixed_load"]
        server = Server("app.main:app", url, folder / "mixed_load", key, raised=("PER_ADDRESS", "WRONG"))
        try:
            server.start("/healthz/ready")
            seen = mixed_load.measure(server, MIXED_SECONDS)
        finally:
            server.kill()
    wrong, limited = sum(n for status, n in seen.statuses.items() if status >= 500), seen.statuses[429]
    beside = f"beside {mixed_load.STREAMS:,} streams"
    for what, took in ((f"{mixed_load.POLLERS} that poll", seen.polls), (f"{mixed_load.SUBMITTERS} that submit", seen.submits)):
        p99 = f"p99 {statistics.quantiles(took, n=100)[-1] * 1000:.0f} ms"
        sides = (f"{len(took):,} answers, median {statistics.median(took) * 1000:.0f} ms", p99)
        verdict(f"{what}, {beside}", *sides, f"{wrong} 5xx, {limited} 429", "no 5xx", not wrong)
    due = sum(len(each) for each in seen.due)
    events = (f"{due:,} due", f"{due - seen.lost:,} heard", f"{seen.lost} lost, {seen.twice} twice")
    verdict("their events", *events, "none", not seen.lost and not seen.twice)
    before, after = seen.grown(MIXED_SECONDS)
    held = (f"{before / 2**20:.0f} MiB", f"{after / 2**20:.0f} MiB", f"{(after - before) / 2**20:+.1f} MiB")
    verdict("memory in the second minute and in the third", *held, "< 10 MiB", after - before < MOST_GROWN)


if __name__ == "__main__":
    main(sys.argv[1:])
