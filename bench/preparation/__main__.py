"""`python -m bench preparation --data FOLDER`: compare the job's original with a grid of plain trainings.

The grid is 4 rates × 2 seeds of a plain loop (grid.py) on each of six sets, each run judged on validation after every epoch;
a cell is a rate, worth its best epoch, on the mean over seeds. The job prepares the same rows by the defaults. Runs that a
record has are not done again, so the command may be stopped at any time; `--table-only` prints what the records say.
"""

import argparse
from pathlib import Path

import torch

from bench.preparation import datasets, grid, job, table
from bench.preparation.datasets import Prepared
from bench.preparation.records import Run, kept

ROOT = Path(__file__).parent.parent.parent
RECORDS = Path(__file__).parent / "records"


def main(arguments: list[str] | None = None) -> None:
    """Run what has no record yet, then print."""
    parser = argparse.ArgumentParser(prog="python -m bench preparation", description=__doc__)
    parser.add_argument("--model", type=Path, default=ROOT / ".cache/examples/model")
    parser.add_argument("--examples", type=Path, default=ROOT / ".cache/examples", help="what scripts/fetch_examples.py wrote")
    parser.add_argument("--data", type=Path, required=True, help="folder of copies: glue/, intents/")
    parser.add_argument("--sets", nargs="+", default=list(datasets.NAMES), choices=datasets.NAMES)
    parser.add_argument(
        "--rows", type=int, help="of train, validation included (default: 1,600; of RTE 400, of MRPC 600, of STS-B 1,000)"
    )
    parser.add_argument("--epochs", type=int, default=12, help="of the grid's runs")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1])
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--folder", type=Path, default=ROOT / ".cache/bench-preparation", help="where data and runs are kept")
    parser.add_argument("--only", choices=["grid", "job"], help="run these alone")
    parser.add_argument("--table-only", action="store_true", help="print the lines of sets that have all records")
    asked = parser.parse_args(arguments)
    torch.set_num_threads(asked.threads)
    prepared = {
        name: datasets.prepare(
            name, asked.data, asked.examples, (asked.folder / "data" / name).resolve(), asked.rows or datasets.MOST[name]
        )
        for name in asked.sets
    }
    for seed in asked.seeds if not asked.table_only else ():
        for one in prepared.values():
            if asked.only != "grid":
                runs, records = asked.folder.resolve() / "jobs", RECORDS / "job"
                tell(job.run(one, asked.model, runs, records, seed, asked.threads))
            for rate in grid.RATES if asked.only != "job" else ():
                tell(grid.run(one, asked.model, RECORDS / "grid", rate, seed, asked.epochs))
    print(table.HEAD)
    for one in prepared.values():
        cells, own = found(one, asked.seeds)
        if own and all(cells.values()):
            print(table.lines(one, cells, own), flush=True)


def tell(run: Run) -> None:
    """Print the result of a training."""
    best = f"{run.curve[run.best_epoch - 1]:.4f} at epoch {run.best_epoch}" if run.best_epoch else "no epoch gained"
    print(f"{run.name} {run.rate:g}, seed {run.seed}: {best}, {run.seconds:.0f} s", flush=True)


def found(prepared: Prepared, seeds: list[int]) -> tuple[dict[float, list[Run]], list[Run]]:
    """Read a set's records: rate → runs, and the job's; empty lists if one is missing."""

    def each(paths: list[Path]) -> list[Run]:
        runs = [run for path in paths if (run := kept(path, prepared.digest)) is not None]
        return runs if len(runs) == len(paths) else []

    name = prepared.name
    cells = {rate: each([RECORDS / "grid" / f"{name}-{rate:g}-{seed}.json" for seed in seeds]) for rate in grid.RATES}
    return cells, each([RECORDS / "job" / f"{name}-{seed}.json" for seed in seeds])


if __name__ == "__main__":
    main()
