"""`python -m bench article --data FOLDER --folder RESULTS`: see the package; stop it at any time and start it again."""

import argparse
import json
import time
from pathlib import Path

import numpy as np

from bench.article import compare, glue
from bench.article.cells import ABLATION, Cell, recipe_named
from bench.article.statistics import METRICS, Answers, differences, geometric_mean, kept
from compression.environment import environment
from compression.recipe import PRESETS

ROOT = Path(__file__).parent.parent.parent
ORIGINAL, OWN = "original FP32", "ONNX Runtime's own INT8"


def main(arguments: list[str] | None = None) -> None:
    """Run what is missing, then print."""
    parser = argparse.ArgumentParser(prog="python -m bench article", description=__doc__)
    parser.add_argument("--data", type=Path, help="folder of copies of the four sets; without it they come from the hub")
    parser.add_argument("--folder", type=Path, default=ROOT / ".cache/bench-article", help="where runs are kept")
    parser.add_argument("--model", type=Path, default=ROOT / ".cache/examples/model")
    parser.add_argument("--sets", nargs="+", default=list(glue.SETS), choices=list(glue.SETS))
    parser.add_argument("--recipes", nargs="*", default=["article", "standard"], choices=list(PRESETS))
    parser.add_argument("--ablation", nargs="*", default=[], choices=[*ABLATION, "all"], metavar="PART")
    parser.add_argument("--seeds", type=int, default=3, help="of the three small sets")
    parser.add_argument("--rows", type=int, default=8000, help="training rows of SST-2, validation included; 0 takes all")
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--threads", type=int, help="of training; all cores by default")
    parser.add_argument("--table-only", action="store_true", help="print what is there; run nothing")
    asked = parser.parse_args(arguments)
    changed = list(ABLATION) if "all" in asked.ablation else list(asked.ablation)
    cells = list(_cells(asked))
    for name in [None, *asked.recipes, *changed]:
        for cell in cells:
            started = time.monotonic()
            if asked.table_only:
                continue
            run = cell.original() if name is None else cell.compressed(name, recipe_named(name, cell.set))
            print(
                f"{name or 'original'} {cell.set.name} seed {cell.seed}: {run.report.rows[-1].score}, "
                f"{run.seconds / 60:.1f} min ({time.monotonic() - started:.0f} s now)",
                flush=True,
            )
    _table(cells, asked.recipes, asked.folder)
    if changed:
        _ablation(cells, changed)


def _cells(asked: argparse.Namespace) -> list[Cell]:
    out = []
    folder: Path = asked.folder.resolve()
    for name in asked.sets:
        chosen = glue.SETS[name]
        most = (asked.rows or None) if name == "sst2" else None
        data, digest = glue.prepare(chosen, asked.data, folder / "data" / name, most)
        print(f"{name}: rows {digest}")
        for seed in range(asked.seeds if chosen.seeds else 1):
            place = folder / f"{name}-{seed}"
            out.append(Cell(chosen, data, seed, place, asked.model.resolve(), asked.batch, asked.threads))
    return out


def _answers(cell: Cell, name: str, folder: Path) -> "np.ndarray[tuple[int], np.dtype[np.float64]]":
    """Ask an artifact once; what it said is kept beside it."""
    path = cell.folder / f"answers-{name}.npy".replace(" ", "-")
    if not path.is_file():
        said, _ = compare.answers(folder, cell.test_rows)
        np.save(path, said)
    found: np.ndarray[tuple[int], np.dtype[np.float64]] = np.load(path)
    return found


def _collect(cells: list[Cell], names: list[str]) -> tuple[dict[str, Answers], dict[str, dict[str, Path]]]:
    """Gather what every model said of every set, and the folders of the first seed's artifacts."""
    said: dict[str, dict[str, list[np.ndarray[tuple[int], np.dtype[np.float64]]]]] = {}
    wanted, places = {}, {}
    for cell in cells:
        original = cell.original()
        fp32 = original.artifact("baseline-onnx-float32")
        folders = {ORIGINAL: fp32, OWN: compare.own_int8(fp32, cell.folder / "own-int8")}
        for name in names:
            run = cell.compressed(name, recipe_named(name, cell.set))
            folders[name] = run.artifact(run.report.headline)
        here = said.setdefault(cell.set.name, {})
        for name, folder in folders.items():
            here.setdefault(name, []).append(_answers(cell, name, folder))
        if cell.set.name not in wanted:
            wanted[cell.set.name] = compare.answers(fp32, cell.test_rows)[1]
            places[cell.set.name] = folders
    found = {name: Answers(wanted[name], {model: np.stack(a) for model, a in here.items()}) for name, here in said.items()}
    return found, places


def _table(cells: list[Cell], recipes: list[str], folder: Path) -> None:
    found, places = _collect(cells, recipes)
    print(f"\n{json.dumps(environment())}\n")
    head = ["model", "parameters", "without tables", "bytes", "1 × 128, one thread", "against ORT's INT8", *found]
    print("| " + " | ".join([*head, "mean", "kept"]) + " |")
    print("|" + " --- |" * (len(head) + 2))
    times = {name: compare.time_all(folders) for name, folders in places.items()}
    reports = {name: [cell.compressed(name, recipe_named(name, cell.set)).report for cell in cells] for name in recipes}
    for model in [ORIGINAL, OWN, *recipes]:
        faster = geometric_mean([each[ORIGINAL] / each[model] for each in times.values()])
        than_own = geometric_mean([each[OWN] / each[model] for each in times.values()])
        size = np.mean([compare.weight_bytes(folders[model]) for folders in places.values()])
        first = np.mean([compare.weight_bytes(folders[ORIGINAL]) for folders in places.values()])
        total = other = 0.0
        if model in reports:
            rows = [(r.rows[0], next(row for row in r.rows if row.artifact == r.headline)) for r in reports[model]]
            total = float(np.mean([1 - after.parameters.total / before.parameters.total for before, after in rows]))
            other = float(np.mean([1 - after.parameters.other / before.parameters.other for before, after in rows]))
        scores = [np.mean([METRICS[n](a, f.wanted) for a in f.by_model[model]]) for n, f in found.items()]
        share = kept(found, ORIGINAL, model)
        print(
            f"| {model} | {-total:+.1%} | {-other:+.1%} | {size / 1e6:.2f} MB ({size / first - 1:+.1%}) | {faster:.2f}× | "
            f"{than_own:.2f}× | "
            + " | ".join(f"{100 * score:.2f}" for score in scores)
            + f" | {100 * share.after:.2f} | {share.share:.2%} [{share.low:.2%}, {share.high:.2%}] |",
            flush=True,
        )
    (folder / "times.json").write_text(json.dumps(times, indent=1), encoding="utf-8")


def _ablation(cells: list[Cell], changed: list[str]) -> None:
    presets = sorted({ABLATION[name][0] for name in changed})
    found, _ = _collect(cells, [*presets, *changed])
    print("\n| changed | mean score against the whole recipe, points | 95 % |\n| --- | --- | --- |")
    for name in changed:
        gap, low, high = differences(found, name, ABLATION[name][0])
        print(f"| {name} | {gap:+.2f} | [{low:+.2f}, {high:+.2f}] |", flush=True)


if __name__ == "__main__":
    main()
