"""The command `answer`: two artifacts answer one row as stock tools would, in every task that has answers."""

import json
import random
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
from tokenizers import Tokenizer

from compression.engine.pipeline import compress
from compression.evaluation import predict as command
from compression.evaluation.predict import predict
from compression.evaluation.runtimes.onnx import EXACT_PRODUCTS, has_vnni
from compression.modalities.text.questions import row_of as given
from compression.schema.job_spec import Data
from compression.schema.prediction import Answer, Answered, parse_answered
from compression.schema.prediction_request import LONGEST_TEXT, AnswerSpec, Question, asked_for
from compression.schema.recipe.base import Task
from compression.schema.recipe.recipe import Evaluate
from compression.schema.validation import Rejected
from tests.support.engine_jobs import report_of, spec_of
from tests.support.tiny_shipment import LABELS, Shipment
from tests.support.toy_tasks import LENGTH, TASKS, row, write

ROOM = 4 << 30


def spec(shipment: Shipment, question: Question, **values: Any) -> AnswerSpec:
    folders = {"original": str(shipment.folder(shipment.baseline)), "compressed": str(shipment.folder(shipment.int8))}
    asked: dict[str, Any] = {"task": "text-classification", "labels": LABELS, "memory_bytes": ROOM, **folders, **values}
    return AnswerSpec(question=question, evaluate=Evaluate(), **asked)


def run(asked: AnswerSpec, folder: Path) -> Answered | Rejected:
    path = folder / "spec.json"
    path.write_text(asked.model_dump_json())
    done = subprocess.run([sys.executable, "-m", "compression", "predict", str(path)], capture_output=True, check=True)
    return parse_answered.validate_json(done.stdout)


def stock(folder: Path, text: str) -> np.ndarray[Any, Any]:
    options = onnxruntime.SessionOptions()
    if not has_vnni():
        options.add_session_config_entry(*EXACT_PRODUCTS)  # as docs/numerics.md tells of files that are not portable
    session = onnxruntime.InferenceSession(folder / "model.onnx", options)
    encoded = Tokenizer.from_file(str(folder / "tokenizer.json")).encode(text)
    feed = {"input_ids": encoded.ids, "attention_mask": encoded.attention_mask, "token_type_ids": encoded.type_ids}
    return session.run(None, {name: np.array([value]) for name, value in feed.items()})[0][0]


def test_both_artifacts_answer_as_stock_onnx_runtime_does(tiny_shipment: Shipment, tmp_path: Path) -> None:
    text = tiny_shipment.rows[0][0]
    found = run(spec(tiny_shipment, Question(text=text)), tmp_path)
    assert (found.asked, found.expected) == ({"text": text}, None)
    sides = ((found.original, tiny_shipment.baseline), (found.compressed, tiny_shipment.int8))
    for said, shipped in sides:
        folder = tiny_shipment.folder(shipped)
        logits = stock(folder, text)
        assert said.label == LABELS[int(logits.argmax())]
        shares = np.exp(logits) / np.exp(logits).sum()
        assert [said.scores[label] for label in LABELS] == pytest.approx(list(shares), abs=1e-5)
        assert said.milliseconds > 0
        assert said.runs > 1
        assert "onnxruntime" in said.runtime
        assert said.bytes == (folder / "model.onnx").stat().st_size
    assert found.original.bytes > found.compressed.bytes


def test_a_row_of_the_data_is_asked_by_its_number(tiny_shipment: Shipment, tmp_path: Path) -> None:
    texts = tiny_shipment.rows
    (tmp_path / "test.csv").write_text("text,label\n" + "".join(f"{text},{label}\n" for text, label in texts))
    data = Data(format="csv", splits={"train": ("test.csv",), "test": ("test.csv",)})
    found = predict(spec(tiny_shipment, Question(row=7), data=data), tmp_path)
    assert (found.asked, found.expected) == ({"text": texts[7][0]}, texts[7][1])
    beyond = run(spec(tiny_shipment, Question(row=len(texts)), data=data), tmp_path)
    assert (beyond.reasons[0]["code"], beyond.reasons[0]["param"]) == ("empty_split", "row")


