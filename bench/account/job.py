"""The job itself: a model's or, on a card, a shape's with random weights; and what is kept of its run."""

import hashlib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import AutoModelForCausalLM

from bench import engine, record_file
from bench.account.plan import evaluate_of
from bench.account.published import TARGETS
from bench.glue import compare
from bench.glue.datasets import Set
from bench.glue.statistics import Answers, Kept, kept
from bench.gpu_plan.shapes import Published
from bench.language import shaped
from compression.schema.job_spec import Data
from compression.schema.recipe.recipe import Recipe
from compression.schema.report.measurements import Row
from compression.schema.report.report import verdicts
from compression.system import durable_files

RECORDS = Path(__file__).parent / "records"
SHIPPED = {"onnx"}
"""Kinds of artifacts whose files stay: those that are scored here again."""


def write_random(shape: Published, texts: Iterable[str], folder: Path, seed: int) -> None:
    """Write the folder of a language model of a published shape with random weights, in bfloat16, and a small tokenizer."""
    tokenizer = shaped.write_tokenizer(shape.kind, texts, folder)
    torch.manual_seed(seed)
    config = shape.stock
    config.eos_token_id = tokenizer.token_to_id(shaped.END)
    AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16).save_pretrained(folder)


def random_model(shape: Published, texts: Iterable[str], folder: Path, seed: int) -> Path:
    """Return the folder of such a model; it is written once."""
    if not folder.exists():
        with durable_files.folder(folder) as unfinished:
            write_random(shape, texts, unfinished, seed)
    return folder


def spec_of(model: Path, chosen: Set, data: Data, recipe: Recipe) -> dict[str, Any]:
    """Return what the engine is asked for, with the account's absolute targets."""
    named = {"task": chosen.task, "model": str(model), "data": data, "recipe": recipe}
    return {**named, "targets": TARGETS, "evaluate": evaluate_of(chosen)}


def path_of(name: str) -> Path:
    """Return the path of a run's record."""
    return RECORDS / "run" / f"{name}.json"


def keep(name: str, about: dict[str, Any], run: engine.Run, test: Path) -> None:
    """Write a run's record: its rows with their verdicts, the answers of both ends to the test rows, at batch 1, and what both
    cost on a card if there was one.
    """
    rows, target = run.report.rows, run.report.targets
    (before, wanted), (after, _) = (compare.answers(run.artifact(rows[place].artifact), test) for place in (0, -1))
    told = [{**row.model_dump(mode="json", exclude={"ranges"}), "targets": verdicts_of(row, target)} for row in rows]
    answers = {"before": before.tolist(), "after": after.tolist(), "wanted": wanted.tolist()}
    recipe = run.report.recipe.model_dump(mode="json")
    card = {} if run.report.card is None else {"card": run.report.card.model_dump(mode="json")}
    found = {"seconds": run.seconds, "recipe": recipe, "rows": told, "answers": answers, **card}
    record_file.write(path_of(name), {**about, **found})


def verdicts_of(row: Row, targets: Any) -> dict[str, Any]:
    """Return how a row compares with each target, as JSON."""
    return {name: found.model_dump(mode="json") for name, found in verdicts(row, targets).items()}


def kept_over_seeds(records: Iterable[Mapping[str, Any]], metric: str) -> Kept:
    """Return the share of the score that runs of several seeds keep on the mean, by a bootstrap over seeds and rows.

    records: of one set's runs, each with answers to the same rows. metric: the set's name.
    """
    each = [one["answers"] for one in records]
    wanted = np.array(each[0]["wanted"])
    by_model = {name: np.array([one[name] for one in each]) for name in ("before", "after")}
    return kept({metric: Answers(wanted, by_model)}, "before", "after", over_seeds=True)


def digest_of(model: Path) -> str:
    """Return a digest of a model's files, for its record."""
    found = hashlib.sha256()
    for path in sorted(model.iterdir()):
        with path.open("rb") as file:
            found.update(path.name.encode() + hashlib.file_digest(file, "sha256").digest())
    return found.hexdigest()[:16]
