"""Predicts a row with a job's two models: `python -m compression predict SPEC.json`. Torch-free.

A fresh process opens both artifacts as a user does, in ONNX Runtime. It holds the host lock, so that it disturbs no
measurement.
"""

import statistics
import time
from pathlib import Path
from typing import Any, cast

from compression.evaluation.runtimes.runner import open_artifact
from compression.evaluation.turns import Timer, Turns
from compression.modalities.registry import modality_of, scorer_of
from compression.modalities.scoring.base import Floats, Row, RowScorer, answered
from compression.schema.artifact_formats import ONNX
from compression.schema.errors import CompressionError, OutOfMemory, UnsupportedTask
from compression.schema.prediction import Answer, Answered
from compression.schema.prediction_request import AnswerSpec
from compression.schema.tasks import TASKS
from compression.schema.validation import Rejected
from compression.system import failures
from compression.system.host_lock import host_lock
from compression.system.process import limit_memory, private_channel

SECONDS, MOST_RUNS = 1.0, 20  #: approximate duration and largest number of runs for which both models predict in turns


class _Model:
    """An opened artifact, and the row as its tokenizer encodes it."""

    def __init__(self, folder: Path, spec: AnswerSpec, row: Row) -> None:
        if not TASKS[spec.task].asks:
            raise UnsupportedTask("a language model goes on with texts; it has no answer to one")
        self.scorer = cast(RowScorer, scorer_of(spec.task, spec.evaluate, spec.labels))
        self.row, self.labels = row, spec.labels
        self.runner = open_artifact(ONNX.name, folder, threads=spec.evaluate.threads)
        self.reader = self.scorer.reader(folder)
        self.asked = self.reader.ask([row])
        self.bytes = sum(file.stat().st_size for pattern in ONNX.weights for file in folder.glob(pattern))

    def logits(self) -> list[Floats]:
        return answered(self.runner, self.reader, self.asked.windows, 1)

    def answer(self, times: list[float]) -> Answer:
        logits = self.logits()
        found: Any = self.scorer.answers(self.asked, logits, [self.row])[0]
        return Answer(
            milliseconds=statistics.median(times),
            runs=len(times),
            runtime=self.runner.name,
            bytes=self.bytes,
            **self.scorer.shown(found, logits[0], self.labels),
        )


def predict(spec: AnswerSpec, base: Path) -> Answered:
    """Predict with both models. Raises CompressionError if the row does not exist or cannot be read."""
    row, asked, expected = modality_of(spec.task).question(spec, base)
    picture = asked.pop("picture", None)
    with host_lock() as alone:
        sides = [_Model(base / place, spec, row) for place in (spec.original, spec.compressed)]
        for side in sides:
            side.logits()
        end, turns = time.perf_counter() + SECONDS, Turns()
        with Timer(spec.evaluate.threads) as timer:
            for _ in range(MOST_RUNS):
                turns.take([side.logits for side in sides], timer)
                if time.perf_counter() > end:
                    break
        original, compressed = (side.answer(times) for side, times in zip(sides, turns.milliseconds, strict=True))
    both = {"original": original, "compressed": compressed}
    return Answered(asked=asked, picture=picture, expected=expected, exclusive=alone.exclusive, **both)


def main(path: Path) -> int:
    """Run the spec at `path`; print an `Answered`, or a `Rejected` with the reason. Return the exit code."""
    answers = private_channel()
    spec = AnswerSpec.model_validate_json(path.read_bytes())
    limit_memory(spec.memory_bytes)
    finding: Answered | Rejected
    try:
        finding = predict(spec, path.parent)
    except Exception as problem:
        known = problem if isinstance(problem, CompressionError) else failures.typed(problem)
        if known is None or (known is not problem and not isinstance(known, OutOfMemory)):
            raise
        finding = Rejected(reasons=(known.as_dict(),))
    print(finding.model_dump_json(), file=answers)
    return 0
