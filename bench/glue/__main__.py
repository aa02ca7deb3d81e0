"""`python -m bench glue --data FOLDER`: reproduce the published table on four GLUE tasks. It resumes if stopped."""

import argparse
import json
import time
from pathlib import Path

import numpy as np
import torch

from bench.glue import compare, datasets as glue, records, unlabelled
from bench.glue.cells import ABLATION, ORIGINAL, Cell
from bench.glue.records import Record, changed_keys
from bench.glue.statistics import METRICS, Answers, at_chance, constant_score, differences, geometric_mean, kept
from compression.schema.recipe.presets import PRESETS
from compression.system.environment import environment

ROOT = Path(__file__).parent.parent.parent
OWN = "ONNX Runtime's own INT8"
TEXTS_A_ROW = 4
PUBLISHED = {"no quantization-aware training": "-1.6", "no distillation": "-2.7"}
"""GLUE points lost without a part, as published."""


def main(arguments: list[str] | None = None) -> None:
    """Run the cells that are missing, then print."""
    parser = argparse.ArgumentParser(prog="python -m bench glue", description=__doc__)
    parser.add_argument("--data", type=Path, help="folder of copies of the four sets; without it they come from the hub")
    parser.add_argument("--text", type=Path, help="WikiText-2's validation file, for the general phase; else from the hub")
    parser.add_argument("--folder", type=Path, default=ROOT / ".cache/bench-glue", help="where runs are kept")
    parser.add_argument("--model", type=Path, default=ROOT / ".cache/examples/model")
    parser.add_argument("--sets", nargs="+", default=list(glue.SETS), choices=list(glue.SETS))
    parser.add_argument("--recipes", nargs="*", default=["article", "standard", "smallest"], choices=list(PRESETS))
    parser.add_argument("--ablation", nargs="*", default=[], choices=[*ABLATION, "all"], metavar="PART")
    parser.add_argument("--seeds", type=int, default=3, help="of the three small sets")
    parser.add_argument("--seed", type=int, help="this one alone, for a process beside another: no table")
    parser.add_argument(
        "--rows",
        type=int,
        default=0 if torch.cuda.is_available() else 8000,
        help="training rows of SST-2, validation included; 0 takes all, as it is where there is a GPU",
    )
    parser.add_argument("--few", type=int, help="training rows of every set and four times as many texts, for an ablation")
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--threads", type=int, help="of training; all cores by default")
    parser.add_argument("--records", type=Path, default=records.ROOT, help="where finished runs' records lie and are put")
    parser.add_argument("--table-only", action="store_true", help="print what is there; run nothing")
    asked = parser.parse_args(arguments)
    changed = list(ABLATION) if "all" in asked.ablation else list(asked.ablation)
    cells = list(_cells(asked))
    for cell in cells:
        # A cell from its original to its last recipe: what is tuned need not be tuned again on another day.
        for name in [] if asked.table_only else [ORIGINAL, *asked.recipes, *changed]:
            started = time.monotonic()
            record = cell.record(name)
            assert record is not None
            print(
                f"{name} {cell.set.name} seed {cell.seed}: {record.shipped.score}, {record.seconds / 60:.1f} min "
                f"({time.monotonic() - started:.0f} s now)",
                flush=True,
            )
    if asked.seed is None or asked.table_only:
        _table(cells, asked.recipes, asked.folder, asked.model.resolve())
    if changed:
        _ablation(cells, changed)


def _cells(asked: argparse.Namespace) -> list[Cell]:
    out = []
    folder: Path = asked.folder.resolve()
    few = f"-of-{asked.few}" if asked.few else ""
    found = {}
    for name, chosen in glue.SETS.items():
        most = asked.few or ((asked.rows or None) if name == "sst2" else None)
        found[name] = glue.prepare(chosen, asked.data, folder / "data" / f"{name}{few}", most)
    pool = folder / f"data/texts{few}.jsonl"
    most_texts = asked.few and TEXTS_A_ROW * asked.few
    read = unlabelled.write(unlabelled.wikitext(asked.text), [data for data, _ in found.values()], pool, most_texts)
    print(f"texts without labels: {read}")
    for name in asked.sets:
        chosen, (data, digest) = glue.SETS[name], found[name]
        print(f"{name}: rows {digest}")
        for seed in range(asked.seeds if chosen.seeds else 1):
            if asked.seed not in (None, seed):
                continue
            place, kept = folder / f"{name}-{seed}{few}", asked.records.resolve() / f"{name}-{seed}{few}"
            model = asked.model.resolve()
            out.append(Cell(chosen, data, digest, (pool, read), seed, place, kept, model, asked.batch, asked.threads))
    return out


