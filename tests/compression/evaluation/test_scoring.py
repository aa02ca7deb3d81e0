"""Scores are taken on all threads, and on a sample of the rows where all take too long: the same rows for all artifacts."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from compression.evaluation import measure as measuring
from compression.evaluation.measure import Measured, measure
from compression.evaluation.runtimes.runner import open_artifact
from compression.modalities.scoring import row_sample
from compression.modalities.scoring.base import Runner
from compression.modalities.scoring.row_sample import sampling_order
from compression.modalities.text.inputs import full_batch
from compression.modalities.text.scoring.whole_texts import TextClassScorer
from compression.schema.artifact_formats import Kind
from compression.schema.report.draws import retention_interval
from compression.system.child_process import Step
from tests.compression.evaluation.test_measure import spec
from tests.support.tiny_shipment import LABELS, Shipment

FEW = 20
"""Rows of the smallest sample, in tests."""


@pytest.fixture
def few(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(row_sample, "FEWEST_ROWS", FEW)


@pytest.mark.usefixtures("few")
@pytest.mark.parametrize("limits", [{"score_seconds": 1e-9}, {"score_rows": {"test": FEW}}, {"score_rows": {"test": 10**6}}])
def test_where_time_is_over_a_sample_of_the_rows_is_scored_and_told(limits: dict[str, Any], tiny_shipment: Shipment) -> None:
    whole, told = tiny_shipment.int8.score, list[Step | Measured]()
    found = measure(spec(tiny_shipment, seconds=0.1, **limits), told.append)
    score = found.score
    steps = [one for one in told if isinstance(one, Step)]
    assert steps[-1].done == steps[-1].total
    if limits.get("score_rows") == {"test": 10**6}:
        assert (score, score.split_rows) == (whole, None)
        return
    assert (score.rows, score.split_rows, score.counted) == (FEW, 60, "20 of 60")
    assert found.draws.test.rows == FEW
    assert score.standard_error == pytest.approx((score.value * (1 - score.value) / FEW) ** 0.5)
    # The same rows of each label as among all, by another way.
    labels = [LABELS.index(label) for _, label in tiny_shipment.rows]
    rows = [{"text": text, "label": label} for (text, _), label in zip(tiny_shipment.rows, labels, strict=True)]
    chosen = sorted(sampling_order(labels, 0)[:FEW])
    assert abs(sum(labels[row] for row in chosen) - FEW * sum(labels) / 60) <= 1
    folder = tiny_shipment.folder(tiny_shipment.int8)
    runner, scorer = open_artifact("onnx", folder, threads=1), TextClassScorer("accuracy", 2, 1)
    alone = scorer.open_split(runner, scorer.reader(folder), [rows[row] for row in chosen]).answer(lambda _: None).score
    assert (alone.value, alone.metrics) == (score.value, score.metrics)


@pytest.mark.usefixtures("few")
def test_two_artifacts_are_scored_on_the_same_sample(tiny_shipment: Shipment) -> None:
    baseline = str(tiny_shipment.folder(tiny_shipment.baseline))
    first = measure(spec(tiny_shipment, folder=baseline, score_seconds=1e-9, seconds=0.1))
    other = measure(spec(tiny_shipment, score_rows={"test": first.score.rows}, seconds=0.1))
    assert (first.draws.test.rows, other.draws.test.rows) == (FEW, FEW)
    assert retention_interval(first.draws.test, other.draws.test) is not None
    assert retention_interval(first.draws.test, measure(spec(tiny_shipment, seconds=0.1)).draws.test) is None


@pytest.mark.parametrize("kind", ["onnx", "transformers"])
def test_scores_have_more_threads_than_latency_and_the_same_answers(
    kind: Kind, tiny_shipment: Shipment, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened = list[int]()

    def noted(kind: Kind, folder: Path, *, threads: int) -> Runner:
        opened.append(threads)
        return open_artifact(kind, folder, threads=threads)

    monkeypatch.setattr(measuring, "open_artifact", noted)
    made = tiny_shipment.checkpoint if kind == "transformers" else tiny_shipment.int8
    asked = spec(tiny_shipment, kind=kind, folder=str(tiny_shipment.folder(made)), seconds=0.1)
    torch_threads = torch.get_num_threads()
    one, two = (measure(asked.model_copy(update={"score_threads": threads})) for threads in (1, 2))
    torch.set_num_threads(torch_threads)
    assert (opened.count(1), opened[-1]) == (len(opened) - 1, 2)
    assert one.score == two.score == made.score
    if kind == "onnx":
        assert (one.latency.threads, two.latency.threads) == (1, 1)


@pytest.mark.parametrize("kind", ["onnx", "transformers"])
def test_logits_hardly_depend_on_the_number_of_threads(kind: Kind, tiny_shipment: Shipment) -> None:
    made = tiny_shipment.checkpoint if kind == "transformers" else tiny_shipment.baseline
    batch = full_batch(16, 16, 40)
    threads = torch.get_num_threads()
    one, two = (open_artifact(kind, tiny_shipment.folder(made), threads=number).logits(batch) for number in (1, 2))
    torch.set_num_threads(threads)
    assert np.abs(one - two).max() <= 1e-5 * np.abs(one).max()
