"""A model that is one GGUF file becomes a stock folder: float32 weights, config.json, tokenizer.json.

transformers unpacks the blocks (its reader needs the packages gguf and accelerate). Whoever opens the folder afterwards need
not know what it was. The file must have passed `checks.gguf_model`: the stock reader trusts what it reads.
"""

from pathlib import Path

import torch
import transformers
from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

from compression import durable
from compression.checks import gguf_model
from compression.errors import ConfigMismatch
from compression.failures import typed
from compression.shards import LARGEST_SHARD


def stock_folder(folder: Path, place: Path) -> Path:
    """Return the folder that stock code opens a model from: `folder`, or `place`, where its GGUF file is unpacked once."""
    if not gguf_model.is_one(folder):
        return folder
    if not place.exists():
        unpack(folder, place)
    return place


def unpack(folder: Path, place: Path) -> None:
    """Write the folder's only GGUF file as the folder `place`, which appears whole. Memory: the model once in float32.

    Raises what `checks.gguf_model.read_model` does, and ConfigMismatch where the stock reader finds something amiss.
    """
    path, _ = gguf_model.read_model(folder)
    transformers.utils.logging.disable_progress_bar()
    try:
        model, report = AutoModelForCausalLM.from_pretrained(
            folder,
            gguf_file=path.name,
            quantization_config=GgufConfig(dequantize=True),
            dtype=torch.float32,
            local_files_only=True,
            trust_remote_code=False,
            output_loading_info=True,
        )
        tokenizer = AutoTokenizer.from_pretrained(folder, gguf_file=path.name, local_files_only=True, trust_remote_code=False)
    except Exception as problem:  # transformers raises whatever it meets
        raise typed(problem) or ConfigMismatch(
            f"{path.name} cannot be opened: {str(problem)[:300]}", param=path.name
        ) from problem
    lost = sorted({*report["missing_keys"], *(name for name, *_ in report.get("mismatched_keys") or ())})
    if lost:
        raise ConfigMismatch(f"{path.name} lacks {lost[0]!r}", param=path.name)
    with durable.folder(place) as beside:
        model.save_pretrained(beside, max_shard_size=LARGEST_SHARD)
        tokenizer.save_pretrained(beside)
