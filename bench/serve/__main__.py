"""`python -m bench serve ARTIFACT`: batches by load against one row at a time, in process and over HTTP.

For each length of text, and for images, two servers of one artifact are loaded in turns: one makes no batches, the other may.
Closed: so many clients that wait. Open: rows at random times; the capacity is the highest rate at which 99 of 100 are
answered within the target, ten times the time of a single row. The figure is the ratio of the two capacities. What has a record
is not measured again, so the command may be stopped at any time; --table-only prints what the records say.
"""

import argparse
import asyncio
import base64
import contextlib
import hashlib
import io
import json
import random
import statistics
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from bench.serve.load import Ask, Connections, capacity, closed
from compression.schema.artifact_formats import ARTIFACT_FORMATS
from compression.schema.prediction_request import RowInputs
from compression.serving.batcher import Batcher
from compression.serving.batching import BatchRules
from compression.serving.served_model import ServedModel

RECORDS = Path(__file__).parent / "records"
TIMES, SHORTEST = 10, 0.01
"""The target: so many times what a single row takes, and so many seconds at least."""
CLIENTS = (1, 8, 32)
WAITING = 1 << 20


def main(arguments: list[str] | None = None) -> None:
    """Measure what has no record yet, then print."""
    parser = argparse.ArgumentParser(prog="python -m bench serve", description=__doc__)
    parser.add_argument("artifact", type=Path, help="a folder that `lathe download` wrote")
    parser.add_argument("--lengths", type=int, nargs="+", default=[16, 128], help="of texts, in tokens")
    parser.add_argument("--over", nargs="+", default=["process", "http"], choices=["process", "http"])
    parser.add_argument("--max-batch", type=int, default=32)
    parser.add_argument("--seconds", type=float, default=5.0, help="of each load")
    parser.add_argument("--steps", type=int, default=6, help="of the search for the capacity")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--records", type=Path, default=RECORDS)
    parser.add_argument("--table-only", action="store_true", help="print what has records")
    asked = parser.parse_args(arguments)
    model = ServedModel(asked.artifact, threads=asked.threads)
    folder = asked.records / f"{model.folder.name}-{_digest(model)}-{asked.threads}"
    for length in asked.lengths if model.sequences else [0]:
        for over in asked.over:
            sizes, runs = (1, asked.max_batch), range(asked.repeats)
            cells = {most: [folder / f"{over}-{length}-{most}-{run}.json" for run in runs] for most in sizes}
            for turn in range(0 if asked.table_only else asked.repeats):
                for most, paths in cells.items():
                    if not paths[turn].exists():
                        _keep(asyncio.run(_measured(model, over, length, most, asked, folder)), paths[turn])
            _print(over, length, cells)


def _digest(model: ServedModel) -> str:
    """Return the beginning of the digest of an artifact's weights."""
    digest = hashlib.sha256()
    for pattern in ARTIFACT_FORMATS[model.format.name].weights:
        for path in sorted(model.folder.glob(pattern)):
            digest.update(path.read_bytes())
    return digest.hexdigest()[:8]


def question(model: ServedModel, length: int) -> dict[str, str]:
    """Return a request whose row has `length` tokens; for images, one of noise. Raises SystemExit if there is none."""
    if not model.sequences:
        out = io.BytesIO()
        Image.fromarray(np.random.default_rng(0).integers(0, 256, (224, 224, 3), np.uint8)).save(out, "JPEG")
        return {"image": base64.b64encode(out.getvalue()).decode()}
    tokenizer: Any = model.reader.tokenizer  # type: ignore[attr-defined]  # of texts
    words = [word for word in sorted(tokenizer.get_vocab()) if word.isalpha() and len(tokenizer.encode(word)) == 3]
    draw = random.Random(length)
    for count in range(length, 0, -1):
        given = {"text": " ".join(draw.choices(words, k=count))}
        windows = model.encode(RowInputs(**given))[1].windows
        if len(windows) == 1 and len(windows[0]) == length:
            return given
    raise SystemExit(f"no text of {length} tokens for {model.folder.name}: it reads {model.task}, or shorter texts")


