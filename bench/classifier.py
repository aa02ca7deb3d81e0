"""`python -m bench classifier --data FOLDER`: a language model made a classifier of one GLUE task, and cut by about a third.

One job of the engine, in a folder that it goes on from: the decoder is given a head and tuned, its feed-forward units are cut
as the preset `language` cuts them, what is left is solved by least squares, and learns from the tuned one. The set is prepared
as bench/glue does: the job does not see test, and MRPC is judged by the mean of accuracy and F1. Below the table stands
the share of the baseline's score that the last stage keeps, of both ONNX files as stock ONNX Runtime reads them, with its 95 %
interval by a paired bootstrap over test rows (bench/glue/statistics.py): it is one seed's.
"""

import argparse
from pathlib import Path

from bench import engine
from bench.glue import compare, datasets as glue
from bench.glue.statistics import Answers, kept
from compression.schema.recipe.distill import Distill
from compression.schema.recipe.presets import preset
from compression.schema.recipe.recipe import Prepare, Recipe, Train
from compression.schema.report.measurements import Latency, Row, Score

ROOT = Path(__file__).parent.parent
TARGET = 0.98
"""Of the score, at 30 % fewer parameters: what the issue of language models asks for."""


def main(arguments: list[str] | None = None) -> None:
    """Run the job if it is missing, then print."""
    parser = argparse.ArgumentParser(prog="python -m bench classifier", description=__doc__)
    parser.add_argument(
        "--model", type=Path, default=ROOT / ".cache/examples/decoder", help="a decoder: folder, or one of a GGUF"
    )
    parser.add_argument("--data", type=Path, help="folder of copies of the GLUE sets; without it they come from the hub")
    parser.add_argument("--set", default="sst2", choices=list(glue.SETS))
    parser.add_argument("--rows", type=int, default=8000, help="of train, validation included")
    parser.add_argument("--epochs", type=int, nargs=2, default=(2, 5), help="of tuning and of distillation")
    parser.add_argument("--folder", type=Path, default=ROOT / ".cache/bench-classifier", help="where runs are kept")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, help="of training; all cores by default")
    asked = parser.parse_args(arguments)
    folder, chosen = asked.folder.resolve(), glue.SETS[asked.set]
    data, digest = glue.prepare(chosen, asked.data, folder / "data" / chosen.name, asked.rows)
    spec = {
        "task": chosen.task,
        "model": str(asked.model.resolve()),
        "data": data,
        "recipe": recipe_of(tuned=asked.epochs[0], distilled=asked.epochs[1], seed=asked.seed),
        "evaluate": chosen.evaluate.model_copy(update={"length": 64}),
        "threads": asked.threads,
    }
    run = engine.run(folder / f"{chosen.name}-{asked.rows}-{asked.seed}", spec)
    print(f"{chosen.name}: rows {digest}, {run.seconds / 60:.1f} min\n")
    print("| row | parameters | bytes | 1 × 64, one thread | score | kept |\n| --- | --- | --- | --- | --- | --- |")
    print("\n".join(map(line, run.report.rows)), flush=True)
    print("\n" + share(run, chosen.name, Path(data.splits["test"][0])), flush=True)


def share(run: engine.Run, name: str, test: Path) -> str:
    """Return the share of the baseline's score on `test` that the last stage keeps, with the target."""
    first, last = (run.artifact(run.report.rows[number].artifact) for number in (0, -1))
    (before, wanted), (after, _) = compare.answers(first, test), compare.answers(last, test)
    found = kept({name: Answers(wanted, {"baseline": before[None], "last": after[None]})}, "baseline", "last")
    short = TARGET - found.share
    said = f"short of {TARGET:.0%} by {short:.1%}" if short > 0 else f"{TARGET:.0%} were asked"
    return f"kept: {found.share:.2%} [{found.low:.2%}, {found.high:.2%}] of {found.before:.2%}; {said}"


def recipe_of(*, tuned: int, distilled: int, seed: int) -> Recipe:
    """Return the cut of the preset for language models, with a classifier's training around it. tuned, distilled: epochs."""
    whole = preset("language", "causal-lm")
    return whole.model_copy(
        update={
            "prepare": Prepare(epochs=tuned, rate=3e-5),
            "distill": Distill(epochs=distilled, rate=1e-4, hidden=1.0),
            "train": Train(batch=16, max_length=128, seed=seed),
        }
    )


def line(row: Row) -> str:
    """Return one row of the table. Raises SystemExit if a figure was not measured."""
    if not isinstance(row.score, Score) or not isinstance(row.latency, Latency):
        raise SystemExit(f"{row.stage}: not measured: {row.score} {row.latency}")
    cells = [
        row.stage,
        f"{row.parameters.total / 1e6:.2f} M ({-row.ratios.parameter_reduction:+.1%})",
        f"{row.size.bytes / 1e6:.1f} MB ({-row.ratios.size_reduction:+.1%})",
        f"{row.latency.median_ms:.1f} ms ({row.ratios.speed_up:.2f}×)",
        f"{row.score.value:.2%} ± {row.score.standard_error or 0:.2%}",
        "–" if row.ratios.retention is None else f"{row.ratios.retention:.1%}",
    ]
    return "| " + " | ".join(cells) + " |"
