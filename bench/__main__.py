"""`python -m bench [encoder]`: run recipes on an encoder, as a user does, and print the table of each.

The other benches; each has a --help of its own:
  python -m bench training     a training epoch against a plain loop
  python -m bench memory       peak memory against the model's size
  python -m bench gpu_plan     memory of training: forecasts, dry runs on fake tensors, real peaks
  python -m bench decoding     the forms of a decoder in ONNX Runtime
  python -m bench forms        a recipe's shape in ONNX Runtime and in OpenVINO
  python -m bench glue         the published table on four GLUE tasks
  python -m bench language     a language model's job against a plain script
  python -m bench classifier   a language model as a classifier of a GLUE task
  python -m bench account      the published account's own case: targets, shapes, a model that is there
  python -m bench squad        SQuAD 2.0 with "no answer", before and after
  python -m bench forecasts    what a service forecasts of jobs, beside what they take
  python -m bench augmented    the recipe `article` with WordNet and Apertium
  python -m bench preparation  the originals that jobs prepare, against a grid search
  python -m bench vision       image classifiers, beside what others make of them
  python -m bench alignment    odd widths, unaligned weights and joined operators
  python -m bench search       searches among the widths of a cut, beside the solver
  python -m bench targets      what answers to targets promise, against what is measured
  python -m bench serve        batches of `lathe serve` against single rows
  python -m bench api          the API: response times, memory, events, queues
Each takes --transcript FILE, which keeps what it printed as a record.

Needs an idle machine: baseline and candidate are timed interleaved in one process, but training beside them disturbs both.
Each recipe is a run of `python -m compression run` in a folder of its own, which is kept.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from bench import augmented, classifier, decoding, forms, memory, training, transcript
from bench.account import __main__ as account
from bench.alignment import __main__ as alignment
from bench.api import __main__ as api
from bench.forecasts import __main__ as forecasts
from bench.glue import __main__ as glue
from bench.gpu_plan import __main__ as gpu_plan
from bench.language import __main__ as language
from bench.preparation import __main__ as preparation
from bench.search import __main__ as search
from bench.serve import __main__ as serve
from bench.squad import __main__ as squad
from bench.targets import __main__ as targets
from bench.vision import __main__ as vision
from compression.schema.job_spec import Data, Spec
from compression.schema.recipe.presets import PRESETS
from compression.schema.report.draws import Interval
from compression.schema.report.measurements import Latency, Row, Score, shown
from compression.schema.report.report import Report

ROOT = Path(__file__).parent.parent


def run(recipe: str, seed: int, model: Path, data: Path) -> tuple[Report, float]:
    """Run one job on example data; return its report and the minutes it took."""
    folder = Path(tempfile.mkdtemp(prefix=f"lathe-bench-{recipe}-"))
    chosen = PRESETS[recipe][0]
    chosen = chosen.model_copy(update={"train": chosen.train.model_copy(update={"seed": seed})})
    splits = {name: (str(data / f"{name}.jsonl"),) for name in ("train", "validation", "test")}
    spec = Spec(model=str(model), data=Data(format="jsonl", splits=splits), recipe=chosen, output=str(folder / "out"))
    (folder / "spec.json").write_text(spec.model_dump_json(indent=1), encoding="utf-8")
    started = time.monotonic()
    with (folder / "events.jsonl").open("wb") as out, (folder / "log").open("wb") as log:
        command = [sys.executable, "-m", "compression", "run", str(folder / "spec.json")]
        subprocess.run(command, cwd=ROOT, stdout=out, stderr=log, check=True)
    minutes = (time.monotonic() - started) / 60
    print(f"\n{folder}")
    return Report.model_validate(json.loads((folder / "out" / "report.json").read_text())), minutes


def line(row: Row) -> str:
    """Return one row of the table, in Markdown."""
    if not isinstance(row.score, Score) or not isinstance(row.latency, Latency):
        raise SystemExit(f"{row.stage}: not measured: {row.score} {row.latency}")
    changed, found = row.ratios, row.score
    cells = [
        row.stage,
        f"{row.parameters.total / 1e6:.2f} M ({-changed.parameter_reduction:+.1%})",
        f"{row.size.bytes / 1e6:.2f} MB ({-changed.size_reduction:+.1%})",
        f"{row.latency.median_ms:.2f} ms ({changed.speed_up:.2f}×)",
        f"{shown(found.metric, found.value)} ± {shown(found.metric, found.standard_error)}",
        kept(changed.retention_on_validation, changed.retention_on_validation_interval),
        kept(changed.retention, changed.retention_interval),
        f"{found.value_at_batch_32:.2%}, {found.rows_changed_by_batching} rows",
    ]
    return "| " + " | ".join(cells) + " |"


def kept(share: float | None, interval: Interval | None) -> str:
    """Return a retention with its 95 % interval."""
    if share is None:
        return "–"
    return f"{share:.1%}" + ("" if interval is None else f" [{interval[0]:.1%}, {interval[1]:.1%}]")


def original(baseline: Row) -> str:
    """Return whether the original has converged, and what follows if it has not."""
    why = baseline.preparation.reason if baseline.preparation else "How the original was prepared is not known."
    unproven = " What is kept of it is unproven; sizes and speeds stand." if baseline.ratios.baseline_not_converged else ""
    return f"{why}{unproven}\n"


def benches() -> dict[str, Callable[[list[str]], None]]:
    """Return each bench by its name."""
    return {
        "encoder": encoder,
        "training": training.main,
        "memory": memory.main,
        "gpu_plan": gpu_plan.main,
        "decoding": decoding.main,
        "forms": forms.main,
        "glue": glue.main,
        "language": language.main,
        "classifier": classifier.main,
        "account": account.main,
        "squad": squad.main,
        "forecasts": forecasts.main,
        "augmented": augmented.main,
        "preparation": preparation.main,
        "search": search.main,
        "targets": targets.main,
        "vision": vision.main,
        "alignment": alignment.main,
        "serve": serve.main,
        "api": api.main,
    }


def main() -> None:
    """Run the named bench, by default that of encoders."""
    found = benches()
    named = sys.argv[1:2] and sys.argv[1] in found
    name, arguments = (sys.argv[1], sys.argv[2:]) if named else ("encoder", sys.argv[1:])
    transcript.run(name, found[name], arguments)


def encoder(arguments: list[str]) -> None:
    """Run recipes on the example data and print a table per run."""
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--recipe", nargs="+", default=["quick", "standard"], choices=list(PRESETS), help="one run each")
    parser.add_argument("--seed", nargs="+", type=int, default=[0], help="one run each")
    parser.add_argument("--model", type=Path, default=ROOT / ".cache/examples/model", help="folder of the encoder")
    parser.add_argument("--data", type=Path, default=ROOT / ".cache/examples/data", help="folder of its three splits")
    asked = parser.parse_args(arguments)
    subprocess.run([sys.executable, str(ROOT / "scripts/fetch_examples.py"), str(ROOT / ".cache/examples")], check=True)
    for recipe in asked.recipe:
        for seed in asked.seed:
            report, minutes = run(recipe, seed, asked.model.resolve(), asked.data.resolve())
            latency = report.rows[-1].latency
            at = f"batch {latency.batch} × {latency.length}, {latency.threads} thread" if isinstance(latency, Latency) else ""
            print(f"\n**{recipe}**, seed {seed}, {minutes:.1f} min; {report.environment.get('processor', '')}, {at}\n")
            print(original(report.rows[0]))
            print("| row | parameters | bytes | latency | score | kept on validation | on test | at batch 32, rows changed |")
            print("| --- | --- | --- | --- | --- | --- | --- | --- |")
            print("\n".join(line(row) for row in report.rows), flush=True)


if __name__ == "__main__":
    main()
