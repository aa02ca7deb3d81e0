"""`python -m bench.portability.portable --data FOLDER`: the cost of the portable form against the full range, untrained.

It has weights within ±63 in place of ±127, and softmax spelled out (docs/decisions/0030 and 0032). The sets are six.
Both forms, and float32, are written from one original as a job would write them, and asked about validation, a row at a time,
by ONNX Runtime. Rounding alone is compared: a job that distills trains its student in the form that it ships. Times are of all
three by turns in one process. A set that has a record is not run again (`--again`).
"""

import argparse
import copy
import json
import statistics
import time
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime

from bench.portability import datasets
from bench.portability.datasets import Material
from compression.evaluation.runtimes.onnx import FILE, OnnxRunner
from compression.export.onnx.exporter import write_onnx
from compression.modalities.registry import scorer_of
from compression.modalities.scoring.base import RowScorer, answered
from compression.modalities.text.artifact_tokenizer import write_tokenizer
from compression.modalities.text.inputs import full_batch
from compression.models import loading
from compression.models.adapters.registry import adapter_of
from compression.quantization.fake_quantize import Simulation, insert_fake_quantization

ROOT = Path(__file__).parent.parent.parent
RECORDS = Path(__file__).parent / "records" / "portable"
FORMS: dict[str, Simulation | None] = {"float32": None, "full": Simulation(), "portable": Simulation(portable=True)}
WARM_UP, RUNS, DRAWS = 20, 200, 1000


def write(found: Material, place: Path, model: Path, folder: Path) -> dict[str, Path]:
    """Write the three files of an original. -> form → folder."""
    tuned, _ = datasets.original(found, model, place)
    made = {}
    for form, simulation in FORMS.items():
        twin = copy.deepcopy(tuned)
        if simulation is not None:
            insert_fake_quantization(twin, simulation=simulation)
        made[form] = folder / form
        made[form].mkdir(parents=True, exist_ok=True)
        write_onnx(twin, made[form], int8=simulation is not None)
        write_tokenizer(model, made[form], datasets.LENGTH, found.task, twin)
    return made


def times(folders: dict[str, Path], vocabulary: int, length: int) -> dict[str, float]:
    """Return the median milliseconds of a row of `length` tokens, one thread, all files in turn."""
    runners = {form: OnnxRunner(folder / FILE, threads=1) for form, folder in folders.items()}
    batch = full_batch(1, length, vocabulary)
    taken: dict[str, list[float]] = {form: [] for form in folders}
    for turn in range(WARM_UP + RUNS):
        for form in sorted(runners, reverse=bool(turn % 2)):
            start = time.perf_counter_ns()
            runners[form].logits(batch)
            if turn >= WARM_UP:
                taken[form].append((time.perf_counter_ns() - start) / 1e6)
    return {form: statistics.median(values) for form, values in taken.items()}


def compare(found: Material, place: Path, model: Path, folder: Path) -> dict[str, Any]:
    """Run one set; return its record."""
    tuned, said = datasets.original(found, model, place)
    folders = write(found, place, model, folder)
    labels = loading.own_labels(tuned.config, found.dataset.labels, found.task)
    scorer = scorer_of(found.task, found.evaluate, labels)
    assert isinstance(scorer, RowScorer), "these sets have labels"
    rows = found.dataset.in_order(labels).judged("validation") if labels else found.dataset.judged("validation")
    logits, answers = {}, {}
    for form, each in folders.items():
        reader = scorer.reader(each)
        asked = reader.ask(rows)
        found_logits = answered(OnnxRunner(each / FILE, threads=1), reader, asked.windows, 1)
        logits[form], answers[form] = np.stack(found_logits), scorer.answers(asked, found_logits, rows)
    scores = {form: scorer.values(answers[form], rows)[scorer.metric] for form in FORMS}
    draw = np.random.default_rng(0)
    differences = []
    for _ in range(DRAWS):
        some = draw.integers(0, len(rows), len(rows))
        pair = [scorer.values([answers[form][at] for at in some], [rows[at] for at in some]) for form in ("portable", "full")]
        differences.append(pair[0][scorer.metric] - pair[1][scorer.metric])
    return {
        "set": found.name,
        "digest": found.digest,
        "original": said,
        "metric": scorer.metric,
        "rows": len(rows),
        "score": scores,
        "portable_less_full": scores["portable"] - scores["full"],
        "standard_error_of_difference": float(np.std(differences, ddof=1)),
        "answers_changed": {
            name: scorer.changed(answers[one], answers[other]) if labels else None
            for name, one, other in (
                ("full from float32", "full", "float32"),
                ("portable from float32", "portable", "float32"),
                ("portable from full", "portable", "full"),
            )
        },
        "logits_rms": float(np.sqrt(np.square(logits["float32"]).mean())),
        "logits_off_rms": {
            form: float(np.sqrt(np.square(logits[form] - logits["float32"]).mean())) for form in ("full", "portable")
        },
        "bytes": {form: (each / FILE).stat().st_size for form, each in folders.items()},
        "ms": {str(length): times(folders, tuned.config.vocab_size, length) for length in (32, 128)},
        "parameters": adapter_of(tuned).parameters_of(tuned).total,
        "onnxruntime": onnxruntime.__version__,
    }


