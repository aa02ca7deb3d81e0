"""Build a stock model without weights, and find the checkpoint tensors that fill it."""

import re
from pathlib import Path

import torch
import transformers as stock
from transformers import AutoConfig, GenerationConfig, PretrainedConfig, PreTrainedModel

from compression.models.adapters.registry import ADAPTERS, DECODER_ADAPTERS
from compression.models.architectures.decoder_tensor_names import stored_parts
from compression.models.sharded_checkpoint import SafetensorsReader
from compression.schema.errors import ConfigMismatch, UnsupportedArchitecture

LEFTOVERS = (r"\.rotary_emb\.inv_freq$", r"\.attn\.masked_bias$")
"""Buffers that older versions saved with the weights; stock code no longer reads them."""


def skeleton(folder: Path) -> PreTrainedModel:
    """Build the stock model of a folder's config.json on the meta device. Raises UnsupportedArchitecture or ConfigMismatch."""
    try:
        config: PretrainedConfig = AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    except Exception as problem:  # transformers raises exceptions of any type
        raise ConfigMismatch(f"config.json cannot be read: {str(problem)[:300]}", param="config.json") from problem
    name = str(next(iter(config.architectures or ()), None))
    found = getattr(stock, name, None)
    if not (
        isinstance(found, type) and issubclass(found, PreTrainedModel) and getattr(found, "config_class", None) is type(config)
    ):
        cause = f"architectures names {name!r:.100}, which is no stock class of {config.model_type!r}"
        raise UnsupportedArchitecture(cause, param="config.json:architectures")
    try:
        if (family := ADAPTERS.get(config.model_type)) is not None:
            config._attn_implementation = family.attention  # as in `loading`, whatever the file names
        with torch.device("meta"):
            return found(config).eval()
    except Exception as problem:
        cause = f"config.json makes no {name}: {str(problem)[:300]}"
        raise ConfigMismatch(cause, param="config.json") from problem


def sources(model: PreTrainedModel, checkpoint: SafetensorsReader) -> dict[str, tuple[str, ...]]:
    """Return the checkpoint tensors that fill each tensor of a model, in model order. Raises ConfigMismatch if they do not fit.

    Each model tensor has one source, tied tensors the same, except fused experts: their rows come from several matrices, in
    order. A checkpoint of the bare model lacks the prefix that its tensors have in a model with a head.
    """
    wanted = model.state_dict(keep_vars=True)
    prefix = f"{model.base_model_prefix}."
    known = {part for name, tensor in wanted.items() for part in stored_parts(name, tuple(tensor.shape))}
    stored = {name if name in known or f"{prefix}{name}" not in known else prefix + name: name for name in checkpoint.names()}
    family = DECODER_ADAPTERS.get(model.config.model_type)
    ignored = (*(model._keys_to_ignore_on_load_unexpected or ()), *LEFTOVERS)
    found: dict[str, tuple[str, ...]] = {}
    first: dict[int, str] = {}
    used: set[str] = set()
    for name, tensor in wanted.items():
        # A tied table is stored under its first name; if it is stored twice, validation has compared both copies.
        parts = stored_parts(first.setdefault(id(tensor), name), tuple(tensor.shape))
        for part, shape in parts.items():
            if part not in stored:
                raise ConfigMismatch(f"the weights lack {part!r}", param=f"*.safetensors:{part}")
            if checkpoint.shape(stored[part]) != shape:
                cause = f"{part!r} has the shape {list(checkpoint.shape(stored[part]))}, config.json implies {list(shape)}"
                raise ConfigMismatch(cause, param=f"{checkpoint.file(stored[part])}:{part}")
        found[name] = tuple(stored[part] for part in parts)
        used |= {name, *parts}
    # A checkpoint may still have the output layer of the model that a classifier was made from.
    another = "lm_head.weight" if model.get_output_embeddings() is None else None
    for name in sorted(stored.keys() - used):
        if name == another or (family is not None and family.is_unread(model.config, name)):
            continue
        if not any(re.search(pattern, name) for pattern in ignored):
            cause = f"config.json does not account for {name!r:.200}"
            raise ConfigMismatch(cause, param=f"{checkpoint.file(stored[name])}:{name[:200]}")
    return found


def generation_of(model: PreTrainedModel, source: Path) -> GenerationConfig:
    """Return a model's generation config: the folder's, else the one from its config. Raises ConfigMismatch."""
    name = "generation_config.json"
    if not (source / name).is_file():
        return model.generation_config
    try:
        return GenerationConfig.from_pretrained(source, local_files_only=True)
    except Exception as problem:  # transformers raises exceptions of any type
        raise ConfigMismatch(f"{name} cannot be read: {str(problem)[:300]}", param=name) from problem
