"""A toy of every task that a tiny model learns in seconds: which words are good or bad decides everything."""

import json
import random
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedTokenizerFast

from compression.engine.context import StageContext
from compression.modalities.registry import task_of
from compression.modalities.text.dataset import Dataset, load_dataset
from compression.modalities.text.preprocessor import encoded
from compression.models import loading
from compression.schema.job_spec import Data
from compression.schema.recipe.base import Split, Task
from compression.schema.recipe.recipe import Evaluate, Recipe
from tests.support.job_models import alone
from tests.support.tiny_bert import BAD, FILLER, GOOD, all_phases

LENGTH = 40
TASKS: tuple[Task, ...] = ("text-pair-classification", "text-regression", "token-classification", "question-answering")


def row(task: Task, draw: random.Random) -> dict[str, Any]:
    words = draw.choices(FILLER, k=draw.randint(3, 7))
    good = draw.random() < 0.5
    if task == "text-pair-classification":  # the second text decides, whatever the first says
        words.insert(draw.randrange(len(words)), draw.choice(GOOD + BAD))
        return {
            "text": " ".join(words),
            "text_pair": " ".join([*draw.choices(FILLER, k=2), draw.choice(GOOD if good else BAD)]),
            "label": "yes" if good else "no",
        }
    if task == "text-regression":
        count = draw.randrange(4)
        words += draw.choices(GOOD, k=count)
        draw.shuffle(words)
        return {"text": " ".join(words), "label": count / 2}
    if task == "token-classification":  # a good word is an entity; two bad ones are another
        at = draw.randrange(len(words))
        words[at : at + 1] = [draw.choice(GOOD)] if good else [draw.choice(BAD[:2]), draw.choice(BAD[2:])]
        tags = ["O"] * len(words)
        tags[at : at + (1 if good else 2)] = ["B-G"] if good else ["B-B", "I-B"]
        return {"tokens": words, "tags": tags}
    answers: dict[str, list[Any]] = {"text": [], "answer_start": []}
    if good:
        at, answer = draw.randrange(len(words)), draw.choice(GOOD)
        answers = {"text": [answer], "answer_start": [len(" ".join([*words[:at], ""]))]}
        words.insert(at, answer)
    return {"question": "word1 word2", "context": " ".join(words), "answers": answers}


def write(task: Task, folder: Path, train: int = 320, test: int = 80) -> Data:
    for name, count in (("train", train), ("test", test)):
        draw = random.Random(name)
        lines = [json.dumps(row(task, draw)) for _ in range(count)]
        (folder / f"{name}.jsonl").write_text("\n".join(lines) + "\n")
    return Data(format="jsonl", splits={"train": ("train.jsonl",), "test": ("test.jsonl",)})


def opened(
    task: Task, folder: Path, encoder: Path, recipe: Recipe, evaluate: Evaluate | None = None
) -> tuple[Dataset, PreTrainedTokenizerFast, StageContext]:
    """Load data and model as a job does."""
    dataset = load_dataset(write(task, folder), folder, seed=0, task=task)
    model, tokenizer = loading.load_model(encoder, dataset.labels, task, seed=0), loading.load_tokenizer(encoder)
    asked = task_of(task, dataset.labels, evaluate or Evaluate())
    names: tuple[Split, ...] = ("train", "validation", "test")
    rows = {name: encoded(dataset, name, tokenizer, LENGTH, asked, types=True) for name in names}
    torch.manual_seed(0)
    return dataset, tokenizer, StageContext(recipe, rows, model, all_phases(), alone(model, rows))
