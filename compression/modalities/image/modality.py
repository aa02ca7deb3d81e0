"""The image modality: `modalities.modality.Modality` for classifiers of images.

Functions import what they need: processes that measure or validate call some of them and must not load torch.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from compression.modalities.image.scoring.classes import ImageClassScorer
from compression.modalities.image.scoring.reader import RAW
from compression.modalities.modality import IndependentRows, InputFacts, Modality, RawInput
from compression.modalities.scoring.base import Row
from compression.schema.errors import CompressionError, ConfigMismatch
from compression.schema.manifest import BATCH, HEIGHT, WIDTH
from compression.schema.recipe.base import Task
from compression.schema.recipe.recipe import Evaluate

if TYPE_CHECKING:
    from torch import Tensor, nn
    from transformers import PretrainedConfig, PreTrainedModel

    from compression.modalities.base import TaskAdapter
    from compression.modalities.image.dataset import ImageDataset
    from compression.modalities.image.examples import ImageExamples, ImagePreprocessor
    from compression.schema.job_spec import Data
    from compression.schema.prediction_request import AnswerSpec, RowInputs
    from compression.schema.recipe.views import Views
    from compression.schema.report.samples import Sample
    from compression.schema.validation import DataFacts

INPUT = "pixel_values"


class ImageModality(IndependentRows):
    """The image modality: a row is an image of one class, which a network reads in one size."""

    def read(self, data: Data, base: Path, task: Task, seed: int) -> ImageDataset:
        """List all splits and carve the missing ones; no image is decoded."""
        from compression.modalities.image.dataset import load_dataset

        return load_dataset(data, base, seed=seed, task=task)

    def check(self, data: Data, base: Path, task: Task) -> DataFacts | list[CompressionError]:
        """Return the facts about an upload, every image of which is decoded, or every reason to reject it."""
        from compression.modalities.image.dataset_check import check

        return check(data, base, task)

    def question(self, spec: AnswerSpec, base: Path) -> tuple[Row, dict[str, Any], Any]:
        """Return a prediction request's row for the scorer, the row for people, and the expected label."""
        from compression.modalities.image.questions import row_of

        return row_of(spec, base)

    def row(self, task: Task, given: RowInputs) -> Row:  # noqa: ARG002
        """Return the scorer's row of a request's own image, which the reader decodes."""
        return {"data": given.image}

    def samples(self, rows: Sequence[Row], labels: tuple[str, ...]) -> tuple[Sample, ...]:
        """Return small copies of the images, with their labels."""
        from compression.modalities.image.thumbnails import samples

        return samples(rows, labels)

    def scorer(self, task: Task, evaluate: Evaluate, labels: tuple[str, ...]) -> ImageClassScorer:  # noqa: ARG002
        """Return the scorer."""
        return ImageClassScorer.of(evaluate, labels)

    def task(self, name: Task, evaluate: Evaluate, labels: tuple[str, ...]) -> TaskAdapter:
        """Return the adapter that trains: the one of all classifications."""
        from compression.modalities.tasks.classification import Classification

        return Classification(name, self.scorer(name, evaluate, labels))

    def preprocessor(self, folder: Path, config: PretrainedConfig, length: int) -> ImagePreprocessor:  # noqa: ARG002
        """Open a model's preprocessor_config.json. Raises ConfigMismatch if its images do not fit the model."""
        from compression.modalities.image.examples import ImagePreprocessor
        from compression.modalities.image.preprocessing import ImagePreprocessing

        how, shape = ImagePreprocessing.read(folder), input_shape(config)
        if shape != (3, *how.size):
            cause = f"preprocessor_config.json makes images of 3 × {how.size[0]} × {how.size[1]}, and the model reads "
            remedy = "Send the preprocessor_config.json that was saved with this model."
            cause += " × ".join(map(str, shape))
            raise ConfigMismatch(cause, param="preprocessor_config.json", remedy=remedy)
        return ImagePreprocessor(how)

    def write_preprocessor(
        self,
        source: Path,
        folder: Path,
        length: int,  # noqa: ARG002
        task: Task,  # noqa: ARG002
        model: PreTrainedModel | None = None,  # noqa: ARG002
    ) -> None:
        """Write an artifact's preprocessor_config.json."""
        from compression.modalities.image.preprocessing import ImagePreprocessing

        ImagePreprocessing.read(source).write(folder)

    def train_rows(self, rows: ImageExamples, views: Views | None, seed: int) -> ImageExamples:
        """Return the rows of train with the recipe's views."""
        from dataclasses import replace

        return rows if views is None else replace(rows, views=views, seed=seed)

    def raw_input(self, folder: Path) -> RawInput:
        """Return the input of decoded and resized images: uint8 (batch, height, width, 3), red, green, blue."""
        from compression.modalities.image.preprocessing import ORDERS, ImagePreprocessing

        how = ImagePreprocessing.read(folder)
        return RawInput(RAW, INPUT, (0, 3, 1, 2), ORDERS[how.channels], 1 / how.scale, how.mean, how.std)

    def input_facts(self, model: nn.Module, folder: Path) -> dict[str, InputFacts]:  # noqa: ARG002
        """Return the axes of an image and the range of its values, before and after they are normalized."""
        from compression.modalities.image.preprocessing import ImagePreprocessing

        how = ImagePreprocessing.read(folder)
        channels = list(zip(how.mean, how.std, strict=True))
        low, high = (
            pick((value - mean) / std for mean, std in channels) for pick, value in ((min, 0.0), (max, 255 * how.scale))
        )
        whole = InputFacts((BATCH, "channels", HEIGHT, WIDTH), low, high)
        return {INPUT: whole, RAW: InputFacts((BATCH, HEIGHT, WIDTH, "channels"), 0.0, 255.0)}

    def example_inputs(self, model: nn.Module, batch: int, length: int) -> dict[str, Tensor]:  # noqa: ARG002
        """Return images of zeros, (batch, channels, height, width)."""
        import torch

        return {INPUT: torch.zeros(batch, *input_shape(model.config))}

    def free_dimensions(self, model: nn.Module) -> dict[str, dict[int, tuple[str, int | None]]]:  # noqa: ARG002
        """Return the dynamic dimension of the input: the rows."""
        return {INPUT: {0: (BATCH, None)}}


def input_shape(config: Any) -> tuple[int, ...]:
    """Return the channels, height and width that a network reads, from its config's graph."""
    return tuple(config.graph["shape"])


IMAGE: Modality = ImageModality()
