"""A teacher that reads images otherwise is asked about the very view that the student sees."""

from pathlib import Path

import numpy as np
import pytest
import torch

from compression.modalities.image.dataset import load_dataset
from compression.modalities.image.examples import ImageExamples, ImagePreprocessor, reread
from compression.modalities.image.preprocessing import ImagePreprocessing, normalized
from compression.modalities.registry import task_of
from compression.schema.recipe.views import Views
from tests.support.images import CLASSES, folder_data

HOW = ImagePreprocessing(size=(8, 8), shortest=10, crop=True, mean=(0.4, 0.5, 0.6), std=(0.2, 0.3, 0.4))
PLAIN = HOW.model_copy(update={"mean": (0.0, 0.0, 0.0), "std": (1.0, 1.0, 1.0)})
BLUE_FIRST = PLAIN.model_copy(update={"channels": "bgr", "scale": 1.0})


def rows_of(place: Path, how: ImagePreprocessing) -> ImageExamples:
    dataset = load_dataset(folder_data(place, train=12), place, seed=0)
    return ImagePreprocessor(how).encode(dataset, "train", task_of("image-classification", CLASSES))


def varied(rows: ImageExamples) -> ImageExamples:
    return type(rows)(**{**vars(rows), "views": Views(crop=1, flip=True, mixup=0.4), "seed": 3})


@pytest.mark.parametrize("how", [PLAIN, BLUE_FIRST])
def test_the_same_view_is_read_in_the_teacher_s_way(tmp_path: Path, how: ImagePreprocessing) -> None:
    mine, theirs = varied(rows_of(tmp_path, HOW)), rows_of(tmp_path, how)
    batch, wanted = next(mine.shuffled(6, 0)), next(varied(theirs).shuffled(6, 0))
    found = theirs.seen_in(batch)
    assert torch.allclose(found.pixel_values, wanted.pixel_values, atol=1e-5 * how.scale * 255)
    assert found.labels.equal(batch.labels)
    assert found.rows.equal(batch.rows)
    assert found.how == how
    assert mine.seen_in(batch) is batch
    assert theirs.seen_in(batch.split(2)[1]).pixel_values.equal(found.pixel_values[3:])


def test_a_view_is_resized_to_the_teacher_s_size() -> None:
    draw = np.random.default_rng(0)
    pixels = np.repeat(np.repeat(draw.integers(0, 256, (2, 4, 4, 3), np.uint8), 2, axis=1), 2, axis=2)
    small = ImagePreprocessing(size=(4, 4), exact=(4, 4))
    found = reread(torch.from_numpy(normalized(pixels, HOW)), HOW, small)
    assert found.shape == (2, 3, 4, 4)
    assert torch.allclose(found.mean(dim=(2, 3)), torch.from_numpy(normalized(pixels, small)).mean(dim=(2, 3)), atol=0.02)