def test_of_a_long_row_the_beginning_is_shown(tiny_shipment: Shipment, tmp_path: Path) -> None:
    (tmp_path / "test.jsonl").write_text(json.dumps({"text": "good " * 30_000, "label": LABELS[0]}) + "\n")
    data = Data(format="jsonl", splits={"train": ("test.jsonl",), "test": ("test.jsonl",)})
    found = predict(spec(tiny_shipment, Question(row=0), data=data), tmp_path)
    assert found.asked == {"text": ("good " * 30_000)[:LONGEST_TEXT]}
    assert found.original.label in LABELS


def test_a_row_may_have_words_of_any_length(encoder: Path, tmp_path: Path) -> None:
    words = ["http://" + "a" * 300, *["b"] * 2500]
    (tmp_path / "rows.jsonl").write_text(json.dumps({"tokens": words, "tags": ["O"] * len(words)}) + "\n")
    data = Data(format="jsonl", splits={"train": ("rows.jsonl",), "test": ("rows.jsonl",)})
    common = {"task": "token-classification", "labels": ("O", "B-x"), "memory_bytes": ROOM, "data": data}
    asked = AnswerSpec(original="original", compressed="compressed", question=Question(row=0), **common)
    read, shown, expected = given(asked, tmp_path)
    assert read == {"words": words}
    assert shown == {"tokens": [words[0][:200], *["b"] * 1999]}
    assert expected == ["O"] * 2000


def test_it_needs_no_torch_and_takes_no_more_memory_than_it_may(tiny_shipment: Shipment, tmp_path: Path) -> None:
    path = tmp_path / "spec.json"
    path.write_text(spec(tiny_shipment, Question(text="good")).model_dump_json())
    program = f"""
import sys
from pathlib import Path
from compression.evaluation.predict import main
assert main(Path({str(path)!r})) == 0
assert not {{"torch", "transformers"}} & set(sys.modules)
"""
    subprocess.run([sys.executable, "-c", program], check=True, capture_output=True)
    path.write_text(spec(tiny_shipment, Question(text="good"), memory_bytes=1 << 20).model_dump_json())
    done = subprocess.run([sys.executable, "-m", "compression", "predict", str(path)], capture_output=True, check=False)
    assert done.returncode != 0 or json.loads(done.stdout)["kind"] == "rejected"


def right(task: Task, expected: Any, said: Answer) -> bool:
    if task == "text-regression":
        return said.value is not None and abs(said.value - expected) < 0.3
    if task == "token-classification":
        return said.tags == tuple(expected)
    if task == "question-answering":
        return said.text == (expected[0] if expected else "")
    return said.label == expected


@pytest.mark.parametrize("task", TASKS)
def test_every_task_has_its_answers(task: Task, encoder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(command, "SECONDS", 0.0)
    data = write(task, tmp_path, train=200, test=20)
    given: dict[str, Any] = {"columns": {"text_pair": "text_pair"}} if task == "text-pair-classification" else {}
    stages: dict[str, Any] = {"quantize": None, "prune": None, "distill": None, "prepare": {"epochs": 8, "rate": 4e-3}}
    recipe = {**stages, "train": {"batch": 16, "max_length": LENGTH}}
    report = report_of(compress(spec_of(encoder, task=task, data={**data.model_dump(), **given}, recipe=recipe), tmp_path))
    folder = f"out/artifacts/{report.rows[0].artifact}"
    assert ("Its second text." in (tmp_path / folder / "README.md").read_text()) is (task == "text-pair-classification")
    common: dict[str, Any] = {"task": task, "labels": report.labels, "memory_bytes": ROOM, "data": data}
    common |= {"original": folder, "compressed": folder}
    found = [predict(AnswerSpec(question=Question(row=number), **common), tmp_path) for number in range(10)]
    assert sum(right(task, one.expected, one.original) for one in found) >= 7, found

    # The same texts, typed.
    first = row(task, random.Random("test"))
    typed = {name: first[name] for name in asked_for(task, paired=False)}
    again = predict(AnswerSpec(question=Question(**typed), **common), tmp_path)
    assert (again.asked, again.expected) == (found[0].asked, None)
    timing = {"milliseconds": 0.0, "runs": 1}
    assert again.original.model_copy(update=timing) == found[0].original.model_copy(update=timing)