Found = dict[str, dict[str, list[Record]]]
"""Set → model → its records, one per seed."""


def _collect(cells: list[Cell], names: list[str]) -> Found:
    """Collect the records of cells that have the original and all of `names`; print which lack some, or have older ones."""
    found: Found = {}
    for cell in cells:
        here = {name: cell.record(name, run=False, earlier=name != ORIGINAL) for name in (ORIGINAL, *names)}
        missing = [name for name, record in here.items() if record is None]
        if missing:
            print(f"not there: {', '.join(missing)} on {cell.set.name} with seed {cell.seed}")
            continue
        for name, record in here.items():
            if record is not None:
                if name != ORIGINAL and (changed := _changed(cell, name, record)):
                    print(f"{name} on {cell.set.name} with seed {cell.seed} is of an earlier recipe: {', '.join(changed)}")
                found.setdefault(cell.set.name, {}).setdefault(name, []).append(record)
    return found


def _changed(cell: Cell, name: str, record: Record) -> list[str]:
    """Return the keys in which a record's recipe differs from the current preset. Without epochs, its rate has no effect."""
    then, now = (one.model_dump(mode="json", exclude={"prepare"}) for one in (record.recipe, cell.recipe(name)))
    return changed_keys(then, now)


def _answers(found: Found) -> dict[str, Answers]:
    """Return the answers of all seeds as arrays, with those of ONNX Runtime's own INT8 of the original."""
    out = {}
    for name, models in found.items():
        said = {model: np.array([record.answers for record in seeds]) for model, seeds in models.items()}
        said[OWN] = np.array([record.own_int8 for record in models[ORIGINAL]])
        out[name] = Answers(np.array(models[ORIGINAL][0].wanted), said)
    return out


def _times(found: Found, folder: Path, model: Path) -> dict[str, dict[str, float]]:
    """Time all shapes of all sets in turn, in one process. -> set → model → median milliseconds."""
    wanted: dict[str, dict[str, str]] = {}
    places: dict[str, Path] = {}
    for name, models in found.items():
        labels = 1 if glue.SETS[name].labels is None else 2
        for which, seeds in models.items():
            row = seeds[0].shipped
            simulated = row.size.dtype != "float32"
            mark = f"{'-'.join(str(value) for value in row.shape.model_dump().values())}-{labels}-{row.size.dtype}"
            places[mark] = compare.of_shape(model, row.shape, labels, folder / "shapes" / mark, int8=simulated)
            wanted.setdefault(name, {})[which] = mark
        first = wanted[name][ORIGINAL]
        wanted[name][OWN] = f"{first}-own"
        places[f"{first}-own"] = compare.own_int8(places[first], folder / "shapes" / f"{first}-own")
    times = compare.time_all(places)
    return {name: {which: times[mark] for which, mark in models.items()} for name, models in wanted.items()}


def _by_row(cells: list[Cell], recipes: list[str]) -> dict[str, Found]:
    """Collect the records of each row of the table: a recipe is compared with the originals of its own seeds."""
    originals = _collect(cells, [])
    rows = {name: _collect(cells, [name]) for name in recipes}
    return {ORIGINAL: originals, OWN: originals, **{name: found for name, found in rows.items() if found}}


def _table(cells: list[Cell], recipes: list[str], folder: Path, model: Path) -> None:
    rows = _by_row(cells, recipes)
    found = rows[ORIGINAL]
    if not found:
        return
    shapes = {name: {which: each[name][which] for which, each in rows.items() if which in each.get(name, {})} for name in found}
    times = _times(shapes, folder.resolve(), model)
    print(f"\n{json.dumps(environment())}\n")
    head = [
        "model",
        "parameters",
        "of tables",
        "of the rest",
        "bytes",
        "1 × 128, one thread",
        "faster",
        "than ORT's INT8",
        *found,
    ]
    left_out = at_chance(_answers(found), ORIGINAL)
    print("| " + " | ".join([*head, "mean", "kept"]) + " |")
    print("|" + " --- |" * (len(head) + 2))
    for which, own in rows.items():
        timed, answers = [times[name] for name in own], _answers(own)
        median = geometric_mean([each[which] for each in timed])
        faster = geometric_mean([each[ORIGINAL] / each[which] for each in timed])
        than_own = geometric_mean([each[OWN] / each[which] for each in timed])
        print(
            f"| {which} | {_sizes(own, folder.resolve(), which)} | {median:.2f} ms | {faster:.2f}× | {than_own:.2f}× | "
            + " | ".join(_score(answers.get(name), name, which) for name in found)
            + f" | {_mean(answers, which, left_out)} |",
            flush=True,
        )
    print("\nIn a set's column the mean score of its seeds, their number, and what each keeps of its own original.")
    for name in left_out:
        print(_why_left_out(name, _answers(found)[name]))
    (folder / "times.json").write_text(json.dumps(times, indent=1), encoding="utf-8")