def line(record: dict[str, Any]) -> str:
    """Return one row of the table, in Markdown."""
    score, off, ms, changed = record["score"], record["logits_off_rms"], record["ms"]["128"], record["answers_changed"]
    cells = [
        record["set"],
        f"{record['rows']:,}",
        f"{100 * score['float32']:.2f}",
        f"{100 * score['full']:.2f}",
        f"{100 * score['portable']:.2f}",
        f"{100 * record['portable_less_full']:+.2f} ± {100 * record['standard_error_of_difference']:.2f}",
        f"{changed['full from float32']}, {changed['portable from float32']}"
        if changed["full from float32"] is not None
        else "–",
        f"{off['full'] / record['logits_rms']:.2%}, {off['portable'] / record['logits_rms']:.2%}",
        f"{record['bytes']['full']:,}, {record['bytes']['portable']:,}",
        f"{ms['full']:.2f}, {ms['portable']:.2f}",
    ]
    return f"| {' | '.join(cells)} |"


def main() -> None:
    """Run the sets that have no record, then print the table."""
    parser = argparse.ArgumentParser(prog="python -m bench.portability.portable")
    parser.add_argument("sets", nargs="*", default=list(datasets.NAMES), help="of: " + ", ".join(datasets.NAMES))
    parser.add_argument("--data", type=Path, required=True, help="folder of copies: glue/, intents/")
    parser.add_argument(
        "--examples", type=Path, default=ROOT / ".cache" / "examples", help="scripts/fetch_examples.py's folder"
    )
    parser.add_argument("--model", type=Path, help="the bare encoder (default: model in --examples)")
    parser.add_argument("--original", action="append", default=[], metavar="SET=FOLDER", help="a trained float32 checkpoint")
    parser.add_argument("--work", type=Path, default=ROOT / ".cache" / "portable")
    parser.add_argument("--again", action="store_true", help="run sets that have a record too")
    options = parser.parse_args()
    given = dict(each.split("=", 1) for each in options.original)
    model = options.model or options.examples / "model"
    RECORDS.mkdir(parents=True, exist_ok=True)
    for name in options.sets:
        path = RECORDS / f"{name}.json"
        if path.is_file() and not options.again:
            continue
        folder = options.work / name
        found = datasets.material(name, options.data, options.examples, folder / "data")
        place = Path(given.get(name, folder / "original"))
        path.write_text(json.dumps(compare(found, place, model, folder), indent=1) + "\n", "utf-8")
    head = ("set", "rows", "float32", "full range", "portable", "portable less full")
    print(f"| {' | '.join((*head, 'answers changed', 'logits off', 'bytes', 'ms at 1 × 128'))} |")
    print("| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |")
    for name in options.sets:
        print(line(json.loads((RECORDS / f"{name}.json").read_text("utf-8"))))


if __name__ == "__main__":
    main()
