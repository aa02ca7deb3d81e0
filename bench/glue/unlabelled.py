"""Unlabelled text for the general phase: Wikipedia's sentences, and the texts of the four sets' train splits.

A task's own train split is narrow (a fifth of STS-B's test is of a kind that it lacks): what the teacher makes of other text
can be learned from text that nobody labelled. A text that stands in any set's test split is left out.
"""

import hashlib
import json
import random
import re
from collections.abc import Iterable, Iterator
from pathlib import Path

from bench.glue.datasets import SEED, put
from compression.schema.job_spec import Data

HUB = ("Salesforce/wikitext", "wikitext-2-v1", "validation")
FEWEST_WORDS, MOST_WORDS = 5, 80


def write(wikipedia: Iterable[str], sets: Iterable[Data], path: Path, most: int | None = None) -> str:
    """Write the pool, {"text": …} a line, each text once. Returns its digest.

    wikipedia: WikiText's lines. sets: as `glue.prepare` returns them. most: texts at most, drawn with a fixed seed.
    """
    trained, tested = list[str](), set[str]()
    for data in sets:
        trained += _column_texts(data.splits["train"])
        tested |= {_folded(text) for text in _column_texts(data.splits["test"])}
    pool = list(dict.fromkeys(text for text in [*sentences(wikipedia), *trained] if _folded(text) not in tested))
    if most is not None and most < len(pool):
        pool = random.Random(SEED).sample(pool, most)
    whole = "".join(json.dumps({"text": text}, ensure_ascii=False) + "\n" for text in pool)
    put(path, whole)
    return hashlib.sha256(whole.encode()).hexdigest()[:16]


def wikitext(path: Path | None) -> list[str]:
    """Read WikiText-2's validation lines from a copy, or from the hub."""
    if path is not None:
        return path.read_text("utf-8").splitlines()
    try:
        from datasets import load_dataset
    except ImportError as problem:
        raise SystemExit("pip install datasets, or give --text a copy of WikiText-2's validation file") from problem
    name, part, split = HUB
    return [row["text"] for row in load_dataset(name, part)[split]]


def sentences(lines: Iterable[str]) -> Iterator[str]:
    """Yield the sentences of WikiText's lines as running text; headings, and words that it has masked, are left out."""
    for line in lines:
        if line.strip().startswith("="):
            continue
        joined = re.sub(r" @([.,-])@ ", r"\1", line)
        for sentence in re.split(r'(?<= [.!?]) (?=[A-Z"])', joined):
            words = sentence.replace("<unk>", "").split()
            if FEWEST_WORDS <= len(words) <= MOST_WORDS:
                yield " ".join(words)


def _column_texts(files: Iterable[str]) -> Iterator[str]:
    for file in files:
        for line in Path(file).read_text("utf-8").splitlines():
            row = json.loads(line)
            yield from (row[column] for column in ("text", "text_pair") if row.get(column))


def _folded(text: str) -> str:
    return " ".join(text.lower().split())
