"""Writes a network that came from timm as a folder that timm opens, in floating point: timm has no form of its integers."""

import copy
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import torch
from torch import nn
from transformers import PreTrainedModel

from compression.export.exporter import Exporter
from compression.models.adapters.network.module import NetworkForImageClassification
from compression.models.files import safetensors_layout
from compression.models.files.preprocessor_config import ImagePreprocessing
from compression.models.files.timm_config import pretrained
from compression.models.timm_form import timm_form
from compression.quantization.fake_quantize import remove_fake_quantization
from compression.schema.artifact_formats import ArtifactPrecision
from compression.schema.errors import ConfigMismatch
from compression.schema.recipe.base import Task
from compression.schema.schemes import Scheme

OF_IMAGES = ("interpolation", "crop_pct", "crop_mode", "mean", "std")
"""Keys of `pretrained_cfg` that say what is done to an image before the model."""
OF_MODELS = ("architecture", "num_classes", "input_size", "fixed_input_size", "pool_size", "first_conv", "classifier")
"""Keys that timm knows of an architecture. Its other ones describe timm's own weights."""


class TimmExporter(Exporter):
    """config.json and model.safetensors as hubs have them."""

    def hinders(self, model: nn.Module) -> str | None:
        """Return why timm has no such model."""
        found = _form(model)
        return found if isinstance(found, str) else None

    def write(self, model: PreTrainedModel, folder: Path, precision: ArtifactPrecision) -> None:  # noqa: ARG002
        """Write config.json and model.safetensors. Raises TypeError for a model that `hinders` names a reason for."""
        from timm.models import save_for_hf

        found: Any = _form(model)
        if isinstance(found, str):
            raise TypeError(found)
        sent = _of_images(pretrained(model.config.source["config"]))
        found.pretrained_cfg = {key: value for key, value in found.pretrained_cfg.items() if key in OF_MODELS} | sent
        save_for_hf(found, folder, data_config={"input_size": model.config.network.shape}, safe_serialization=True)
        safetensors_layout.align(folder)

    def opens_with(self, precision: ArtifactPrecision, task: Task, *, split: bool) -> str:  # noqa: ARG002
        """Return the call of timm."""
        return "timm.create_model('local-dir:FOLDER', pretrained=True)"

    def precision_of(self, scheme: Scheme | None, model: nn.Module) -> ArtifactPrecision:  # noqa: ARG002
        """Return float32: of a model with integers, the weights that they are rounded from."""
        return "float32"

    def config(self, model: PreTrainedModel, folder: Path, max_length: int) -> dict[str, Any]:  # noqa: ARG002
        """Return the config that timm wrote beside the weights."""
        return cast(dict[str, Any], json.loads((folder / "config.json").read_text("utf-8")))

    def labelled(self, config: dict[str, Any], labels: tuple[str, ...]) -> dict[str, Any]:
        """Return a config with the names of the outputs, where timm reads them."""
        return {**config, "label_names": list(labels)}


EXPORTER = TimmExporter()


@torch.no_grad()
def _form(model: nn.Module) -> nn.Module | str:
    if not isinstance(model, NetworkForImageClassification):
        return "It is no model of timm."
    twin = copy.deepcopy(model).to("cpu", torch.float32).eval()
    remove_fake_quantization(twin)
    return timm_form(twin)


def _of_images(sent: Mapping[str, Any]) -> dict[str, Any]:
    """Return what an uploaded `pretrained_cfg` says of images; nothing if another file of the upload says it."""
    try:
        ImagePreprocessing.of_timm(sent)
    except ConfigMismatch:
        return {}
    return {key: sent[key] for key in OF_IMAGES if sent.get(key) is not None}
