"""`make equality`: compare the answers of a file in the default form under every instruction set available here.

An encoder classifier answers 300 rows, a language model rows of 32 tokens, by ONNX Runtime: on this machine, and under
qemu-user as x86 with AVX2 and with SSE4.1 and as Arm. Emulation is some twenty to fifty times slower, so what was compared is
kept (`.cache/equality`), and a run that was stopped goes on. AVX-512 without VNNI cannot be emulated by qemu-user. The record
is `bench/portability/records/equality.json`, which `--table-only` prints.
"""

import argparse
import hashlib
import json
import os
import platform
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from tokenizers import Tokenizer

from bench.portability import arm, datasets, portable
from compression.evaluation.runtimes import standalone
from compression.evaluation.runtimes.onnx import FILE
from compression.evaluation.runtimes.standalone import Arrays
from compression.export import instruction_sets
from compression.export.onnx import decoder
from compression.models import gguf_unpack, loading
from compression.quantization.fake_quantize import Simulation
from compression.schema.recipe.quantize import Quantize

ROOT = Path(__file__).parent.parent.parent
RECORD = Path(__file__).parent / "records" / "equality.json"
WORK = ROOT / ".cache" / "equality"
TOKENS = 32
ALLOWED, SHARE = 0.05, 0.001
"""Of a classifier's logits; and of a language model's positions that may have another top token."""
PATIENCE = 3600.0
"""Seconds for one piece of the rows."""


@dataclass(frozen=True)
class Target:
    """An instruction set: how to start its Python, or why it is not compared."""

    name: str
    runs: str
    interpreter: list[str]
    packages: Path | None = None
    missing: str | None = None


def targets(place: Path) -> Iterator[Target]:
    """Yield the instruction sets to compare with this machine. place: folder of the Python for Arm."""
    missing = instruction_sets.hindrance()
    for name, processor in (("AVX2", "Haswell"), ("SSE4.1", "Nehalem")):
        runs = f"{instruction_sets.EMULATOR} -cpu {processor}"
        yield Target(name, runs, [instruction_sets.EMULATOR, "-cpu", processor, sys.executable], missing=missing)
    missing = arm.hindrance(place)
    runs = f"{arm.EMULATOR} -cpu {arm.PROCESSOR}"
    yield Target("Arm", runs, arm.interpreter(place), arm.packages(place), missing)
    yield Target("AVX-512 without VNNI", "–", [], missing="qemu-user does not emulate AVX-512")


@dataclass(frozen=True)
class Task:
    """A model file, and its inputs in batches."""

    name: str
    model: Path
    pieces: list[list[Arrays]]
    compare: Callable[[Sequence[Arrays], Sequence[Arrays]], dict[str, float]]


def feeds(ids: Sequence[int]) -> Arrays:
    """Make the inputs of one row, without padding."""
    row = np.array([ids], np.int64)
    places = np.arange(len(ids), dtype=np.int64)[None]
    return {"input_ids": row, "attention_mask": np.ones_like(row), "token_type_ids": np.zeros_like(row), "position_ids": places}


def pieces(rows: Sequence[Arrays], size: int) -> list[list[Arrays]]:
    """Split rows into batches of one process each."""
    return [list(rows[start : start + size]) for start in range(0, len(rows), size)]


def classes(expected: Sequence[Arrays], found: Sequence[Arrays]) -> dict[str, float]:
    """Compare a classifier's answers."""
    answers, changed, largest = instruction_sets.differences(expected, found)
    return {"rows": answers, "changed": changed, "largest": largest}


def next_tokens(expected: Sequence[Arrays], found: Sequence[Arrays]) -> dict[str, float]:
    """Compare the top token of each position; `beyond`: changed although its margin exceeds the difference of logits there."""
    total = {"rows": 0.0, "changed": 0.0, "beyond": 0.0, "largest": 0.0}
    for one, other in zip(expected, found, strict=True):
        wanted, got = np.asarray(one["logits"][0], np.float64), np.asarray(other["logits"][0], np.float64)
        top = np.sort(wanted, axis=-1)[:, -2:]
        off = np.abs(wanted - got).max(axis=-1)
        changed = wanted.argmax(axis=-1) != got.argmax(axis=-1)
        total["rows"] += len(wanted)
        total["changed"] += float(changed.sum())
        total["beyond"] += float((changed & (top[:, 1] - top[:, 0] > off)).sum())
        total["largest"] = max(total["largest"], float(off.max()))
    return total


def encoder(examples: Path, given: Path | None, rows_of: Path | None, count: int) -> Task:
    """Return an artifact (default: the demo's original in the default form) and rows of text (default: its validation)."""
    folder, name = given, "encoder classifier"
    if folder is not None:
        name = f"{name}, {folder.parent.name}/{folder.name}"
    else:
        place = ROOT / ".cache" / "portable" / "demo"
        folder = place / "portable"
        found = datasets.material("demo", examples, examples, place / "data")
        portable.write(found, place / "original", examples / "model", place)
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.no_padding()
    lines = (rows_of or examples / "data" / "validation.jsonl").read_text("utf-8").splitlines()[:count]
    rows = [feeds(one.ids) for one in tokenizer.encode_batch([json.loads(line)["text"] for line in lines])]
    return Task(name, folder / FILE, pieces(rows, 50), classes)


