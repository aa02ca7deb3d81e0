"""A folder that has tasks' data as the hub has it: ARC's easy questions and GSM8K's sums, a few of our own."""

import json
from pathlib import Path
from typing import Any

QUESTIONS = (
    ("What do plants need to grow?", ("stone", "light", "glass"), 1),
    ("What falls from clouds?", ("rain", "sand", "wood"), 0),
    ("What do we breathe?", ("oil", "iron", "air"), 2),
    ("What lays eggs?", ("a dog", "a hen", "a cow"), 1),
    ("What melts in the sun?", ("ice", "a rock", "a brick"), 0),
)


def mirror(folder: Path) -> Path:
    """Write it under the hub's name, as a clone of the data set is laid out; return the folder that `--data` takes."""
    questions = []
    for asked, some, right in QUESTIONS:
        choices = {"text": some, "label": ["A", "B", "C"]}
        questions.append({"id": asked, "question": asked, "choices": choices, "answerKey": "ABC"[right]})
    _write(folder / "allenai" / "ai2_arc", "ARC-Easy", ("train", "validation", "test"), questions)
    sums = [{"question": f"What are {n} and 3?", "answer": f"{n} + 3 = {n + 3}\n#### {n + 3}"} for n in range(6)]
    _write(folder / "openai" / "gsm8k", "main", ("train", "test"), sums)
    return folder


def _write(place: Path, name: str, splits: tuple[str, ...], rows: list[dict[str, Any]]) -> None:
    (place / name).mkdir(parents=True)
    for split in splits:
        (place / name / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    files = "".join(f"  - split: {split}\n    path: {name}/{split}.jsonl\n" for split in splits)
    (place / "README.md").write_text(f"---\nconfigs:\n- config_name: {name}\n  data_files:\n{files}---\n")
