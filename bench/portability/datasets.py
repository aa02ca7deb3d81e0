"""Six small datasets as files that a job takes, and an original of each, trained by a plain loop if none is given."""

import csv
import hashlib
import json
import random
from dataclasses import dataclass
from pathlib import Path

import torch
from transformers import PreTrainedModel

from bench.glue import datasets as glue
from compression.evaluation.validate import validate
from compression.modalities.registry import task_of
from compression.modalities.text.dataset import Dataset, load_dataset
from compression.modalities.text.preprocessor import TextPreprocessor
from compression.models import loading
from compression.models.adapters.registry import adapter_of
from compression.planning.preflight import evaluation_settings
from compression.schema.job_spec import Data
from compression.schema.recipe.base import Task
from compression.schema.recipe.recipe import Evaluate

NAMES = ("demo", "sst2", "mrpc", "stsb", "rte", "banking77")
LENGTH, BATCH = 128, 32
MOST_ROWS = 2000
"""Rows of train that an original is tuned on."""
EPOCHS, RATE = 2, 1e-4
OF_MANY_CLASSES = (6, 3e-4)
"""banking77's, whose head has 77 classes to learn from 26 rows each."""
HELD = 800


@dataclass(frozen=True)
class Material:
    """A dataset, read. digest: of its three files."""

    name: str
    task: Task
    data: Data
    evaluate: Evaluate
    dataset: Dataset
    digest: str


def material(name: str, source: Path, examples: Path, folder: Path) -> Material:
    """Write a dataset to `folder` and read it. source: folder of the copies; examples: of `scripts/fetch_examples.py`."""
    task: Task = "text-classification"
    asked = Evaluate()
    if name == "demo":
        files = {split: (str(examples / "data" / f"{split}.jsonl"),) for split in ("train", "validation", "test")}
        given = Data(format="jsonl", splits=files)
    elif name == "banking77":
        given = _banking77(source / "intents" / "banking77", folder)
    else:
        chosen = glue.SETS[name]
        given, _ = glue.prepare(chosen, source / "glue", folder, None)
        task, asked = chosen.task, chosen.evaluate
    found = load_dataset(given, Path(), seed=0, task=task)
    files_of = [Path(files[0]) for _, files in sorted(given.splits.items())]
    digest = hashlib.sha256(b"".join(path.read_bytes() for path in files_of))
    evaluate = evaluation_settings(asked, 0, 1, task, found.labels)
    return Material(name, task, given, evaluate, found, digest.hexdigest()[:16])


def _banking77(source: Path, folder: Path) -> Data:
    """Carve validation from train with the seed of the other sets."""
    folder.mkdir(parents=True, exist_ok=True)
    rows = {}
    for split in ("train", "test"):
        with (source / f"{split}.csv").open(encoding="utf-8", newline="") as file:
            rows[split] = [{"text": row["text"], "label": row["category"]} for row in csv.DictReader(file)]
    order = list(range(len(rows["train"])))
    random.Random(glue.SEED).shuffle(order)
    train = rows.pop("train")
    rows |= {"validation": [train[at] for at in sorted(order[:HELD])], "train": [train[at] for at in sorted(order[HELD:])]}
    for split, found in rows.items():
        glue.put(folder / f"{split}.jsonl", "".join(json.dumps(row) + "\n" for row in found))
    return Data(format="jsonl", splits={split: (str(folder / f"{split}.jsonl"),) for split in rows})


def original(found: Material, model: Path, place: Path) -> tuple[PreTrainedModel, str]:
    """Open the original in `place`, or tune one there by a plain loop. -> the model, and how it was trained."""
    if (place / "config.json").is_file():
        story = place / "trained.txt"
        tuned = loading.load_model(place, found.dataset.labels, found.task, seed=0)
        return tuned.eval(), story.read_text("utf-8") if story.is_file() else f"given: {place}"
    epochs, rate = OF_MANY_CLASSES if found.name == "banking77" else (EPOCHS, RATE)
    task = task_of(found.task, found.dataset.labels, found.evaluate)
    torch.manual_seed(0)
    tuned = loading.load_model(model, found.dataset.labels, found.task, seed=0)
    types = adapter_of(tuned).types(tuned.config) > 1
    reading = TextPreprocessor(loading.load_tokenizer(model), LENGTH, types=types)
    train, held = (reading.encode(found.dataset, split, task) for split in ("train", "validation"))
    order = list(range(len(train)))
    random.Random(0).shuffle(order)
    train = train.at(sorted(order[:MOST_ROWS]))
    steps = epochs * -(-len(train) // BATCH)
    optimizer = torch.optim.AdamW(tuned.parameters(), lr=rate, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, rate, total_steps=steps, pct_start=0.1, anneal_strategy="linear")
    tuned.train()
    for epoch in range(epochs):
        for batch in train.shuffled(BATCH, epoch):
            loss = task.loss(task.logits(tuned(**batch.inputs)), batch)
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            torch.nn.utils.clip_grad_norm_(tuned.parameters(), 1.0)
            optimizer.step()
            schedule.step()
    tuned.eval()
    how = f"{len(train):,} rows of train, {epochs} epochs, rate {rate:g}, no search"
    said = f"tuned here: {how}; validation {validate(tuned, held)}"
    tuned.save_pretrained(place)
    for path in model.glob("*token*"):
        (place / path.name).write_bytes(path.read_bytes())
    for path in model.glob("vocab.txt"):
        (place / path.name).write_bytes(path.read_bytes())
    (place / "trained.txt").write_text(said, "utf-8")
    return tuned, said
