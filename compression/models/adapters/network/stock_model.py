"""Opens a network's stock checkpoint in memory, as the class of transformers that its files are of."""

import torch
from transformers import AutoModelForImageClassification, PreTrainedModel
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

from compression.models.networks.families.registry import FAMILIES
from compression.models.networks.families.stock_checkpoint import StockCheckpoint


def stock_model(checkpoint: StockCheckpoint) -> PreTrainedModel:
    """Return the model of a checkpoint, float32, in evaluation mode."""
    family = FAMILIES[checkpoint.config["model_type"]]
    settings = {key: value for key, value in checkpoint.config.items() if key != "model_type"}
    model: PreTrainedModel = AutoModelForImageClassification.from_config(CONFIG_MAPPING[family.kind](**settings))
    model.load_state_dict({family.loaded(name): torch.from_numpy(value) for name, value in checkpoint.tensors.items()})
    return model.eval()
