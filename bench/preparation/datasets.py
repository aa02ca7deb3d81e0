"""The six datasets that preparation is measured on: GLUE's four, banking77 and the demo's data, as files that a job takes."""

import csv
import hashlib
import json
import random
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.glue import datasets as glue
from compression.schema.job_spec import Columns, Data
from compression.schema.recipe.base import Task
from compression.schema.recipe.recipe import Evaluate

NAMES = ("sst2", "mrpc", "stsb", "rte", "banking77", "demo")
SPLITS = ("train", "validation", "test")
MOST = dict.fromkeys(NAMES, 1600) | {"mrpc": 600, "rte": 400, "stsb": 1000}
"""Rows that are drawn of each set, validation included: fewer where texts are longest."""
VALIDATION = 0.25
"""Share of the drawn rows that validation gets: with fewer, its standard error would hide every difference."""
Rows = list[dict[str, Any]]


@dataclass(frozen=True)
class Prepared:
    """One set on disk. digest: of its three files, so that a record says which rows it is of."""

    name: str
    task: Task
    evaluate: Evaluate
    data: Data
    digest: str

    def rows(self, split: str) -> Rows:
        """Read a split's rows: text, text_pair of pairs, label."""
        return [json.loads(line) for line in Path(self.data.splits[split][0]).read_text("utf-8").splitlines()]  # type: ignore[index]


def prepare(name: str, source: Path, examples: Path, folder: Path, most: int) -> Prepared:
    """Write one set's three splits into `folder`.

    source: the folder of copies that holds glue/ and intents/; examples: what scripts/fetch_examples.py wrote; most: rows of
    train at most, those that validation is carved from included. The demo's data comes with its own validation split.
    """
    if name in glue.SETS:
        chosen = glue.SETS[name]
        data, digest = glue.prepare(chosen, source / "glue", folder, most, VALIDATION)
        return Prepared(name, chosen.task, chosen.evaluate, data, digest)
    splits = _banking77(source / "intents" / "banking77", most) if name == "banking77" else _demo(examples / "data", most)
    return write_set(name, splits, folder)


def write_set(name: str, splits: dict[str, Rows], folder: Path) -> Prepared:
    """Write the three splits of a set of single texts with labels into `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    found = hashlib.sha256()
    for split, rows in sorted(splits.items()):
        text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
        glue.put(folder / f"{split}.jsonl", text)
        found.update(text.encode())
    data = Data(format="jsonl", columns=Columns(), splits={split: (str(folder / f"{split}.jsonl"),) for split in SPLITS})
    return Prepared(name, "text-classification", Evaluate(), data, found.hexdigest()[:16])


def _drawn(rows: Rows, most: int) -> Rows:
    order = list(range(len(rows)))
    random.Random(glue.SEED).shuffle(order)
    return [rows[number] for number in order[:most]]


def _banking77(place: Path, most: int) -> dict[str, Rows]:
    train, test = ([_intent(row) for row in _csv(place / f"{part}.csv")] for part in ("train", "test"))
    drawn = _drawn(train, most)
    held = round(len(drawn) * VALIDATION)
    return {"validation": drawn[:held], "train": drawn[held:], "test": test}


def _demo(place: Path, most: int) -> dict[str, Rows]:
    parts = {
        split: [json.loads(line) for line in (place / f"{split}.jsonl").read_text("utf-8").splitlines()] for split in SPLITS
    }
    return {**parts, "train": _drawn(parts["train"], round(most * (1 - VALIDATION)))}


def _csv(path: Path) -> Rows:
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def _intent(row: dict[str, str]) -> dict[str, Any]:
    return {"text": row["text"], "label": row["category"]}