def language_model(examples: Path, count: int) -> Task:
    """Write SmolLM2-135M in the default form, and rows of tokens of editorials."""
    folder, source = WORK / "decoder", WORK / "unpacked"
    if not source.is_dir():
        gguf_unpack.unpack(examples / "decoder", source)
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    decoder.write(loading.load_model(source, (), "causal-lm", seed=0), folder, simulation=Simulation.of(Quantize()))
    tokenizer = Tokenizer.from_file(str(source / "tokenizer.json"))
    ids: list[int] = tokenizer.encode((examples / "texts" / "validation.txt").read_text("utf-8")).ids
    rows = [feeds(ids[start : start + TOKENS]) for start in range(0, count * TOKENS, TOKENS)]
    return Task("language model", folder / FILE, pieces(rows, 8), next_tokens)


def compared(task: Task, target: Target, say: Callable[[str], None]) -> dict[str, Any]:
    """Compare batch by batch, resuming from stored results. -> the sums."""
    data = task.model.with_name(f"{FILE}_data")
    digest = hashlib.sha256(b"".join(path.read_bytes() for path in (task.model, data) if path.is_file()))
    digest.update("".join(f"{one['input_ids'].tolist()}" for piece in task.pieces for one in piece).encode())
    digest.update(" ".join((target.runs, version("onnxruntime"))).encode())
    kept = WORK / "compared" / f"{digest.hexdigest()[:16]}.json"
    done: list[dict[str, float]] = json.loads(kept.read_text("utf-8")) if kept.is_file() else []
    for number, piece in enumerate(task.pieces[len(done) :], len(done) + 1):
        started = time.monotonic()
        found = instruction_sets.ask(target.interpreter, task.model, piece, PATIENCE, target.packages)
        one = task.compare(standalone.answer(str(task.model), piece), found)
        done.append({**one, "seconds": time.monotonic() - started})
        kept.parent.mkdir(parents=True, exist_ok=True)
        kept.write_text(json.dumps(done), "utf-8")
        say(f"{task.name}, {target.name}: piece {number} of {len(task.pieces)}, {done[-1]['seconds']:.0f} s")
    largest = max(one.pop("largest") for one in done)
    return {name: sum(one[name] for one in done) for name in done[0]} | {"largest": largest}


def holds(row: dict[str, Any]) -> bool:
    """Return whether a comparison is within the bounds."""
    if "beyond" in row:
        return bool(row["beyond"] == 0 and row["changed"] <= SHARE * row["rows"])
    return bool(row["changed"] == 0 and row["largest"] <= ALLOWED)


def line(row: dict[str, Any]) -> str:
    """Return one row of the table, in Markdown."""
    if "not_compared" in row:
        return f"| {row['task']} | {row['name']} | {row['runs']} | not compared: {row['not_compared']} | | | |"
    beyond = "" if "beyond" not in row else f", {row['beyond']:.0f} of them beyond their margin"
    cells = [f"{row['rows']:,.0f}", f"{row['changed']:.0f}{beyond}", f"{row['largest']:.4f}", "yes" if holds(row) else "**no**"]
    return f"| {row['task']} | {row['name']} | {row['runs']} | {' | '.join(cells)} |"


def main() -> int:
    """Compare, write the record, print the table; return 1 if a comparison is out of bounds."""
    parser = argparse.ArgumentParser(prog="python -m bench.portability.equality")
    parser.add_argument(
        "--examples", type=Path, default=ROOT / ".cache" / "examples", help="scripts/fetch_examples.py's folder"
    )
    parser.add_argument(
        "--encoder",
        type=Path,
        nargs="*",
        default=[],
        help="artifacts of classifiers (default: the demo's original, tuned briefly)",
    )
    parser.add_argument("--rows-of", type=Path, help="JSONL of the texts that they are asked")
    parser.add_argument("--rows", type=int, default=300, help="rows of the classifier")
    parser.add_argument("--texts", type=int, default=32, help=f"rows of {TOKENS} tokens of the language model; 0: none")
    parser.add_argument("--table-only", action="store_true", help="print the record")
    options = parser.parse_args()
    if not options.table_only:
        os.nice(5)
        found = []
        given = options.encoder or [None]
        tasks = [encoder(options.examples, each, options.rows_of, options.rows) for each in given]
        if options.texts:
            tasks.append(language_model(options.examples, options.texts))
        for task in tasks:
            for target in targets(WORK / "aarch64"):
                about = {"task": task.name, "name": target.name, "runs": target.runs}
                if target.missing is not None:
                    found.append({**about, "not_compared": target.missing})
                    continue
                try:
                    found.append({**about, **compared(task, target, lambda said: print(said, file=sys.stderr, flush=True))})
                except subprocess.SubprocessError as problem:
                    said = getattr(problem, "stderr", None) or str(problem)
                    found.append({**about, "not_compared": str(said).strip()[-200:]})
        machine = {"processor": platform.machine(), **{name: version(name) for name in ("onnxruntime", "numpy")}}
        RECORD.parent.mkdir(parents=True, exist_ok=True)
        RECORD.write_text(json.dumps({"environment": machine, "rows": found}, indent=1) + "\n", "utf-8")
    rows = json.loads(RECORD.read_text("utf-8"))["rows"]
    print(
        "| model | instruction set | by | rows or positions | answers that differ | logits differ by at most | within bounds |"
    )
    print("| --- | --- | --- | --- | --- | --- | --- |")
    for row in rows:
        print(line(row))
    return 0 if all("not_compared" in row or holds(row) for row in rows) else 1


if __name__ == "__main__":
    sys.exit(main())
