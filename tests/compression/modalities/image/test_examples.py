"""Images as a network's inputs: the same as those that are scored, and in training a new view of each in every epoch."""

from pathlib import Path

import numpy as np
import pytest
import torch

from compression.engine.job_models import with_views
from compression.modalities.image import pixel_store
from compression.modalities.image.dataset import load_dataset
from compression.modalities.image.examples import ImageBatch, ImageExamples, ImagePreprocessor
from compression.modalities.image.modality import IMAGE
from compression.modalities.image.preprocessing import ImagePreprocessing
from compression.modalities.image.scoring.reader import ImageReader
from compression.modalities.registry import task_of
from compression.planning.preflight import check_task
from compression.schema.errors import InvalidSpec
from compression.schema.recipe.recipe import Evaluate, Recipe, Train
from compression.schema.recipe.views import Views
from tests.support.images import CLASSES, folder_data

HOW = ImagePreprocessing(size=(8, 8), shortest=10, crop=True, mean=(0.4, 0.5, 0.6), std=(0.2, 0.3, 0.4))
TASK = task_of("image-classification", CLASSES)


@pytest.fixture
def rows(tmp_path: Path) -> ImageExamples:
    dataset = load_dataset(folder_data(tmp_path, train=20), tmp_path, seed=0)
    return ImagePreprocessor(HOW).encode(dataset, "train", TASK)


def test_training_reads_what_is_scored(rows: ImageExamples, tmp_path: Path) -> None:
    dataset = load_dataset(folder_data(tmp_path, train=20), tmp_path, seed=0)
    HOW.write(tmp_path)
    reader = ImageReader(tmp_path)
    judged = dataset.judged("train")
    (batch,) = reader.batches(reader.ask(judged).windows, len(judged))
    own = next(rows.by_length(len(rows)))
    np.testing.assert_array_equal(own.inputs["pixel_values"].numpy(), batch.arrays["pixel_values"])
    assert own.labels.tolist() == [row["label"] for row in judged]
    assert own.pixel_values.dtype == torch.float32
    assert reader.example(2, 0).shape == (2, 0)


def test_batches_have_each_row_once_and_divide(rows: ImageExamples) -> None:
    seen = torch.cat([batch.rows for batch in rows.shuffled(6, 1)])
    assert sorted(seen.tolist()) == list(range(len(rows)))
    assert torch.equal(seen, torch.cat([batch.rows for batch in rows.shuffled(6, 1)]))
    assert not torch.equal(seen, torch.cat([batch.rows for batch in rows.shuffled(6, 2)]))
    some = rows.at([5, 3, 9])
    assert torch.equal(some.batch([1, 2]).pixel_values, rows.batch([3, 9]).pixel_values)
    assert some.lengths == [1, 1, 1]
    whole = rows.batch([0, 17, 1, 16, 2])
    assert whole.mask.shape == (5, 1)
    parts = whole.split(2)
    assert [part.weight for part in parts] == [3, 2]
    assert torch.equal(torch.cat([part.labels for part in parts]), whole.labels)
    assert whole.at(whole.labels == 1).rows.tolist() == [17, 16]


def test_models_that_differ_in_mean_alone_share_their_pixels(rows: ImageExamples, tmp_path: Path) -> None:
    dataset = load_dataset(folder_data(tmp_path, train=20), tmp_path, seed=0)
    other = ImagePreprocessor(HOW.model_copy(update={"mean": (0.0, 0.0, 0.0)})).encode(dataset, "train", TASK)
    assert other.store is rows.store
    assert not other.cut_like(rows)
    same = ImagePreprocessor(HOW).encode(dataset, "train", TASK)
    assert same.cut_like(rows)
    larger = ImagePreprocessor(HOW.model_copy(update={"shortest": 11})).encode(dataset, "train", TASK)
    assert larger.store is not rows.store


