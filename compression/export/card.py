"""The model card (README.md) that lies in every artifact: what it is, its figures, and code that opens it."""

from compression.report import Latency, NotMeasured, Score, Size, Stage
from compression.runtimes.runner import Kind


def opens_with(kind: Kind, precision: str) -> str:
    """Name the stock tool and call that open an artifact."""
    if kind == "onnx":
        return "onnxruntime.InferenceSession('model.onnx') with tokenizers.Tokenizer.from_file('tokenizer.json')"
    needs = " with torchao installed" if precision == "int8" else ""
    return f"transformers.AutoModelForSequenceClassification.from_pretrained(folder){needs}"


NUMERICS: dict[tuple[Kind, str], str] = {
    ("onnx", "float32"): "All weights and all arithmetic are float32.",
    ("transformers", "float32"): "All weights and all arithmetic are float32.",
    ("onnx", "int8"): "Weights of linear layers are int8 with one scale an output channel, embeddings int8 with one scale a "
    "row; activations are quantized to 8 bits while it runs, with one scale a token (max / 127), so that an answer does not "
    "depend on who shares the batch.",
    ("transformers", "int8"): "Weights of linear layers are torchao's int8 with one scale an output channel, embeddings int8 "
    "with one scale a row; activations are quantized to int8 while it runs, with one scale a token. Its rounding is not that "
    "of the ONNX artifact, so its score is its own.",
}

ONNX_SNIPPET = """\
```python
# pip install onnxruntime tokenizers numpy
import json
import numpy as np
import onnxruntime
from tokenizers import Tokenizer

session = onnxruntime.InferenceSession("model.onnx", providers=["CPUExecutionProvider"])
tokenizer = Tokenizer.from_file("tokenizer.json")  # truncates to the length that the model was measured with
config = json.load(open("config.json"))
tokenizer.enable_padding(pad_id=config["pad_token_id"])

rows = tokenizer.encode_batch(["One text.", "And another, which is longer."])
logits = session.run(["logits"], {
FEEDS
})[0]
for row in logits:
    print(config["id2label"][str(row.argmax())])
```
"""

FEEDS = {
    "input_ids": '    "input_ids": np.array([row.ids for row in rows], np.int64),',
    "attention_mask": '    "attention_mask": np.array([row.attention_mask for row in rows], np.int64),',
    "token_type_ids": '    "token_type_ids": np.array([row.type_ids for row in rows], np.int64),',
}
"""A line of the snippet for each input that a file may have."""

TRANSFORMERS_SNIPPET = """\
```python
# pip install torch transformers torchao
import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer

tokenizer = AutoTokenizer.from_pretrained(".")
model = AutoModelForSequenceClassification.from_pretrained(".").eval()

inputs = tokenizer(["One text.", "And another, which is longer."], padding=True, truncation=True, return_tensors="pt")
with torch.inference_mode():
    logits = model(**inputs).logits
for row in logits:
    print(model.config.id2label[int(row.argmax())])
```
"""


def card(
    *,
    name: str,
    kind: Kind,
    stage: Stage,
    precision: str,
    labels: tuple[str, ...],
    max_length: int,
    size: Size,
    latency: Latency | NotMeasured,
    score: Score | NotMeasured,
    memory: int | NotMeasured,
    inputs: tuple[str, ...],
) -> str:
    """Write the card in Markdown. inputs: those of the ONNX file."""
    onnx_snippet = ONNX_SNIPPET.replace("FEEDS", "\n".join(FEEDS[name] for name in inputs))
    lines = [
        f"# {name}",
        "",
        f"A text classifier for {len(labels)} labels ({', '.join(labels)}), as it was after the stage *{stage}*.",
        NUMERICS[kind, precision],
        f"Texts are cut to {max_length} tokens.",
        "",
        "## Open it",
        "",
        onnx_snippet if kind == "onnx" else TRANSFORMERS_SNIPPET,
        "## Figures",
        "",
        "Measured on these very files, after they were written and reopened.",
        "",
        "| figure | value |",
        "| --- | --- |",
        f"| weights on disk | {size.bytes:,} bytes ({size.dtype}) |",
        *_score(score),
        *_latency(latency),
        f"| peak resident memory of a process that only serves it | {_or_reason(memory, 'bytes')} |",
        "",
        "`manifest.json` lists every file with its size and sha256.",
        "",
    ]
    return "\n".join(lines)


def _score(score: Score | NotMeasured) -> list[str]:
    if isinstance(score, NotMeasured):
        return [f"| score | not measured: {score.not_measured} |"]
    return [
        f"| {score.metric} on {score.rows:,} test rows, one at a time | {score.value:.2%} ± {score.standard_error:.2%} |",
        f"| {score.metric}, 32 rows together | {score.value_at_batch_32:.2%} |",
        f"| rows whose answer changes with the batch | {score.rows_changed_by_batching} |",
        f"| {score.metric} of always answering the most frequent label | {score.chance:.2%} |",
    ]


def _latency(latency: Latency | NotMeasured) -> list[str]:
    if isinstance(latency, NotMeasured):
        return [f"| latency | not measured: {latency.not_measured} |"]
    threads = "1 thread" if latency.threads == 1 else f"{latency.threads} threads"
    where = f"batch {latency.batch}, {latency.length} tokens, {threads}, {latency.runtime}"
    return [
        f"| latency, median ({where}) | {latency.median_ms:.2f} ms |",
        f"| latency, 95th percentile; distance between the quartiles | {latency.p95_ms:.2f} ms; {latency.spread_ms:.2f} ms |",
        f"| latency of the baseline, interleaved in the same process | {latency.baseline_median_ms:.2f} ms |",
    ]


def _or_reason(value: int | NotMeasured, unit: str) -> str:
    return f"not measured: {value.not_measured}" if isinstance(value, NotMeasured) else f"{value:,} {unit}"
