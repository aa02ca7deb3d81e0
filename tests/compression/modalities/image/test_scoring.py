"""Scores of classifiers of images: as scikit-learn's, with their errors, and read from an artifact's own files."""

import base64
import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from sklearn.metrics import accuracy_score, balanced_accuracy_score, top_k_accuracy_score

from compression.modalities.image.modality import IMAGE
from compression.modalities.image.preprocessing import ImagePreprocessing
from compression.modalities.image.scoring import reader
from compression.modalities.image.scoring.reader import ImageInputs, ImageReader
from compression.modalities.registry import task_of
from compression.planning.preflight import evaluation_settings
from compression.schema.errors import InvalidSpec
from compression.schema.recipe.recipe import Evaluate
from tests.support.images import encoded, folder_data, npz_data, parquet_data

LABELS = tuple("abcdefgh")


def answers(seed: int = 0, rows: int = 400) -> tuple[Any, Any]:
    """Labels of very different frequencies, and logits that often find them."""
    draw = np.random.default_rng(seed)
    labels = draw.choice(8, rows, p=[0.5, 0.2, 0.1, 0.08, 0.05, 0.04, 0.02, 0.01])
    logits = draw.normal(size=(rows, 8))
    logits[np.arange(rows), labels] += draw.choice([0, 3], rows)
    return logits.astype(np.float32), labels


@pytest.mark.parametrize("metric", ["accuracy", "balanced_accuracy"])
def test_metrics_equal_those_of_scikit_learn(metric: Any) -> None:
    scorer = IMAGE.scorer("image-classification", Evaluate(metric=metric), LABELS)
    logits, labels = answers()
    rows = [{"label": int(label)} for label in labels]
    found = scorer.figures(scorer.answers(None, logits, rows), rows)
    expected = {
        "accuracy": accuracy_score(labels, logits.argmax(1)),
        "balanced_accuracy": balanced_accuracy_score(labels, logits.argmax(1)),
        "top5_accuracy": top_k_accuracy_score(labels, logits, k=5),
    }
    assert found.values == pytest.approx(expected)
    assert next(iter(found.values)) == metric
    assert scorer.values(scorer.answers(None, logits, rows), rows) == found.values
    assert found.chance == pytest.approx((labels == 0).mean() if metric == "accuracy" else 1 / 8)
    assert found.error_from == ("analytic" if metric == "accuracy" else "bootstrap")
    assert scorer.score(logits.argmax(1), labels) == pytest.approx(expected[metric])


def test_errors_are_the_spread_over_other_samples() -> None:
    scorer = IMAGE.scorer("image-classification", Evaluate(), LABELS)
    every = [
        scorer.figures(scorer.answers(None, logits, rows := [{"label": int(one)} for one in labels]), rows)
        for logits, labels in map(answers, range(60))
    ]
    for name in ("accuracy", "top5_accuracy", "balanced_accuracy"):
        spread = np.std([one.values[name] for one in every])
        error = np.mean([one.standard_errors[name] for one in every])
        assert 0.6 < error / spread < 1.6


def test_few_labels_have_no_top_five() -> None:
    scorer = IMAGE.scorer("image-classification", Evaluate(), LABELS[:5])
    rows = [{"label": 0}, {"label": 1}]
    found = scorer.figures(scorer.answers(None, np.eye(5, dtype=np.float32)[:2], rows), rows)
    assert set(found.values) == {"accuracy", "balanced_accuracy"} == set(found.standard_errors)


def test_an_answer_is_shown_with_its_label_and_counts_as_changed_by_that_alone() -> None:
    scorer = IMAGE.scorer("image-classification", Evaluate(), LABELS)
    logits = np.array([3, 2, 1, 0, 0, 0, 0, 0], np.float32)
    (answer,) = scorer.answers(None, [logits], [{}])
    shown = scorer.shown(answer, logits, LABELS)
    assert shown["label"] == "a"
    assert list(shown["scores"])[:3] == ["a", "b", "c"]
    assert scorer.changed([(0, 1), (2, 1)], [(0, 2), (1, 2)]) == 1


class Mean:
    """A runtime whose logits say whether an image is red."""

    name = "mean"

    def logits(self, batch: ImageInputs) -> Any:
        red, _, blue = batch.arrays["pixel_values"].mean(axis=(2, 3)).T
        return np.stack([blue - red, red - blue], axis=1)


@pytest.mark.parametrize("at_once", [64, 2])
@pytest.mark.parametrize("made", [folder_data, npz_data, parquet_data])
def test_a_split_is_scored_from_its_files(made: Any, at_once: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reader, "AT_ONCE", at_once)
    dataset = IMAGE.read(made(tmp_path), tmp_path, "image-classification", 0)
    ImagePreprocessing(size=(8, 8), exact=(8, 8)).write(tmp_path)
    scorer = IMAGE.scorer("image-classification", Evaluate(), dataset.labels)
    ticks: list[int] = []
    scored = scorer.open_split(Mean(), scorer.reader(tmp_path), dataset.judged("test")).answer(ticks.append)
    assert scored.score.value == scored.score.value_at_batch_32 == 1.0
    assert sum(ticks) == 2 * scored.score.rows
    sample = scorer.sample(scorer.reader(tmp_path), dataset.judged("validation"), 2)
    assert [len(one.arrays["pixel_values"]) for one in sample] == [1] * (len(sample) - 1) + [len(sample) - 1]


def test_an_image_of_a_request_is_read(tmp_path: Path) -> None:
    ImagePreprocessing(size=(8, 8), exact=(8, 8)).write(tmp_path)
    image = encoded(np.full((20, 20, 3), (200, 0, 0), np.uint8), "JPEG")
    opened = ImageReader(tmp_path)
    (batch,) = opened.batches(opened.ask([{"data": base64.b64encode(image).decode()}]).windows, 1)
    expected = np.asarray(Image.open(io.BytesIO(image)).resize((8, 8), Image.Resampling.BILINEAR)) / 255
    np.testing.assert_allclose(batch.arrays["pixel_values"][0], expected.transpose(2, 0, 1), atol=1e-6)


def test_metrics_of_other_tasks_are_refused() -> None:
    for task, settings, param in (
        ("image-classification", Evaluate(metric="f1"), "evaluate.metric"),
        ("image-classification", Evaluate(positive="a"), "evaluate.positive"),
        ("text-classification", Evaluate(metric="balanced_accuracy"), "evaluate.metric"),
    ):
        with pytest.raises(InvalidSpec) as problem:
            evaluation_settings(settings, 0, 1, task, LABELS)
        assert problem.value.param == param
    own = evaluation_settings(Evaluate(metric="balanced_accuracy"), 0, 1, "image-classification", LABELS)
    assert task_of("image-classification", LABELS, own).metric == "balanced_accuracy"
