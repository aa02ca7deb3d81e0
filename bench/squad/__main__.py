"""`python -m bench squad --data FILE --model minilm|smollm2`: SQuAD 2.0, exact match and F1 with "no answer", before and after.

One job of the engine for each seed, in a folder that it goes on from. The file, in SQuAD's official form, is split by article
with a stored seed, so no article is both learned and asked. A model that Lathe does not serve for this task is refused by its
own preflight. A call ends after --minutes, and the same command goes on from the last save. Records are in bench/squad/records;
--table-only prints them and runs nothing.
"""

import argparse
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from bench import engine, record_file
from bench.examples import EXAMPLES, MODELS, model_folder
from bench.squad import articles
from compression.schema.recipe.presets import PRESETS, merged, preset
from compression.schema.recipe.prune import AxisRatios
from compression.schema.recipe.recipe import Evaluate, Recipe

ROOT = Path(__file__).parent.parent.parent
RECORDS = Path(__file__).parent / "records"
TASK = "question-answering"
LENGTH = 384
"""Tokens of a window, as is usual for SQuAD."""
METRICS = {
    "exact_match": "exact match",
    "f1": "F1",
    "f1_answerable": "F1 where there is an answer",
    "exact_match_unanswerable": "right where there is none",
}
LIMITS = {"epochs": "epochs", "distill_epochs": "epochs of distillation", "max_steps": "steps"}
CUTS: Mapping[str, Mapping[str, Any]] = {"smollm2": {"ratio": AxisRatios(ffn=0.5), "axes": ("ffn",), "target_params": 0.305}}
"""Changes in a preset's cut: a decoder's feed-forward units go, by the account's share of all parameters."""


def main(arguments: list[str] | None = None) -> None:
    """Run the job if it has no record, then print."""
    parser = argparse.ArgumentParser(prog="python -m bench squad", description=__doc__)
    parser.add_argument("--data", type=Path, help="SQuAD 2.0 in its official JSON form, for example dev_half.json")
    parser.add_argument("--model", choices=list(MODELS), default="minilm")
    parser.add_argument("--recipe", choices=list(PRESETS), default="standard")
    parser.add_argument("--questions", type=int, help="of train at most, for a trial; a quarter of that of the others")
    parser.add_argument("--answerable", action="store_true", help="only questions that have an answer, as SQuAD 1.1's")
    parser.add_argument("--epochs", type=int, help="of the original's fine-tuning, which ends by itself without this")
    parser.add_argument("--distill-epochs", type=int, help="of distillation, instead of the preset's")
    parser.add_argument("--max-steps", type=int, help="of all training, for a trial")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--minutes", type=float, help="after which this call ends")
    parser.add_argument("--threads", type=int, help="of training; all cores by default")
    parser.add_argument("--examples", type=Path, default=EXAMPLES, help="where scripts/fetch_examples.py put the models")
    parser.add_argument("--folder", type=Path, default=ROOT / ".cache/bench-squad", help="where runs are kept")
    parser.add_argument("--records", type=Path, default=RECORDS, help="where records are put")
    parser.add_argument("--table-only", action="store_true", help="run nothing")
    asked = parser.parse_args(arguments)
    if not asked.table_only:
        if asked.data is None:
            parser.error("--data is needed to run")
        run(asked)
    found = [one for path in sorted(asked.records.glob("*.json")) if (one := record_file.read(path)) is not None]
    print(table(found), flush=True)


