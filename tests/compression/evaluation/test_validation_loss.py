"""The loss of a split needs its labels alone: the pixels of all images are never in memory together."""

from pathlib import Path

import pytest

from compression.evaluation.validate import logits, validate
from compression.modalities.image.dataset import load_dataset
from compression.modalities.image.examples import ImageBatch, ImageExamples, ImagePreprocessor
from compression.modalities.registry import task_of
from tests.compression.modalities.image.test_examples import HOW
from tests.support.images import CLASSES, folder_data
from tests.support.network_graphs import resnet
from tests.support.network_models import drawn_network


def test_images_are_validated_without_a_tensor_of_the_whole_split(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = drawn_network(resnet())
    dataset = load_dataset(folder_data(tmp_path, train=20), tmp_path, seed=0)
    rows = ImagePreprocessor(HOW).encode(dataset, "train", task_of("image-classification", CLASSES))
    wanted = rows.task.loss(logits(model, rows), rows.batch(list(range(len(rows))))).item()
    sizes, batch = list[int](), ImageExamples.batch

    def counted(self: ImageExamples, some: list[int]) -> ImageBatch:
        sizes.append(len(some))
        return batch(self, some)

    monkeypatch.setattr(ImageExamples, "batch", counted)
    found = validate(model, rows, 16)
    assert sum(sizes) == len(rows), "each image is read once"
    assert max(sizes) < len(rows)
    assert -found.negative_loss == pytest.approx(wanted, rel=1e-5)
