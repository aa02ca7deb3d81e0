"""WikiText-2's validation file as a dataset for a job: its articles, split as wholes."""

import json
import re
from pathlib import Path

TITLE = re.compile(r"^ = [^=].*[^=] = $")
SPLITS = ("test", "validation", "calibration")
"""Each takes every tenth article, from its own offset; the rest is train."""


def articles(path: Path) -> list[str]:
    """Read the file's articles, each with its title; raw text, as perplexities on it are usually reported."""
    found: list[list[str]] = []
    for line in path.read_text("utf-8").splitlines():
        if TITLE.match(line):
            found.append([])
        if found:
            found[-1].append(line)
    return ["\n".join(lines).strip() + "\n" for lines in found]


def write(path: Path, folder: Path, most: int | None = None) -> dict[str, int]:
    """Write a JSONL file per split, {"text": article} a line. most: articles of each, the shortest. -> split → articles."""
    folder.mkdir(parents=True, exist_ok=True)
    found: dict[str, list[str]] = {name: [] for name in ("train", *SPLITS)}
    for number, article in enumerate(articles(path)):
        found[dict(enumerate(SPLITS)).get(number % 10, "train")].append(article)
    found = {name: sorted(texts, key=len)[:most] if most else texts for name, texts in found.items()}
    for name, texts in found.items():
        lines = (json.dumps({"text": text}, ensure_ascii=False) for text in texts)
        (folder / f"{name}.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return {name: len(texts) for name, texts in found.items()}
