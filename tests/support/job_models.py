"""A job's models for tests of stages: the base alone, of no folder."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

from transformers import PreTrainedModel

from compression.engine.job_models import JobModels, ModelSource
from compression.models.adapters.registry import adapter_of


def alone(model: PreTrainedModel, rows: Mapping[Any, Any]) -> JobModels:
    """Return a job's models of a base whose rows are encoded already: nothing reads its folder, dataset or preprocessor."""
    family = adapter_of(model)
    unread, config = cast(Any, None), model.config
    own = ModelSource("models.base", Path("unread"), unread, family.shape_of(config), family.max_positions(config), config)
    return JobModels(own, unread, rows["train"].task)
