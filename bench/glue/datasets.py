"""SST-2, MRPC, STS-B and RTE as files that a job takes: from a folder of copies, or else from the hub.

Validation, for every choice, is carved from train with a fixed seed. What is called test here is for the report alone: the
labelled development set of SST-2 and RTE (GLUE keeps the labels of its test sets to itself), the labelled test set of the
others.
"""

import csv
import hashlib
import json
import os
import random
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from compression.schema.job_spec import Columns, Data
from compression.schema.recipe.base import Task
from compression.schema.recipe.recipe import Evaluate

Rows = list[dict[str, Any]]

VALIDATION = 0.1
"""Share of train, at most MOST_VALIDATION rows, which suffice to choose epochs."""
MOST_VALIDATION = 800
SEED = 20


BY_TASK = Evaluate()


@dataclass(frozen=True)
class Set:
    """One of the four. `seeds`: the small sets are run with several, because one tells too little.

    metric: in words; evaluate: what a job is asked for to judge by it.
    """

    name: str
    task: Task
    metric: str
    seeds: bool
    hub: tuple[str, str]
    test_split: str
    columns: tuple[str, ...]
    labels: tuple[str, ...] | None
    evaluate: Evaluate = BY_TASK


SETS: dict[str, Set] = {
    "sst2": Set(
        "sst2", "text-classification", "accuracy", False, ("nyu-mll/glue", "sst2"), "validation", ("sentence",), ("0", "1")
    ),
    "mrpc": Set(
        "mrpc",
        "text-pair-classification",
        "accuracy and F1, their mean",
        True,
        ("nyu-mll/glue", "mrpc"),
        "test",
        ("sentence1", "sentence2"),
        ("0", "1"),
        Evaluate(metric="accuracy_f1", positive="1"),  # a paraphrase
    ),
    "stsb": Set(
        "stsb",
        "text-regression",
        "Pearson and Spearman correlation, their mean",
        True,
        ("sentence-transformers/stsb", "default"),
        "test",
        ("sentence1", "sentence2"),
        None,
    ),
    "rte": Set(
        "rte",
        "text-pair-classification",
        "accuracy",
        True,
        ("nyu-mll/glue", "rte"),
        "validation",
        ("sentence1", "sentence2"),
        ("entailment", "not_entailment"),
    ),
}


def prepare(chosen: Set, source: Path | None, folder: Path, most: int | None, share: float = VALIDATION) -> tuple[Data, str]:
    """Write train, validation and test as JSONL into `folder`; return what a job says of them and the hash of all three.

    source: a folder laid out like the copies that the README of the data names; None asks the hub. most: rows of train at
    most, validation included, drawn with a fixed seed; share: of them that validation gets. Raises
    SystemExit where nothing is found.
    """
    train, test = from_folder(chosen, source) if source else from_hub(chosen)
    order = list(range(len(train)))
    random.Random(SEED).shuffle(order)
    order = order[:most]
    held = min(round(len(order) * share), MOST_VALIDATION)
    splits = {
        "validation": [train[i] for i in sorted(order[:held])],
        "train": [train[i] for i in sorted(order[held:])],
        "test": test,
    }
    folder.mkdir(parents=True, exist_ok=True)
    digest = hashlib.sha256()
    for name, rows in sorted(splits.items()):
        text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
        put(folder / f"{name}.jsonl", text)
        digest.update(text.encode())
    pair = len(chosen.columns) == 2
    columns = Columns(text="text", text_pair="text_pair", label="label") if pair else Columns()
    data = Data(
        format="jsonl",
        columns=columns,
        splits={name: (str(folder / f"{name}.jsonl"),) for name in ("train", "validation", "test")},
    )
    return data, digest.hexdigest()[:16]


def put(path: Path, text: str) -> None:
    """Write a file atomically: another process may be reading it."""
    if not path.exists() or path.read_text(encoding="utf-8") != text:
        part = path.with_suffix(f".{os.getpid()}")
        part.write_text(text, encoding="utf-8")
        part.replace(path)


def from_folder(chosen: Set, source: Path) -> tuple[Rows, Rows]:
    """Read (train, test) from the copies. STS-B's own development rows are part of neither: nothing needs them."""
    place = source / chosen.name
    if not place.is_dir():
        raise SystemExit(f"{place} is not there")
    if chosen.name == "sst2":
        parts = [place / "train_60614.tsv", place / "train_rest_6735.tsv"]
        train = [_sst2(row) for part in parts for row in _tsv(part)]
        return train, [_sst2(row) for row in _tsv(place / "glue_dev_872.tsv")]
    if chosen.name == "mrpc":
        first, second = ([_mrpc(row) for row in _tsv(place / f"msr_paraphrase_{part}.txt")] for part in ("train", "test"))
    elif chosen.name == "stsb":
        first, second = (list(_stsb(place / f"sts-{part}.csv")) for part in ("train", "test"))
    else:
        files = [place / "train.jsonl", place / "val.jsonl"]
        first, second = ([_rte(json.loads(line)) for line in file.read_text("utf-8").splitlines()] for file in files)
    return first, second


def from_hub(chosen: Set) -> tuple[Rows, Rows]:
    """Download (train, test) with the datasets library."""
    try:
        from datasets import load_dataset
    except ImportError as problem:
        raise SystemExit("pip install datasets, or give --data a folder of copies") from problem
    found = load_dataset(*chosen.hub)
    return [_of_hub(chosen, row) for row in found["train"]], [_of_hub(chosen, row) for row in found[chosen.test_split]]


def _of_hub(chosen: Set, row: dict[str, Any]) -> dict[str, Any]:
    out = dict(zip(("text", "text_pair"), (row[column] for column in chosen.columns), strict=False))
    if chosen.labels is None:
        return {**out, "label": float(row["score"])}
    return {**out, "label": chosen.labels[row["label"]]}


def _tsv(path: Path) -> Iterator[dict[str, str]]:
    with path.open(encoding="utf-8-sig", newline="") as file:
        yield from csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE)


def _sst2(row: dict[str, str]) -> dict[str, Any]:
    return {"text": row["sentence"].strip(), "label": row["label"]}


def _mrpc(row: dict[str, str]) -> dict[str, Any]:
    return {"text": row["#1 String"], "text_pair": row["#2 String"], "label": row["Quality"]}


def _stsb(path: Path) -> Iterable[dict[str, Any]]:
    # genre, file, year, id, score, two sentences, and for some rows where they come from; scores are 0 to 5, here 0 to 1.
    for line in path.read_text("utf-8").splitlines():
        cells = line.split("\t")
        yield {"text": cells[5], "text_pair": cells[6], "label": float(cells[4]) / 5}


def _rte(row: dict[str, Any]) -> dict[str, Any]:
    return {"text": row["premise"], "text_pair": row["hypothesis"], "label": row["label"]}
