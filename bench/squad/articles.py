"""A file of SQuAD 2.0's official form as a dataset for a job: its articles are split as wholes, by a stored seed."""

import hashlib
import json
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from bench.glue.datasets import put
from compression.schema.job_spec import Data

SEED = 2
SHARES = {"test": 0.25, "validation": 0.125}
"""Of the articles; the rest is train. An article's paragraphs share names and facts, so a split of rows would leak."""


def prepare(source: Path, folder: Path, most: int | None = None, *, answerable: bool = False) -> tuple[Data, dict[str, Any]]:
    """Write the splits as JSONL into `folder`; return what a job says of them, and facts for the record.

    source: the official JSON. most: questions of train at most, drawn with the seed, and a quarter of that of the others.
    answerable: keep those alone that have an answer.
    Raises SystemExit if there is no such file.
    """
    if not source.is_file():
        raise SystemExit(f"{source} is not there: give --data a file of SQuAD 2.0's form")
    articles: list[dict[str, Any]] = json.loads(source.read_text("utf-8"))["data"]
    folder.mkdir(parents=True, exist_ok=True)
    digest, facts, splits = hashlib.sha256(), dict[str, Any](), {}
    for name, some in split(articles).items():
        rows = [row for article in some for row in questions(article) if row["answers"]["text"] or not answerable]
        random.Random(SEED).shuffle(rows)
        if most is not None:
            rows = rows[: most if name == "train" else max(most // 4, 8)]
        text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
        path = folder / f"{name}.jsonl"
        put(path, text)
        digest.update(text.encode())
        splits[name] = (str(path),)
        unanswered = sum(not row["answers"]["text"] for row in rows)
        facts[name] = {"articles": [one["title"] for one in some], "questions": len(rows), "without_answer": unanswered}
    known = {"seed": SEED, "digest": digest.hexdigest()[:16], **facts}
    return Data.model_validate({"format": "jsonl", "splits": splits}), known


def split(articles: list[dict[str, Any]]) -> dict[str, list[dict[str, Any]]]:
    """Split articles by the seed; every split that is named has at least one."""
    order = sorted(articles, key=lambda article: str(article["title"]))
    random.Random(SEED).shuffle(order)
    found, taken = {}, 0
    for name, share in SHARES.items():
        count = max(round(share * len(order)), 1)
        found[name] = order[taken : taken + count]
        taken += count
    return {"train": order[taken:], **found}


def questions(article: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Yield an article's questions as rows; one without an answer has empty lists."""
    for paragraph in article["paragraphs"]:
        for asked in paragraph["qas"]:
            known = [] if asked["is_impossible"] else asked["answers"]
            answers = {key: [one[key] for one in known] for key in ("text", "answer_start")}
            yield {"question": asked["question"], "context": paragraph["context"], "answers": answers}
