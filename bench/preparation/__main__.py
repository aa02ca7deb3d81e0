"""`python -m bench preparation --data FOLDER`: the job's original beside a grid of plain trainings.

The grid is 4 rates × 2 seeds of a plain loop (grid.py) on each of six sets, each run judged on validation after every epoch;
a cell is a rate, worth its best epoch. Runs that a record has are not done again, so the command may be stopped at any time.
"""

import argparse
from pathlib import Path

import torch

from bench.preparation import grid, sets

ROOT = Path(__file__).parent.parent.parent
RECORDS = Path(__file__).parent / "records"


def main(arguments: list[str] | None = None) -> None:
    """Do what no record has yet."""
    parser = argparse.ArgumentParser(prog="python -m bench preparation", description=__doc__)
    parser.add_argument("--model", type=Path, default=ROOT / ".cache/examples/model")
    parser.add_argument("--examples", type=Path, default=ROOT / ".cache/examples", help="what scripts/fetch_examples.py wrote")
    parser.add_argument("--data", type=Path, required=True, help="folder of copies: glue/, intents/")
    parser.add_argument("--sets", nargs="+", default=list(sets.NAMES), choices=sets.NAMES)
    parser.add_argument("--rows", type=int, default=1600, help="of train, validation included")
    parser.add_argument("--epochs", type=int, default=12)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1])
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--folder", type=Path, default=ROOT / ".cache/bench-preparation", help="where data and runs are kept")
    asked = parser.parse_args(arguments)
    torch.set_num_threads(asked.threads)
    for seed in asked.seeds:
        for name in asked.sets:
            prepared = sets.prepare(name, asked.data, asked.examples, asked.folder / "data" / name, asked.rows)
            for rate in grid.RATES:
                found = grid.run(prepared, asked.model, RECORDS / "grid", rate, seed, asked.epochs)
                print(
                    f"{name} {rate:g} {seed}: {found.best:.4f} at epoch {found.best_epoch}, {found.seconds:.0f} s", flush=True
                )


if __name__ == "__main__":
    main()
