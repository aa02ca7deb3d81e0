"""Code for the model card: how an artifact is opened and asked with stock tools, task by task."""

from compression.models.architectures import heads
from compression.schema.recipe.base import Task

TEXTS = '["One text.", "And another, which is longer."]'
PAIRS = '[("One text.", "Its second text."), ("Another.", "And a second text, which is longer.")]'
QUESTION = """\
question, context = "What is asked?", "A context, in which the answer stands."
"""

ONNX_OPEN = """\
# pip install onnxruntime tokenizers numpy
import json
import numpy as np
import onnxruntime
from tokenizers import Tokenizer

{session}
tokenizer = Tokenizer.from_file("tokenizer.json")  # truncates to the length that the model was measured with
config = json.load(open("config.json"))
"""
SESSION = 'session = onnxruntime.InferenceSession("model.onnx", providers=["CPUExecutionProvider"])'
EXACT_SESSION = """\
options = onnxruntime.SessionOptions()
options.add_session_config_entry("session.x64quantprecision", "1")  # for x86 without VNNI; with it, only slower: leave it out
session = onnxruntime.InferenceSession("model.onnx", options, providers=["CPUExecutionProvider"])"""
"""Of files whose integers are not portable."""
ONNX_ASK = """\
tokenizer.enable_padding(pad_id=config["pad_token_id"])

texts = {texts}
rows = tokenizer.encode_batch(texts)
logits = session.run(["logits"], {{
{feeds}
}})[0]
"""
FEEDS = {
    "input_ids": '    "input_ids": np.array([row.ids for row in rows], np.int64),',
    "attention_mask": '    "attention_mask": np.array([row.attention_mask for row in rows], np.int64),',
    "token_type_ids": '    "token_type_ids": np.array([row.type_ids for row in rows], np.int64),',
}
"""A line for each input that a file may have."""
ONNX_QUESTION = (
    """
"""
    + QUESTION
    + """\
first = tokenizer.encode(question, context)  # a question of more than half that length must be cut before
nothing, best, answer = float("inf"), -float("inf"), ""
for window in [first, *first.overflowing]:  # a long context is read in overlapping windows
    rows = [window]
    starts, ends = (found[0] for found in session.run(["start_logits", "end_logits"], {{
{feeds}
    }}))
    nothing = min(nothing, starts[0] + ends[0])  # no answer: both ends on the first token
    inside = [number for number, part in enumerate(window.sequence_ids) if part == 1]
    for start in inside:
        for end in inside:
            if start <= end < start + 30 and starts[start] + ends[end] > best:
                best, answer = starts[start] + ends[end], context[window.offsets[start][0]:window.offsets[end][1]]
print(answer if best > nothing else "(no answer)")
"""
)
ONNX_ANSWER = {
    "class": """\
for row in logits:
    print(config["id2label"][str(row.argmax())])
""",
    "number": """\
for row in logits:
    print(float(row[0]))
""",
    "tags": """\
for text, row, tags in zip(texts, rows, logits.argmax(-1)):
    for (start, end), tag in zip(row.offsets, tags):
        if end > start and (start == 0 or text[start - 1] == " "):  # a word's first token bears its tag
            print(text[start:].split()[0], config["id2label"][str(tag)])
""",
}

TRANSFORMERS_OPEN = """\
# pip install torch transformers torchao
import torch
from transformers import {auto}, {tokenizer}

tokenizer = {tokenizer}.from_pretrained(".")
model = {auto}.from_pretrained(".").eval()

"""
TRANSFORMERS_ASK = """\
texts = {texts}
inputs = tokenizer(texts, padding=True, truncation=True, return_tensors="pt"{offsets})
{places}with torch.no_grad():
    logits = model(**inputs).logits
"""
TRANSFORMERS_ANSWER = {
    "class": """\
for row in logits:
    print(model.config.id2label[int(row.argmax())])
""",
    "number": """\
for row in logits:
    print(float(row[0]))
""",
    "tags": """\
for text, row, tags in zip(texts, places, logits.argmax(-1)):
    for (start, end), tag in zip(row.tolist(), tags):
        if end > start and (start == 0 or text[start - 1] == " "):  # a word's first token bears its tag
            print(text[start:].split()[0], model.config.id2label[int(tag)])
""",
}
TRANSFORMERS_QUESTION = (
    QUESTION
    + """\
inputs = tokenizer(question, context, truncation="only_second", stride={stride}, return_overflowing_tokens=True,
                   return_offsets_mapping=True, padding=True, return_tensors="pt")  # a long context: overlapping windows
places = inputs.pop("offset_mapping").tolist()
inputs.pop("overflow_to_sample_mapping")
with torch.no_grad():
    out = model(**inputs)
nothing, best, answer = float("inf"), -float("inf"), ""
for window, (starts, ends) in enumerate(zip(out.start_logits.tolist(), out.end_logits.tolist())):
    nothing = min(nothing, starts[0] + ends[0])  # no answer: both ends on the first token
    inside = [number for number, part in enumerate(inputs.sequence_ids(window)) if part == 1]
    for start in inside:
        for end in inside:
            if start <= end < start + 30 and starts[start] + ends[end] > best:
                best, answer = starts[start] + ends[end], context[places[window][start][0]:places[window][end][1]]
print(answer if best > nothing else "(no answer)")
"""
)