def run(asked: argparse.Namespace) -> None:
    """Run the job, or go on with it, and write its record."""
    rows = "-".join([*(["answerable"] if asked.answerable else []), *([f"of-{asked.questions}"] if asked.questions else [])])
    limits = {name: value for name in LIMITS if (value := getattr(asked, name)) is not None}
    some = [rows] if rows else []
    some += [f"{value}-{LIMITS[name].replace(' ', '-')}" for name, value in limits.items()]
    name = "-".join([asked.model, asked.recipe, *some, str(asked.seed)])
    path = asked.records / f"{name}.json"
    folder = asked.folder.resolve()
    data, facts = articles.prepare(asked.data, folder / f"data-{rows or 'all'}", asked.questions, answerable=asked.answerable)
    if (kept := record_file.read(path)) is not None:
        if kept["splits"] != json.loads(json.dumps(facts)):
            raise SystemExit(f"{path} is of other data; name another --records, or remove it")
        return
    spec = {
        "task": TASK,
        "model": str(model_folder(asked.model, asked.examples)),
        "data": data,
        "recipe": recipe_of(asked.model, asked.recipe, asked.seed, **limits),
        "evaluate": Evaluate(length=LENGTH),
        "threads": asked.threads,
    }
    done = engine.run(folder / name, spec, keep=set(), minutes=asked.minutes)
    about = {"model": asked.model, "preset": asked.recipe, "seed": asked.seed, "splits": facts}
    about |= {"answerable": asked.answerable, **{name: limits.get(name) for name in LIMITS}}
    about |= {"seconds": done.seconds, "recipe": done.report.recipe.model_dump(mode="json")}
    found = [row.model_dump(mode="json", exclude={"ranges"}) for row in done.report.rows]
    record_file.write(path, {**about, "rows": found})


def recipe_of(
    model: str,
    name: str,
    seed: int,
    *,
    epochs: int | None = None,
    distill_epochs: int | None = None,
    max_steps: int | None = None,
) -> Recipe:
    """Return a preset for this task and model. epochs: of the original's fine-tuning; max_steps: of all training."""
    lengths = {"prepare": {"epochs": epochs}, "distill": {"epochs": distill_epochs}}
    changes = {stage: change for stage, change in lengths.items() if change["epochs"] is not None}
    found = Recipe.model_validate(merged(preset(name, TASK), changes))
    changed: dict[str, Any] = {"max_length": LENGTH, "seed": seed, "max_steps": max_steps}
    if found.prune is None or model not in CUTS:
        return found.model_copy(update={"train": found.train.model_copy(update=changed)})
    cut = {**found.prune.model_dump(exclude={"ratio", "axes"}), **CUTS[model]}
    train = found.train.model_copy(update={**changed, "batch": 16})
    return found.model_copy(update={"train": train, "prune": type(found.prune).model_validate(cut)})


def table(records: Sequence[Mapping[str, Any]]) -> str:
    """Return the rows of all records, in Markdown; scores are of test, each with its standard error."""
    if not records:
        return "not_measured: there is no record"
    about = ["model, recipe", "questions of train, test", "row", "parameters", "bytes", "1 × 384, one thread"]
    head = [*about, *METRICS.values(), "F1 kept"]
    lines = [head, ["---"] * len(head)]
    for one in records:
        limits = "".join(f", {unit}: {one[name]}" for name, unit in LIMITS.items() if one.get(name))
        counts = ", ".join(f"{one['splits'][split]['questions']:,}" for split in ("train", "test"))
        asked = f"{counts}, all with an answer" if one.get("answerable") else counts
        lines += [[f"{one['model']}, {one['preset']}{limits}, seed {one['seed']}", asked, *_row(row)] for row in one["rows"]]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _row(row: Mapping[str, Any]) -> list[str]:
    score, latency, ratios = row["score"], row["latency"], row["ratios"]
    errors = score.get("standard_errors", {})
    figures = [
        f"{score['metrics'][name]:.2%}" + (f" ± {errors[name]:.2%}" if name in errors else "")
        if name in score.get("metrics", {})
        else "not_measured"
        for name in METRICS
    ]
    return [
        row["stage"],
        f"{row['parameters']['total'] / 1e6:.2f} M ({-ratios['parameter_reduction']:+.1%})",
        f"{row['size']['bytes'] / 1e6:.1f} MB ({-ratios['size_reduction']:+.1%})",
        latency.get("not_measured") or f"{latency['median_ms']:.1f} ms ({ratios['speed_up']:.2f}×)",
        *figures,
        _kept(score, ratios["retention"]),
    ]


def _kept(score: Mapping[str, Any], share: float | None) -> str:
    """Return the share of the original's score; of one that knows no more than which answer is most frequent there is none."""
    if share is None:
        return "–"
    if (chance := score.get("chance")) is not None and score["value"] - score.get("standard_error", 0.0) <= chance:
        return "at chance"
    return f"{share:.1%}"


if __name__ == "__main__":
    main()
