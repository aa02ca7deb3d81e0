"""The job's own original: the engine runs a recipe that only prepares, and stock ONNX Runtime runs its artifact."""

import json
from pathlib import Path
from typing import Any

from bench import engine
from bench.glue import compare
from bench.preparation.datasets import Prepared
from bench.preparation.records import Run, keep, kept
from compression.schema.recipe.recipe import Recipe, Train


def run(prepared: Prepared, model: Path, folder: Path, records: Path, seed: int, threads: int) -> Run:
    """Prepare one original by the defaults, or read its record."""
    path = records / f"{prepared.name}-{seed}.json"
    if (found := kept(path, prepared.digest)) is not None:
        return found
    recipe = Recipe(quantize=None, prune=None, distill=None, train=Train(seed=seed))
    spec: dict[str, Any] = {
        "task": prepared.task,
        "model": str(model.resolve()),
        "data": prepared.data.model_dump(),
        "recipe": recipe.model_dump(exclude_unset=True),
        "evaluate": prepared.evaluate.model_dump(),
        "threads": threads,
    }
    done = engine.run(folder / f"{prepared.name}-{seed}", spec)
    row = done.report.rows[0]
    known, artifact = row.preparation, done.artifact(row.artifact)
    if known is None or known.rate is None:
        raise SystemExit(f"{prepared.name}: nothing was prepared")
    validation, test = (
        compare.answers(artifact, Path(prepared.data.splits[split][0]), threads)[0] for split in ("validation", "test")
    )
    found = Run(
        name=prepared.name,
        digest=prepared.digest,
        rate=known.rate,
        seed=seed,
        epochs=known.epochs,
        curve=tuple(round(one.score, 6) for one in known.curve[1:]),
        best_epoch=known.best_epoch,
        validation=tuple(validation.tolist()),
        test=tuple(test.tolist()),
        seconds=round(row.seconds, 1),
        labels=_labels(artifact),
        converged=known.converged,
        linear_probe=known.linear_probe,
    )
    keep(found, path)
    return found


def _labels(artifact: Path) -> tuple[str, ...]:
    config = json.loads((artifact / "config.json").read_text("utf-8"))
    return tuple(label for label, _ in sorted(config["label2id"].items(), key=lambda item: int(item[1])))