def _mean(answers: dict[str, Answers], which: str, left_out: list[str]) -> str:
    """Return a model's mean score and the share kept, over the sets that are not left out."""
    counted = {name: each for name, each in answers.items() if name not in left_out}
    if not counted:
        return "none | none"
    share = kept(counted, ORIGINAL, which)
    return f"{100 * share.after:.2f} | {share.share:.2%} [{share.low:.2%}, {share.high:.2%}]"


def _why_left_out(name: str, answers: Answers) -> str:
    scores = ", ".join(f"{METRICS[name](said, answers.wanted):.1%}" for said in answers.by_model[ORIGINAL])
    floor = constant_score(name, answers.wanted)
    above = f"at most two standard errors above one answer for all rows ({floor:.1%})"
    return f"{name} is not in the mean: its originals ({scores}) are {above}."


def _score(answers: Answers | None, name: str, which: str) -> str:
    """Return a set's mean score over seeds, their number, and what each keeps."""
    if answers is None:
        return "not there"
    scores, before = ([METRICS[name](said, answers.wanted) for said in answers.by_model[model]] for model in (which, ORIGINAL))
    each = ", ".join(f"{one / other:.1%}" for one, other in zip(scores, before, strict=True))
    return f"{100 * np.mean(scores):.2f} ({len(scores)}: {each})"


def _sizes(found: Found, folder: Path, which: str) -> str:
    """Return parameters and bytes with their reductions, means over sets and seeds."""
    whole = [record.baseline.parameters for models in found.values() for record in models[ORIGINAL]]
    if which == OWN:
        own = list((folder / "shapes").glob("*-own/model.onnx"))
        size = float(np.mean([place.stat().st_size for place in own]))
        first = float(np.mean([r.baseline.size.bytes for models in found.values() for r in models[ORIGINAL]]))
        less, left = size / first - 1, whole
    else:
        pairs = [(record.baseline, record.shipped) for models in found.values() for record in models[which]]
        whole, left = [before.parameters for before, _ in pairs], [after.parameters for _, after in pairs]
        size = float(np.mean([after.size.bytes for _, after in pairs]))
        less = float(np.mean([after.size.bytes / before.size.bytes - 1 for before, after in pairs]))
    told = []
    for kind in ("total", "embedding", "other"):
        counts = [(getattr(before, kind), getattr(after, kind)) for before, after in zip(whole, left, strict=True)]
        share = float(np.mean([after / before - 1 for before, after in counts]))
        told.append(f"{np.mean([after for _, after in counts]) / 1e6:.2f} M ({share:+.1%})")
    return f"{' | '.join(told)} | {size / 1e6:.2f} MB ({less:+.1%})"


def _ablation(cells: list[Cell], changed: list[str]) -> None:
    presets = sorted({ABLATION[name][0] for name in changed})
    found = _answers(_collect(cells, [*presets, *changed]))
    left_out = at_chance(found, ORIGINAL)
    counted = {name: each for name, each in found.items() if name not in left_out} or found
    head = ["changed", "mean score against the whole recipe, points", "95 %", *found, "published"]
    print(f"\n| {' | '.join(head)} |\n|{' --- |' * len(head)}")
    for name in changed if found else ():
        whole = ABLATION[name][0]
        gap, low, high = differences(counted, name, whole)
        each = [differences({one: answers}, name, whole)[0] for one, answers in found.items()]
        by_set = " | ".join(f"{value:+.2f}" for value in each)
        print(f"| {name} | {gap:+.2f} | [{low:+.2f}, {high:+.2f}] | {by_set} | {PUBLISHED.get(name, '')} |", flush=True)


if __name__ == "__main__":
    main()
