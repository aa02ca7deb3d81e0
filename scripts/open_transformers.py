"""Open a downloaded checkpoint with transformers (and torchao, which it asks for) alone, and count its right answers.

    .venv-transformers/bin/python -I scripts/open_transformers.py FOLDER TEST.jsonl [THREADS]

Prints {"rows": …, "correct": …}. Each row goes alone (batch 1), as for the report's score. Nothing of Lathe is used:
a user of the artifact would write the same.
"""

import argparse
import importlib.util
import json
from pathlib import Path

import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer


def main(folder: Path, test: Path, threads: int = 1) -> None:
    """Answer every row of the test file."""
    assert importlib.util.find_spec("compression") is None, "Lathe's engine must not be here"
    torch.set_num_threads(threads)
    model = AutoModelForSequenceClassification.from_pretrained(folder, local_files_only=True).eval()
    tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    rows = [json.loads(line) for line in test.read_text(encoding="utf-8").splitlines() if line.strip()]
    correct = 0
    with torch.no_grad():  # in inference mode torchao's tensors of experts cannot be indexed
        for row in rows:
            logits = model(**tokenizer(row["text"], row.get("text_pair"), truncation=True, return_tensors="pt")).logits
            correct += model.config.id2label[int(logits.argmax())] == str(row["label"])
    print(json.dumps({"rows": len(rows), "correct": correct}))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="of the artifact")
    parser.add_argument("test", type=Path, help="JSONL of text, text_pair of pairs, and label")
    parser.add_argument("threads", type=int, nargs="?", default=1)
    asked = parser.parse_args()
    main(asked.folder, asked.test, asked.threads)
