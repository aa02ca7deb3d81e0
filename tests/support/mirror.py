"""A folder that has tasks' data as the hub has it: ARC's easy questions and GSM8K's sums, a few of our own."""

import json
from pathlib import Path

QUESTIONS = (
    ("What do plants need to grow?", ("stone", "light", "glass"), 1),
    ("What falls from clouds?", ("rain", "sand", "wood"), 0),
    ("What do we breathe?", ("oil", "iron", "air"), 2),
    ("What lays eggs?", ("a dog", "a hen", "a cow"), 1),
    ("What melts in the sun?", ("ice", "a rock", "a brick"), 0),
)


def mirror(folder: Path) -> Path:
    """Write it under the hub's name, as a clone of the data set is laid out; return the folder that `--data` takes."""
    place = folder / "allenai" / "ai2_arc"
    (place / "ARC-Easy").mkdir(parents=True)
    lines = [
        {
            "id": str(number),
            "question": question,
            "choices": {"text": list(choices), "label": ["A", "B", "C"]},
            "answerKey": "ABC"[right],
        }
        for number, (question, choices, right) in enumerate(QUESTIONS)
    ]
    splits = ("train", "validation", "test")
    for split in splits:
        (place / "ARC-Easy" / f"{split}.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    files = "".join(f"  - split: {split}\n    path: ARC-Easy/{split}.jsonl\n" for split in splits)
    (place / "README.md").write_text(f"---\nconfigs:\n- config_name: ARC-Easy\n  data_files:\n{files}---\n")
    _sums(folder / "openai" / "gsm8k")
    return folder


def _sums(place: Path) -> None:
    (place / "main").mkdir(parents=True)
    lines = [{"question": f"What are {n} and 3?", "answer": f"{n} + 3 = {n + 3}\n#### {n + 3}"} for n in range(6)]
    splits = ("train", "test")
    for split in splits:
        (place / "main" / f"{split}.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    files = "".join(f"  - split: {split}\n    path: main/{split}.jsonl\n" for split in splits)
    (place / "README.md").write_text(f"---\nconfigs:\n- config_name: main\n  data_files:\n{files}---\n")
