"""Write a classifier as a checkpoint that stock transformers opens, with torchao's integers for INT8.

torchao's int8 scheme nearest to dynamic-int8 is symmetric per token and per output channel too, but it divides by 127.5
where we divide by 127: its answers are not the simulated ones to the last rounding. Such an artifact has a score of its own.
"""

import copy
import shutil
import tempfile
from collections import OrderedDict
from pathlib import Path

import torch
import transformers
from torch import nn
from torchao.quantization import FqnToConfig, Int8DynamicActivationInt8WeightConfig, Int8WeightOnlyConfig
from torchao.quantization.quantize_.workflows import Int8Tensor
from transformers import TorchAoConfig

from compression import numerics

FILE = "model.safetensors"
ONE_SHARD = "64GB"
"""All weights go to one file, so that its bytes are the artifact's."""


def write(model: nn.Module, folder: Path, *, int8: bool) -> Path:
    """Write config.json and model.safetensors into `folder` and return the weights' path. The model itself stays as it is.

    Raises RuntimeError where torchao left a linear layer or an embedding in floating point.
    """
    twin = copy.deepcopy(model).to("cpu", torch.float32).eval()
    numerics.remove(twin)
    transformers.utils.logging.disable_progress_bar()
    if not int8:
        twin.save_pretrained(folder, max_shard_size=ONE_SHARD)  # type: ignore[operator]  # a PreTrainedModel's
        return folder / FILE
    # transformers quantizes while it loads, so the weights go through a folder; beside the target, where there is room.
    passage = Path(tempfile.mkdtemp(prefix=".float32-", dir=folder.parent))
    try:
        twin.save_pretrained(passage)  # type: ignore[operator]
        quantized = type(twin).from_pretrained(  # type: ignore[attr-defined]
            passage,
            quantization_config=TorchAoConfig(_scheme(twin), include_input_output_embeddings=True),
            dtype=torch.float32,
            local_files_only=True,
        )
    finally:
        shutil.rmtree(passage)
    missed = [name for name, layer in numerics.quantizable(quantized) if not isinstance(layer.weight, Int8Tensor)]
    if missed:
        raise RuntimeError(f"torchao left in floating point: {', '.join(missed)}")
    quantized.save_pretrained(folder, max_shard_size=ONE_SHARD)
    return folder / FILE


def _scheme(model: nn.Module) -> FqnToConfig:
    # Weights by their full names: names of modules, and `_default`, would catch biases as well.
    return FqnToConfig(
        OrderedDict(
            (
                f"{name}.weight",
                Int8DynamicActivationInt8WeightConfig() if isinstance(layer, nn.Linear) else Int8WeightOnlyConfig(),
            )
            for name, layer in numerics.quantizable(model)
        )
    )
