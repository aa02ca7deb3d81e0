"""`python -m bench account (--model NAME | --shape 1.5b|2.1b) --data FOLDER`: the published account's own case.

The account asks for at most 1.5 billion parameters, 120 ms on an A100 and a top-1 score of 74.3 %, and reports what it came to.
With --shape: the service's own preflight of a job for a model of that shape, with no weights, and its hours on two cores and by
the data sheets of an A100 and an H100; then dry runs of training steps on fake tensors (bench/gpu_plan); then, on a card, the
job with random weights, whose score means nothing. With --model: the whole job on a model that is there, at its size.

What was found is in bench/account/records: --table-only prints it and runs nothing. A call ends after --minutes, and the same
command goes on from the last save.
"""

import argparse
import json
import time
from pathlib import Path
from typing import Any

import torch

from bench import engine, record_file
from bench.account import job, plan, published
from bench.account.table import account_table, plan_table, run_table
from bench.examples import EXAMPLES, model_folder
from bench.glue import datasets as glue
from bench.gpu_plan import __main__ as gpu_plan
from bench.gpu_plan.shapes import SHAPES
from compression.modalities.registry import modality_of
from compression.schema.job_spec import Data
from compression.schema.validation import DataFacts

ROOT = Path(__file__).parent.parent.parent
RECIPES = ("standard", "article")
DRY_MINUTES = 3.0
"""What one dry run may take: none is begun later than that before the end of a call."""
CARD_ROWS, CARD_TRAIN_MINUTES = 1600, 3.0
"""On a card, with random weights: few rows, and a limit on training, since what is asked is memory and speed."""
FEW_TEST_ROWS = 64
"""Rows of test on a card and in a trial, whose scores mean nothing."""


def main(arguments: list[str] | None = None) -> None:
    """Run what has no record, then print."""
    parser = argparse.ArgumentParser(prog="python -m bench account", description=__doc__)
    which = parser.add_mutually_exclusive_group(required=True)
    which.add_argument(
        "--model", help="smollm2 of scripts/fetch_examples.py, or the folder of a decoder; on a card if there is one"
    )
    which.add_argument("--shape", choices=list(published.SHAPES))
    parser.add_argument("--data", type=Path, help="folder of copies of the GLUE sets; without it they come from the hub")
    parser.add_argument("--set", default="sst2", choices=[name for name, one in glue.SETS.items() if one.labels])
    parser.add_argument("--rows", type=int, default=8000, help="of train, validation included")
    parser.add_argument("--recipe", default="standard", choices=RECIPES, help="of the run; plans are of both")
    parser.add_argument("--seed", type=int, default=0, help="one run each; the table has the mean of those that there are")
    parser.add_argument("--trial", type=int, metavar="STEPS", help="of all training, with few rows of test: to try the command")
    parser.add_argument("--minutes", type=float, help="after which this call ends")
    parser.add_argument("--threads", type=int, help="of training; all cores by default")
    parser.add_argument("--examples", type=Path, default=EXAMPLES, help="where scripts/fetch_examples.py put the model")
    parser.add_argument("--folder", type=Path, default=ROOT / ".cache/bench-account", help="where runs are kept")
    parser.add_argument("--table-only", action="store_true", help="run nothing")
    asked = parser.parse_args(arguments)
    name = run_name(asked)
    if not asked.table_only:
        ended = time.monotonic() + 60 * asked.minutes if asked.minutes is not None else None
        (of_shape if asked.shape else of_model)(asked, name, ended)
    show(asked, name)


def run_name(asked: argparse.Namespace) -> str:
    """Return the name of a run's record and folder."""
    rows = CARD_ROWS if asked.shape else asked.rows
    trial = [f"trial-of-{asked.trial}"] if asked.trial else []
    return "-".join([_whose(asked), asked.set, str(rows), asked.recipe, *trial, str(asked.seed)])


def _whose(asked: argparse.Namespace) -> str:
    """Return the shape's name, or that of the model's folder."""
    return asked.shape or Path(asked.model).resolve().name


def of_model(asked: argparse.Namespace, name: str, ended: float | None) -> None:
    """Run the job on a model that is there."""
    model = model_folder(asked.model, asked.examples)
    if (kept := record_file.read(job.path_of(name))) is not None:
        if kept["model_digest"] != job.digest_of(model):
            raise SystemExit(f"{job.path_of(name)} is of another model; remove it to run this one")
        return
    _run(asked, name, model, asked.rows, ended)