@contextlib.asynccontextmanager
async def _process(model: ServedModel, length: int, rules: BatchRules) -> AsyncIterator[Ask]:
    _, rows = model.encode(RowInputs(**question(model, length)))
    anchors = model.timed(rules.most)
    async with Batcher(model.run, rules, length=model.length, most_waiting=WAITING, anchors=anchors) as batcher:

        async def ask() -> None:
            await batcher.answer(rows.windows)

        yield ask


@contextlib.asynccontextmanager
async def _http(model: ServedModel, length: int, rules: BatchRules, threads: int) -> AsyncIterator[Ask]:
    command = [
        sys.executable,
        "-m",
        "compression",
        "serve",
        str(model.folder),
        "--json",
        "--port",
        "0",
        "--threads",
        str(threads),
    ]
    command += ["--max-batch", str(rules.most), "--target-ms", str(1000 * rules.target), "--queue", str(WAITING)]
    server = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)  # noqa: ASYNC220 (nothing runs beside it yet)
    try:
        assert server.stdout is not None
        port = int(json.loads(server.stdout.readline())["url"].rpartition(":")[2])
        connections = Connections(port, "/v1/predict", question(model, length))
        yield connections.ask
        connections.close()
    finally:
        server.terminate()
        server.wait()


def _target(model: ServedModel, length: int, folder: Path) -> float:
    """Return the seconds that an answer may take, the same in all runs of an artifact."""
    path = folder / f"target-{length}.json"
    if not path.exists():
        _, rows = model.encode(RowInputs(**question(model, length)))
        single = statistics.median(_seconds(model, rows.windows) for _ in range(30))
        _keep({"single_ms": 1000 * single, "target_ms": 1000 * max(TIMES * single, SHORTEST)}, path)
    return float(json.loads(path.read_text())["target_ms"]) / 1000


def _seconds(model: ServedModel, windows: list[Any]) -> float:
    started = time.perf_counter()
    model.run(windows)
    return time.perf_counter() - started


async def _measured(
    model: ServedModel, over: str, length: int, most: int, asked: argparse.Namespace, folder: Path
) -> dict[str, Any]:
    """Load one server -> its record."""
    target = _target(model, length, folder)
    rules = BatchRules(most, target)
    opened = _process(model, length, rules) if over == "process" else _http(model, length, rules, asked.threads)
    async with opened as ask:
        await closed(ask, 8, asked.seconds / 5)  # warm
        waits = {clients: await closed(ask, clients, asked.seconds) for clients in CLIENTS}
        top = max(load.rate for load in waits.values())
        best = await capacity(ask, 1.1 * top, target, asked.seconds, asked.steps)
    loads = {str(clients): asdict(load) for clients, load in waits.items()}
    return {"runtime": model.runner.name, "target_ms": 1000 * target, "closed": loads, "capacity": asdict(best)}


def _keep(record: dict[str, Any], path: Path) -> None:
    """Write a record atomically."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_suffix(".part")
    part.write_text(json.dumps(record, indent=1) + "\n")
    part.replace(path)


def _print(over: str, length: int, cells: dict[int, list[Path]]) -> None:
    """Print what the records of a length say: medians, and ratios of batches to single rows."""
    found = {most: [json.loads(path.read_text()) for path in paths if path.exists()] for most, paths in cells.items()}
    if not all(found.values()):
        print(f"{over}, {length} tokens: no records")
        return
    middle = {
        most: (
            {clients: statistics.median(run["closed"][str(clients)]["rate"] for run in runs) for clients in CLIENTS},
            statistics.median(run["capacity"]["rate"] for run in runs),
        )
        for most, runs in found.items()
    }
    (alone, single), (together, many) = middle.values()
    target = next(iter(found.values()))[0]["target_ms"]
    gain = f"{many / single:.2f}x the capacity" if single else "single rows are never in time"
    print(f"{over}, {length} tokens, 99 % within {target:.1f} ms: {gain} ({single:.0f} -> {many:.0f} rows/s)")
    for clients in CLIENTS:
        ratio = together[clients] / alone[clients]
        print(f"  {clients} clients: {ratio:.2f}x ({alone[clients]:.0f} -> {together[clients]:.0f} rows/s)")


if __name__ == "__main__":
    main()
