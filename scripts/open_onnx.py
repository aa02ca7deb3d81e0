"""Open a downloaded ONNX artifact with ONNX Runtime and tokenizers alone, and count its right answers.

    .venv-onnx/bin/python -I scripts/open_onnx.py FOLDER TEST.jsonl [THREADS]

Prints {"rows": …, "correct": …}. Each row goes alone (batch 1), as for the report's score. Nothing of Lathe is used:
a user of the artifact would write the same.
"""

import argparse
import importlib.util
import json
from pathlib import Path

import numpy as np
import onnxruntime
from tokenizers import Tokenizer


def main(folder: Path, test: Path, threads: int = 1) -> None:
    """Answer every row of the test file."""
    assert importlib.util.find_spec("compression") is None, "Lathe's engine must not be here"
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.add_session_config_entry("session.x64quantprecision", "1")  # for files with `quantize.portable: false`
    session = onnxruntime.InferenceSession(folder / "model.onnx", options, providers=["CPUExecutionProvider"])
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.no_padding()
    names = json.loads((folder / "config.json").read_text(encoding="utf-8"))["id2label"]
    rows = [json.loads(line) for line in test.read_text(encoding="utf-8").splitlines() if line.strip()]
    correct = 0
    for row in rows:
        found = tokenizer.encode(row["text"], row.get("text_pair"))
        parts = {"input_ids": found.ids, "attention_mask": found.attention_mask, "token_type_ids": found.type_ids}
        feeds = {item.name: np.array([parts[item.name]], dtype=np.int64) for item in session.get_inputs()}
        (logits,) = session.run(["logits"], feeds)
        correct += names[str(int(logits[0].argmax()))] == str(row["label"])
    print(json.dumps({"rows": len(rows), "correct": correct}))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="of the artifact")
    parser.add_argument("test", type=Path, help="JSONL of text, text_pair of pairs, and label")
    parser.add_argument("threads", type=int, nargs="?", default=1)
    asked = parser.parse_args()
    main(asked.folder, asked.test, asked.threads)