def of_shape(asked: argparse.Namespace, name: str, ended: float | None) -> None:
    """Plan the shape, run its steps dry, and run the job where there is a card."""
    shape, chosen = published.SHAPES[asked.shape], glue.SETS[asked.set]
    data, _ = glue.prepare(chosen, asked.data, asked.folder.resolve() / "data" / f"{chosen.name}-all", None)
    facts = modality_of(chosen.task).check(data, Path(), chosen.task)
    assert isinstance(facts, DataFacts), "the set is whole"
    for recipe in RECIPES:
        record_file.write(plan_path(shape, chosen.name, recipe), plan.plan(shape, chosen, facts, recipe))
    for case in gpu_plan.DRY:
        if case.shape == shape and not gpu_plan.path_of(case, real=False).exists():
            if ended is not None and time.monotonic() + 60 * DRY_MINUTES > ended:
                raise engine.Stopped(f"{asked.shape}: {case.name} is left; the same command goes on")
            gpu_plan.keep(case, real=False)
    if not torch.cuda.is_available() or job.path_of(name).exists():
        return
    folder = asked.folder.resolve()
    texts = [json.loads(line)["text"] for line in Path(data.splits["train"][0]).read_text("utf-8").splitlines()[:20_000]]
    model = job.random_model(SHAPES[shape], texts, folder / f"{asked.shape}-{asked.seed}", asked.seed)
    _run(asked, name, model, CARD_ROWS, ended)


def _run(asked: argparse.Namespace, name: str, model: Path, rows: int, ended: float | None) -> None:
    """Run the job of a model, and keep its record."""
    chosen, folder = glue.SETS[asked.set], asked.folder.resolve()
    data, digest = glue.prepare(chosen, asked.data, folder / "data" / f"{chosen.name}-{rows}", rows)
    recipe = plan.recipe_of(asked.recipe, chosen.task, seed=asked.seed)
    if asked.shape or asked.trial:
        data = _few(data, folder / "data" / f"{chosen.name}-test-{FEW_TEST_ROWS}.jsonl")
        limits = {"max_steps": asked.trial, "max_minutes": CARD_TRAIN_MINUTES if asked.shape else None}
        recipe = recipe.model_copy(update={"train": recipe.train.model_copy(update=limits)})
    left = None if ended is None else max(ended - time.monotonic(), 1.0) / 60
    card = torch.cuda.is_available()
    spec = job.spec_of(model, chosen, data, recipe) | {"threads": asked.threads, "device": "cuda" if card else None}
    run = engine.run(folder / name, spec, keep=job.SHIPPED, minutes=left)
    whose = published.SHAPES[asked.shape] if asked.shape else _whose(asked)
    about = {"model": whose, "set": asked.set, "train_rows": rows, "digest": digest}
    about |= {"model_digest": job.digest_of(model), "preset": asked.recipe, "seed": asked.seed, "trial_steps": asked.trial}
    if asked.shape:
        about |= {"random_weights": True}
    if card:
        about |= {"device": torch.cuda.get_device_name()}
    job.keep(name, about, run, Path(data.splits["test"][0]))


def _few(data: Data, path: Path) -> Data:
    """Return the data with the first rows of test alone."""
    lines = Path(data.splits["test"][0]).read_text("utf-8").splitlines(keepends=True)
    glue.put(path, "".join(lines[:FEW_TEST_ROWS]))
    return data.model_copy(update={"splits": {**data.splits, "test": (str(path),)}})


def plan_path(shape: str, chosen: str, recipe: str) -> Path:
    """Return the path of a plan's record."""
    return job.RECORDS / "plan" / f"{shape}-{chosen}-{recipe}.json"


def show(asked: argparse.Namespace, name: str) -> None:
    """Print the records of what was asked, and the account's figures beside them."""
    runs: list[dict[str, Any]] = [found for path in same_runs(name) if (found := record_file.read(path)) is not None]
    plans: list[dict[str, Any]] = []
    if asked.shape:
        shape = published.SHAPES[asked.shape]
        each = [record_file.read(plan_path(shape, asked.set, recipe)) for recipe in RECIPES]
        plans = [found for found in each if found is not None]
        print(plan_table(plans), end="\n\n")
        print(gpu_plan.table([case for case in gpu_plan.DRY if case.shape == shape], real=False), end="\n\n")
    if runs:
        print(run_table(runs), end="\n\n")
    elif asked.shape:
        print("not_measured: the job itself needs a card, and there was none.\n")
    print(account_table(plans, runs), flush=True)


def same_runs(name: str) -> list[Path]:
    """Return the records of the runs that differ from one in their seed alone."""
    stem = name.rpartition("-")[0]
    return sorted(path for path in job.path_of(name).parent.glob(f"{stem}-*.json") if path.stem.rpartition("-")[0] == stem)


if __name__ == "__main__":
    main()
