"""Let a job's model before and after answer one row: `python -m compression answer SPEC.json`. Torch-free.

A fresh process that opens both artifacts as a user would, in ONNX Runtime. While it works it holds the host's lock: it must
disturb no measurement of a job, nor be disturbed.
"""

import statistics
import time
from collections.abc import Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from compression.evaluation.runtimes.onnx import FILE
from compression.evaluation.runtimes.runner import Runner, answered, config_of, open_artifact, tokenizer_of
from compression.modalities.scorers import AnyScorer, scorer_of
from compression.modalities.scoring.base import Asked, Floats, Row
from compression.modalities.scoring.classification import ClassScorer
from compression.modalities.scoring.regression import NumberScorer
from compression.modalities.text.dataset import each_row
from compression.modalities.text.examples import RawExample
from compression.modalities.text.scoring.perplexity import LanguageScorer
from compression.modalities.text.scoring.question_answering import QuestionScorer
from compression.modalities.text.scoring.token_classification import TagScorer
from compression.schema.errors import CompressionError, EmptySplit, OutOfMemory, UnsupportedTask
from compression.schema.prediction import Answer, Answered
from compression.schema.prediction_request import LONGEST_TEXT, LONGEST_WORD, MOST_WORDS, AnswerSpec, Question
from compression.schema.recipe.base import Task
from compression.schema.validation import Rejected
from compression.system import failures
from compression.system.host_lock import host_lock
from compression.system.process import limit_memory, private_channel

SECONDS, MOST_RUNS = 1.0, 20
"""Both models answer again and again for about so long, by turns, and so often at most."""
MOST_SCORES = 20


class _Model:
    """One artifact, opened, and the row as its tokenizer reads it."""

    def __init__(self, folder: Path, spec: AnswerSpec, row: Row) -> None:
        judge = scorer_of(spec.task, spec.evaluate, spec.labels)
        if isinstance(judge, LanguageScorer):
            raise UnsupportedTask("a language model goes on with texts; it has no answer to one")
        self.scorer: AnyScorer = judge
        self.row, self.labels = row, spec.labels
        opened = open_artifact("onnx", folder, threads=spec.evaluate.threads)
        assert not hasattr(opened, "step"), "tasks with answers have no cache"  # noqa: S101
        self.runner: Runner = opened
        self.pad_id = config_of(folder).get("pad_token_id") or 0
        self.asked: Asked = self.scorer.ask(tokenizer_of(folder), [row])
        self.bytes = sum(file.stat().st_size for file in folder.glob(f"{FILE}*"))
        self.times: list[float] = []

    def logits(self) -> list[Floats]:
        """Answer once, window by window."""
        return answered(self.runner, self.asked.windows, 1, pad_id=self.pad_id)

    def timed(self) -> None:
        """Answer once, and note how long it took."""
        started = time.perf_counter_ns()
        self.logits()
        self.times.append((time.perf_counter_ns() - started) / 1e6)

    def answer(self) -> Answer:
        """Say what the model says."""
        logits = self.logits()
        found: Any = self.scorer.answers(self.asked, logits, [self.row])[0]
        said: dict[str, Any] = {"milliseconds": statistics.median(self.times), "runs": len(self.times)}
        said |= {"runtime": self.runner.name, "bytes": self.bytes}
        match self.scorer:
            case ClassScorer():
                shares = _softmax(logits[0])
                best = sorted(range(len(shares)), key=lambda place: -shares[place])[:MOST_SCORES]
                said |= {"label": self.labels[found], "scores": {self.labels[place]: shares[place] for place in best}}
            case NumberScorer():
                said["value"] = found
            case TagScorer():
                said["tags"] = _cut(found)
            case QuestionScorer():
                said["text"] = found
        return Answer(**said)


def predict(spec: AnswerSpec, base: Path) -> Answered:
    """Ask both models. Raises CompressionError for a row that there is not, or that cannot be read."""
    row, asked, expected = _given(spec, base)
    with host_lock() as alone:
        sides = [_Model(base / place, spec, row) for place in (spec.original, spec.compressed)]
        for side in sides:
            side.logits()
        end = time.perf_counter() + SECONDS
        for turn in range(MOST_RUNS):
            for side in sides if turn % 2 == 0 else reversed(sides):
                side.timed()
            if time.perf_counter() > end:
                break
        original, compressed = (side.answer() for side in sides)
    return Answered(asked=asked, expected=expected, original=original, compressed=compressed, exclusive=alone.exclusive)


def _softmax(logits: Floats) -> list[float]:
    powers = np.exp(logits.astype(np.float64) - float(logits.max()))
    return [float(power) for power in powers / powers.sum()]


def _given(spec: AnswerSpec, base: Path) -> tuple[Row, dict[str, Any], Any]:
    """Return the row as scorers read it, the same as people do, and what the data expects of it."""
    asked: Question = spec.question
    if spec.data is None or asked.row is None:
        example = RawExample(asked.question or asked.text or "", None, asked.context or asked.text_pair, asked.tokens)
    else:
        found = islice(each_row(spec.data, asked.split, base, spec.task), asked.row, None)
        drawn = next(found, None)
        if drawn is None:
            raise EmptySplit(f"{asked.split} has no row {asked.row}", param="row", remedy="Name a row that there is, from 0.")
        example = drawn
    return *_row(spec.task, example), _expected(spec.task, example)


def _row(task: Task, example: RawExample) -> tuple[Row, dict[str, Any]]:
    if task == "token-classification":
        words = list(example.words or example.text.split())
        return {"words": words}, {"tokens": _cut(words)}
    if task == "question-answering":
        both = {"question": example.text, "context": example.pair or ""}
        return both, _shown(both)
    pair = {} if example.pair is None else {"pair": example.pair}
    return {"text": example.text, **pair}, _shown({"text": example.text, **({"text_pair": example.pair} if pair else {})})


def _shown(texts: dict[str, Any]) -> dict[str, Any]:
    """Return the beginnings of texts: a row of the data may have any length, and each answer is kept and shown with it."""
    return {name: text[:LONGEST_TEXT] for name, text in texts.items()}


def _cut(words: Sequence[str]) -> list[str]:
    """Return the first words, and the beginning of each."""
    return [word[:LONGEST_WORD] for word in words[:MOST_WORDS]]


def _expected(task: Task, example: RawExample) -> Any:
    if example.label is None or task != "question-answering":
        return _cut(example.label) if task == "token-classification" and example.label is not None else example.label
    return _cut([one.text for one in example.label])


def main(path: Path) -> int:
    """Ask what the spec at `path` says and print one `Answered`, or one `Rejected` with the reason; return the exit code."""
    answers = private_channel()
    spec = AnswerSpec.model_validate_json(path.read_bytes())
    limit_memory(spec.memory_bytes)
    finding: Answered | Rejected
    try:
        finding = predict(spec, path.parent)
    except CompressionError as problem:
        finding = Rejected(reasons=(problem.as_dict(),))
    except Exception as problem:
        known = failures.typed(problem)
        if not isinstance(known, OutOfMemory):
            raise
        finding = Rejected(reasons=(known.as_dict(),))
    print(finding.model_dump_json(), file=answers)
    return 0