ONNX_GENERATE = """\
# pip install onnxruntime tokenizers numpy
import json
from pathlib import Path
import numpy as np
import onnxruntime
from tokenizers import Tokenizer

{session}  # reads model.onnx_data beside it
tokenizer = Tokenizer.from_file("tokenizer.json")
files = (Path("generation_config.json"), Path("config.json"))  # the first may name more tokens that end a text
ends = [json.loads(file.read_text()).get("eos_token_id") for file in files if file.is_file()]
stops = np.atleast_1d(next((end for end in ends if end is not None), []))

tokens = new = tokenizer.encode("Once upon a time").ids
cache = {item.name: np.zeros((1, item.shape[1], 0, item.shape[3]), np.float32)
         for item in session.get_inputs() if item.name.startswith("past_key_values.")}
for _ in range(32):
    logits, *present = session.run(None, {
        "input_ids": np.array([new], np.int64),
        "attention_mask": np.ones((1, len(tokens)), np.int64),
        "position_ids": np.arange(len(tokens) - len(new), len(tokens), dtype=np.int64)[None],
        **cache,
    })
    cache = dict(zip(cache, present))
    new = [int(logits[0, -1].argmax())]  # the likeliest token
    if new[0] in stops:
        break
    tokens = tokens + new
print(tokenizer.decode(tokens))
"""
TRANSFORMERS_GENERATE = """\
inputs = tokenizer("Once upon a time", return_tensors="pt", return_token_type_ids=False)
with torch.no_grad():
    tokens = model.generate(**inputs, max_new_tokens=32, do_sample=False)
print(tokenizer.decode(tokens[0], skip_special_tokens=True))
"""


def onnx_snippet(task: Task, inputs: tuple[str, ...], *, pairs: bool = False, saturates: bool = False) -> str:
    """Write what opens an ONNX artifact. inputs: of the file; pairs: whether the task's rows have a second text.

    saturates: whether its integers are so large that x86 without VNNI needs telling.
    """
    session = EXACT_SESSION if saturates else SESSION
    if task == "causal-lm":
        return _fenced(ONNX_GENERATE.replace("{session}", session))
    opened = ONNX_OPEN.replace("{session}", session)
    feeds = "\n".join(FEEDS[name] for name in inputs)
    if task == "question-answering":
        return _fenced(
            opened + ONNX_QUESTION.format(feeds=feeds.replace("    ", "        ", 1).replace("\n    ", "\n        "))
        )
    return _fenced(opened + ONNX_ASK.format(texts=PAIRS if pairs else TEXTS, feeds=feeds) + ONNX_ANSWER[_form(task)])


def transformers_snippet(task: Task, stride: int, *, pairs: bool = False, as_filed: bool = True) -> str:
    """Write what opens a checkpoint. stride: tokens that two windows of a question's context share; pairs: as above.

    as_filed: whether AutoTokenizer cuts texts as tokenizer.json does; where it does not, the common class is named.
    """
    tokenizer = "AutoTokenizer" if as_filed else "PreTrainedTokenizerFast"
    opened = TRANSFORMERS_OPEN.format(auto=heads.of_task(task).auto, tokenizer=tokenizer)
    if task == "causal-lm":
        return _fenced(opened + TRANSFORMERS_GENERATE)
    if task == "question-answering":
        return _fenced(opened + TRANSFORMERS_QUESTION.format(stride=stride))
    tags = task == "token-classification"
    asked = TRANSFORMERS_ASK.format(
        texts=(PAIRS if pairs else TEXTS).replace("(", "[").replace(")", "]"),
        offsets=", return_offsets_mapping=True" if tags else "",
        places='places = inputs.pop("offset_mapping")\n' if tags else "",
    )
    return _fenced(opened + asked + TRANSFORMERS_ANSWER[_form(task)])


def _form(task: Task) -> str:
    return {"text-regression": "number", "token-classification": "tags"}.get(task, "class")


def _fenced(code: str) -> str:
    return f"```python\n{code}```\n"
