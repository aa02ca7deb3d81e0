"""`python -m bench search`: the solver, TPE, NSGA-II and reinforcement learning on real error tables, side by side.

  evaluations  each search makes the same number of predictions
  seconds      each search has the same wall clock

Of MiniLM (one width for each axis, and its layers) and of ResNet-20 (each group's width, and its blocks; ResNet-56 by
--models), within half of the parameters, or 40 % of parameters and multiply-adds. An error is the sum over the tables, of which
the solver's is the least there is: the table shows by how much the others miss it.

What has a record is not run again (`--again`), so the command may be stopped at any time; `--table-only` prints the records.
Records: bench/search/records. The tables are computed once from `make demo`'s model and bench/vision's, and kept beside them.
"""

import argparse
import math
import statistics
from collections.abc import Iterator
from itertools import product
from pathlib import Path

from bench import record_file
from bench.search.tables import ENCODER, KEPT, Record, kept_tables, problem_of
from compression.planning.search.comparison import NOTHING, outcome, search_of
from compression.planning.search.problem import Problem
from compression.planning.search.trials import run_search
from compression.schema.errors import TargetOutOfReach
from compression.schema.recipe.prune import MOST_EVALUATIONS, SearchBudget
from compression.schema.searches import SEARCHES, SOLVER

RECORDS = Path(__file__).parent / "records"
ROOT = Path(__file__).parents[2]
MODES = ("evaluations", "seconds")


def budget_of(mode: str, asked: argparse.Namespace) -> SearchBudget:
    """Return a mode's budget; the other limit is too far off to matter."""
    if mode == "evaluations":
        return SearchBudget(evaluations=asked.evaluations, seconds=3600)
    return SearchBudget(evaluations=MOST_EVALUATIONS, seconds=asked.seconds)


def work(asked: argparse.Namespace) -> Iterator[tuple[str, str, str, int]]:
    """Yield model, mode, search and seed of each run; the solver has one seed, because it draws nothing."""
    for model, mode, search in product(asked.models, asked.modes, SEARCHES):
        for seed in asked.seeds[: 1 if search == SOLVER else None]:
            yield model, mode, search, seed


def run(problem: Problem, search: str, budget: SearchBudget, seed: int) -> Record:
    """Run a search. `best`: when its best was found, in evaluations and seconds."""
    try:
        result = run_search(search_of(search), problem, budget, seed)
    except TargetOutOfReach:
        result = NOTHING
    found = outcome(search, result, budget).model_dump(mode="json")
    best = result.best
    when = None if best is None else {"evaluations": result.tried.index(best) + 1, "seconds": round(best.seconds, 3)}
    picks, costs = (dict(best.picks), dict(best.costs)) if best is not None else (None, None)
    return {**found, "budget": budget.model_dump(mode="json"), "seed": seed, "best": when, "picks": picks, "costs": costs}


def lines(asked: argparse.Namespace) -> Iterator[str]:
    """Yield the table of the records, in Markdown. Records of other tables than the solver's are left out."""
    yield "| model | same | search | error against the solver's, each seed | median | evaluations | seconds |"
    yield "| --- | --- | --- | --- | --- | --- | --- |"
    for model, mode, search in product(asked.models, asked.modes, SEARCHES):
        solver = record_file.read(asked.records / f"{model}-{mode}-{SOLVER}-{asked.seeds[0]}.json")
        names = (asked.records / f"{model}-{mode}-{search}-{seed}.json" for seed in asked.seeds)
        found = [one for one in map(record_file.read, names) if one is not None]
        if solver is None or not (found := [one for one in found if one["tables"] == solver["tables"]]):
            continue
        shares = [against(one["error"], solver["error"]) for one in found]
        each = ", ".join("none allowed" if share is None else f"{share:.3f}" for share in shares)
        known = [share for share in shares if share is not None]
        middle = f"{statistics.median(known):.3f}" if known else "–"
        evaluations, seconds = (statistics.median(one[key] for one in found) for key in ("evaluations", "seconds"))
        yield f"| {model} | {mode} | {search} | {each} | {middle} | {evaluations:.0f} | {seconds:.1f} |"


def against(error: float | None, least: float | None) -> float | None:
    """Return an error as a share of the solver's; infinite if the solver's is 0 or none and this is another."""
    if error is None or error == least:
        return None if error is None else 1.0
    return error / least if least else math.inf


def main(arguments: list[str] | None = None) -> None:
    """Run what has no record yet, then print all."""
    parser = argparse.ArgumentParser(
        prog="python -m bench search", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--models", nargs="+", default=[ENCODER, "resnet20"], choices=list(KEPT))
    parser.add_argument("--modes", nargs="+", default=list(MODES), choices=list(MODES))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--evaluations", type=int, default=500)
    parser.add_argument("--seconds", type=float, default=20.0)
    parser.add_argument("--examples", type=Path, default=ROOT / ".cache" / "examples", help="of fetch_examples.py")
    parser.add_argument("--vision", type=Path, default=ROOT.parent / "shared" / "data" / "vision", help="CIFAR-10 and weights")
    parser.add_argument("--records", type=Path, default=RECORDS)
    parser.add_argument("--again", action="store_true", help="run what has a record too")
    parser.add_argument("--table-only", action="store_true")
    asked = parser.parse_args(arguments)
    problems: dict[str, tuple[Problem, str]] = {}
    for model, mode, search, seed in () if asked.table_only else work(asked):
        path, budget = asked.records / f"{model}-{mode}-{search}-{seed}.json", budget_of(mode, asked)
        if model not in problems:
            tables = kept_tables(model, asked.records / f"tables-{model}.json", asked.examples, asked.vision)
            problems[model] = problem_of(model, tables), tables["tables"]["digest"]
        problem, digest = problems[model]
        known, own = record_file.read(path), {"budget": budget.model_dump(mode="json"), "tables": digest}
        if known is not None and own.items() <= known.items() and not asked.again:
            continue
        record_file.write(path, {**run(problem, search, budget, seed), **own})
        print(path.stem, flush=True)
    print("\n".join(lines(asked)))


if __name__ == "__main__":
    main()
