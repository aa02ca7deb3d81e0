"""One whole job of another task than classification: its rows, its labels and its answers go through every part."""

from pathlib import Path

from compression.engine.pipeline import compress
from compression.schema.report.measurements import Score
from compression.schema.report.samples import MOST_SAMPLES
from tests.support.engine_jobs import RECIPE, report_of, spec_of
from tests.support.toy_tasks import LENGTH, write


def test_a_job_answers_questions(encoder: Path, tmp_path: Path) -> None:
    write("question-answering", tmp_path, 256, 48)
    train = {"batch": 16, "max_length": LENGTH}
    recipe = {**RECIPE, "prepare": {"epochs": 6, "rate": 3e-3}, "quantize": None, "distill": None, "train": train}
    report = report_of(compress(spec_of(encoder, task="question-answering", recipe=recipe), tmp_path))
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
    for artifact in report.artifacts:
        assert len(artifact.answers) == len(report.samples) == MOST_SAMPLES
    assert all(len(sample.texts) == 2 and sample.expected for sample in report.samples)
    right = [answer.text in sample.expected for sample, answer in zip(report.samples, report.artifacts[0].answers, strict=True)]
    assert sum(right) >= MOST_SAMPLES - 2, "they are to these rows, of which it knows 90 %"
