"""`python -m bench gpu_plan`: the forecast of a training's memory beside a dry run of it, and beside real trainings.

A dry run is two steps by the engine's own trainer on fake tensors (no weights, no card), counted by PyTorch's memory
tracker. Its peak is set beside what a forecast says that models and step take (compression/planning/memory.py), without the
process and without what an allocator keeps. Integers are multiplied as on a card; attention is the CPU's, which like a card's
keeps queries, keys, values and sums. --measure trains SmolLM2-135M and random weights of SmolLM2-360M's shape for two steps,
and cuts SmolLM2-135M with least squares, each in a process of its own, and sets the kernel's peak (VmHWM) beside the forecast
for a CPU. Cases with a record are not run again (--again does); --table-only prints the records. --cards prints what a job on
Llama-3.1-8B needs of one card and of eight, by the forecast alone.
"""

import argparse
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path

from bench import record_file
from bench.gpu_plan import cards
from bench.gpu_plan.measured import measure
from bench.gpu_plan.step import Case
from compression.planning.cut_memory import cut_bytes
from compression.planning.memory import KEPT_FREED, PROCESS_BYTES, trainings

RECORDS = Path(__file__).parent / "records"
LARGE = ("r1-distill-qwen-1.5b", "qwen3-4b", "llama-3.1-8b", "deepseek-v2-lite")
DRY = (
    *(Case(shape, way) for shape in LARGE[:3] for way in ("tune", "distill")),
    *(Case(shape, "distill", recompute=True) for shape in LARGE[:3]),
    Case(LARGE[0], "tune", batch=1),
    Case(LARGE[0], "tune", recompute=True),
    Case(LARGE[0], "distill", teacher="int8"),
    Case(LARGE[3], "tune", batch=1),
    Case("account-2.1b", "tune", recompute=True),
    Case("account-2.1b", "distill"),
    Case("account-2.1b", "distill", recompute=True),
)
REAL = (
    Case("smollm2-135m", "tune", batch=2, precision="float32"),
    Case("smollm2-135m", "tune", batch=2),
    Case("smollm2-135m", "distill", batch=2),
    Case("smollm2-360m", "tune", batch=1, length=256),
    Case("smollm2-135m", "cut", batch=64),
)
MOST_APART = 0.15
HEAD = "| training | rows × tokens | {} | forecast | forecast ÷ it | within 15 % |\n| --- | --- | --- | --- | --- | --- |"


def main(arguments: list[str] | None = None) -> None:
    """Run what has no record, then print."""
    parser = argparse.ArgumentParser(prog="python -m bench gpu_plan", description=__doc__)
    parser.add_argument("--shape", nargs="+", choices=sorted({case.shape for case in DRY + REAL}), help="these alone")
    parser.add_argument("--measure", action="store_true", help="train for real too: up to 11 GB of memory, some minutes")
    parser.add_argument("--again", action="store_true", help="run cases that have a record too")
    parser.add_argument("--table-only", action="store_true", help="run nothing")
    parser.add_argument("--cards", action="store_true", help="print what a job needs of cards, and nothing else")
    asked = parser.parse_args(arguments)
    if asked.cards:
        print(cards.table())
        return
    for real, cases in ((False, DRY), (True, REAL)):
        some = [case for case in cases if asked.shape is None or case.shape in asked.shape]
        if not asked.table_only and (asked.measure or not real):
            for case in some:
                if asked.again or not path_of(case, real=real).exists():
                    keep(case, real=real)
        print(table(some, real=real), flush=True)


def path_of(case: Case, *, real: bool) -> Path:
    """Return the path of a case's record."""
    return RECORDS / ("measured" if real else "dry") / f"{case.name}.json"


def keep(case: Case, *, real: bool) -> None:
    """Run a case and write its record."""
    from bench.gpu_plan.dry_run import dry_run

    found = measure(case) if real else dry_run(case)
    record_file.write(path_of(case, real=real), {"case": asdict(case), "bytes": found})


def forecast(case: Case, *, device: str) -> int:
    """Return the bytes that the forecast says of a case's training or cut on a device."""
    if case.way == "cut":
        return cut_bytes(case.job, device)
    return next(one.total for one in trainings(case.job, device) if one.name == case.way)


def table(cases: Iterable[Case], *, real: bool) -> str:
    """Return the records of cases beside their forecasts, in Markdown."""
    return "\n".join([HEAD.format("peak, measured" if real else "peak, dry run"), *(line(case, real=real) for case in cases)])


def line(case: Case, *, real: bool) -> str:
    """Return a case's line; without a record it says so."""
    how = [case.way, case.precision if case.way == "tune" else f"teacher in {case.teacher}", *["recompute"] * case.recompute]
    about = f"| {case.shape}, {', '.join(how)} | {case.batch} × {case.length} |"
    record = record_file.read(path_of(case, real=real))
    if record is None:
        return f"{about} not_measured: there is no record | | | |"
    found: dict[str, int] = record["bytes"]
    planned = forecast(case, device="cpu" if real else "cuda")
    if real:
        peak, planned = found["peak"], round(KEPT_FREED * (PROCESS_BYTES + planned))
    else:
        peak = found["Total"]
    share = planned / peak
    return f"{about} {peak / 1e9:.2f} GB | {planned / 1e9:.2f} GB | {share:.2f} | {abs(share - 1) <= MOST_APART} |"


if __name__ == "__main__":
    main()
