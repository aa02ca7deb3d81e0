"""One file a model family: which weights are coupled, and how its stock config says the new shape. No training here.

`families.of(model)` is the way in: it answers for whatever head the model has, with what all families can do. Stages that speak
of the parts of a layer ask `encoder_of` or `decoder_of`: post-norm encoders and pre-norm decoders have different ones.
"""

from transformers import PretrainedConfig, PreTrainedModel

from compression.families.base import PostNormEncoder, linear_modules
from compression.families.bert import BERT
from compression.families.decoder import PreNormDecoder
from compression.families.deepseek import DEEPSEEK_V2, DEEPSEEK_V3
from compression.families.distilbert import DISTILBERT
from compression.families.electra import ELECTRA
from compression.families.gpt2 import GPT2
from compression.families.llama import LLAMA
from compression.families.mistral import MISTRAL
from compression.families.mpnet import MPNET
from compression.families.parts import Attention, Block, Family, Head, Kept, Layer, Routed, head_rows
from compression.families.qwen import QWEN2, QWEN3
from compression.families.roberta import ROBERTA

ENCODERS: dict[str, PostNormEncoder] = {
    "bert": BERT,
    "distilbert": DISTILBERT,
    "roberta": ROBERTA,
    "xlm-roberta": ROBERTA,
    "electra": ELECTRA,
    "mpnet": MPNET,
}
DECODERS: dict[str, PreNormDecoder] = {
    "llama": LLAMA,
    "mistral": MISTRAL,
    "qwen2": QWEN2,
    "qwen3": QWEN3,
    "gpt2": GPT2,
    "deepseek_v2": DEEPSEEK_V2,
    "deepseek_v3": DEEPSEEK_V3,
}
FAMILIES: dict[str, Family] = {**ENCODERS, **DECODERS}
"""By the model_type of the stock config, as the two above."""


def of(model_or_config: PreTrainedModel | PretrainedConfig) -> Family:
    """Find the family of a model or of its config. Raises KeyError for one that `catalog.family_of` does not know either."""
    return FAMILIES[_kind(model_or_config)]


def encoder_of(model_or_config: PreTrainedModel | PretrainedConfig) -> PostNormEncoder:
    """Find the family of an encoder or of its config. Raises KeyError for one that is none of them."""
    return ENCODERS[_kind(model_or_config)]


def decoder_of(model_or_config: PreTrainedModel | PretrainedConfig) -> PreNormDecoder:
    """Find the family of a decoder or of its config. Raises KeyError for one that is none of them."""
    return DECODERS[_kind(model_or_config)]


def decodes(model_or_config: PreTrainedModel | PretrainedConfig) -> bool:
    """Say whether a model, or that of a config, is a decoder."""
    return _kind(model_or_config) in DECODERS


def _kind(model_or_config: PreTrainedModel | PretrainedConfig) -> str:
    config = getattr(model_or_config, "config", model_or_config)
    return str(config.model_type)


__all__ = [
    "DECODERS",
    "ENCODERS",
    "FAMILIES",
    "Attention",
    "Block",
    "Family",
    "Head",
    "Kept",
    "Layer",
    "PostNormEncoder",
    "PreNormDecoder",
    "Routed",
    "decoder_of",
    "decodes",
    "encoder_of",
    "head_rows",
    "linear_modules",
    "of",
]