def test_many_images_lie_in_a_file_that_goes_with_them(
    rows: ImageExamples, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pixel_store, "MOST_IN_MEMORY", 100)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "scratch"))
    (tmp_path / "scratch").mkdir()
    dataset = load_dataset(folder_data(tmp_path, train=20), tmp_path, seed=0)
    other = ImagePreprocessor(HOW.model_copy(update={"interpolation": "nearest"})).encode(dataset, "train", TASK)
    (file,) = (tmp_path / "scratch").glob("*/pixels")
    assert file.stat().st_size == len(other) * 8 * 8 * 3
    expected = ImagePreprocessor(HOW).encode(dataset, "train", TASK)
    assert expected.store is rows.store
    assert torch.equal(other.batch([2, 4]).labels, rows.batch([2, 4]).labels)
    assert not torch.equal(other.batch([2]).pixel_values, other.batch([4]).pixel_values)
    del other
    assert not list((tmp_path / "scratch").iterdir())


def pixel_values(batches: list[ImageBatch]) -> torch.Tensor:
    order = torch.cat([batch.rows for batch in batches]).argsort()
    return torch.cat([batch.pixel_values for batch in batches])[order]


def test_views_change_with_the_epoch_and_are_the_same_for_a_seed(rows: ImageExamples) -> None:
    views = Views(crop=2, flip=True, rand_augment=5)
    varied = IMAGE.train_rows(rows, views, 7)
    assert varied.varies
    assert not rows.varies
    assert IMAGE.train_rows(rows, None, 7) is rows
    one, again, next_epoch = (pixel_values(list(varied.shuffled(6, epoch))) for epoch in (1, 1, 2))
    assert torch.equal(one, again)
    assert not torch.equal(one, next_epoch)
    assert not torch.equal(one, pixel_values(list(IMAGE.train_rows(rows, views, 8).shuffled(6, 1))))
    assert one.shape == (len(rows), 3, 8, 8)
    plain = pixel_values(list(rows.by_length(6)))
    assert torch.equal(pixel_values(list(varied.by_length(6))), plain)
    assert torch.equal(varied.batch([3]).pixel_values[0], plain[3])
    assert varied.at([1, 2]).varies


def test_a_recipe_s_views_are_those_of_train_alone(rows: ImageExamples) -> None:
    views = Views(flip=True)
    recipe = Recipe(train=Train(views=views, seed=5))
    found = with_views({"train": rows, "test": rows}, TASK, recipe)
    assert (found["train"].views, found["train"].seed) == (views, 5)
    assert found["test"] is rows
    assert with_views({"train": rows}, TASK, Recipe())["train"] is rows
    with pytest.raises(InvalidSpec, match="views vary images") as problem:
        check_task("text-classification", recipe, Evaluate())
    assert problem.value.param == "recipe.train.views"
    check_task("image-classification", recipe, Evaluate())


def test_mixed_rows_have_mixed_labels_and_their_loss_is_that_of_both(rows: ImageExamples) -> None:
    mixed = IMAGE.train_rows(rows, Views(mixup=1.0), 0)
    (batch,) = mixed.shuffled(len(rows), 3)
    assert batch.labels.shape == (len(rows), 2)
    torch.testing.assert_close(batch.labels.sum(dim=1), torch.ones(len(rows)))
    own = rows.labels[batch.rows]
    share = batch.labels.max(dim=1).values.min().item()
    changed = batch.labels[torch.arange(len(rows)), own] < 1
    assert 0 < changed.sum() < len(rows)  # a partner may have the same label
    plain = rows.batch(batch.rows.tolist()).pixel_values
    assert not torch.equal(batch.pixel_values, plain)
    assert batch.pixel_values.amax() <= plain.amax() + 1e-6
    logits = torch.randn(len(rows), 2)
    by_hand = -(batch.labels * logits.log_softmax(dim=1)).sum(dim=1).mean()
    torch.testing.assert_close(TASK.loss(logits, batch), by_hand)
    parts = batch.split(3)
    sizes = [part.weight for part in parts]
    weighed = sum(TASK.loss(one, part) * part.weight for one, part in zip(logits.split(sizes), parts, strict=True)) / len(rows)
    torch.testing.assert_close(weighed, by_hand)
    assert share < 1
    with torch.autocast("cpu", torch.bfloat16):
        assert TASK.loss(logits.bfloat16(), batch).isfinite()
