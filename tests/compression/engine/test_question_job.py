"""One whole job of another task than classification: its rows, its labels and its answers go through every part."""

import json
import random
from pathlib import Path

from compression.engine.pipeline import compress
from compression.schema.job_spec import Spec
from compression.schema.report.measurements import Score
from tests.support.toy_tasks import LENGTH, row


def test_a_job_answers_questions(encoder: Path, tmp_path: Path) -> None:
    for name, count in (("train", 256), ("test", 48)):
        draw = random.Random(name)
        lines = [json.dumps(row("question-answering", draw)) for _ in range(count)]
        (tmp_path / f"{name}.jsonl").write_text("\n".join(lines))
    spec = Spec.model_validate(
        {
            "task": "question-answering",
            "model": str(encoder),
            "data": {"format": "jsonl", "splits": {name: [f"{name}.jsonl"] for name in ("train", "test")}},
            "recipe": {
                "prepare": {"epochs": 6, "rate": 3e-3},
                "quantize": None,
                "prune": {"ratio": 0.5, "multiple": 8, "calibration_rows": 64},
                "distill": None,
                "train": {"batch": 16, "max_length": LENGTH},
            },
            "evaluate": {"length": 16},
            "output": "out",
            "threads": 1,
        }
    )
    *_, last = compress(spec, tmp_path)
    report = last.report
    assert (report.task, report.labels) == ("question-answering", ())
    assert report.splits["test"].labels.keys() == {"answerable", "unanswerable"}
    scores = [each.score for each in report.rows]
    assert all(isinstance(score, Score) for score in scores)
    baseline = scores[0]
    assert (baseline.metric, baseline.rows, baseline.rows_changed_by_batching) == ("f1", 48, 0)
    assert baseline.value > 0.9
    assert baseline.chance == report.splits["test"].labels["unanswerable"] / 48
    assert {"exact_match", "f1_answerable", "f1_unanswerable"} < set(baseline.metrics)
    opens = {artifact.kind: artifact.opens_with for artifact in report.artifacts}
    assert "AutoModelForQuestionAnswering" in opens["transformers"]
