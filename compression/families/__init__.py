"""One file a model family: which weights are coupled, and how its stock config says the new shape. No training here.

`families.of(model)` is the way in: it answers for whatever head the model has. Decoders have a way of their own, `decoder_of`,
until jobs take them: their layers have other parts than an encoder's, so not every stage can speak of them yet.
"""

from transformers import PretrainedConfig, PreTrainedModel

from compression.families.base import linear_modules
from compression.families.bert import BERT
from compression.families.decoder import PreNormDecoder
from compression.families.deepseek import DEEPSEEK_V2, DEEPSEEK_V3
from compression.families.distilbert import DISTILBERT
from compression.families.electra import ELECTRA
from compression.families.gpt2 import GPT2
from compression.families.llama import LLAMA
from compression.families.mistral import MISTRAL
from compression.families.mpnet import MPNET
from compression.families.parts import Block, Family, Head, Kept, Layer, Routed, head_rows
from compression.families.qwen import QWEN2, QWEN3
from compression.families.roberta import ROBERTA

FAMILIES: dict[str, Family] = {
    "bert": BERT,
    "distilbert": DISTILBERT,
    "roberta": ROBERTA,
    "xlm-roberta": ROBERTA,
    "electra": ELECTRA,
    "mpnet": MPNET,
}
"""By the model_type of the stock config."""
DECODERS: dict[str, PreNormDecoder] = {
    "llama": LLAMA,
    "mistral": MISTRAL,
    "qwen2": QWEN2,
    "qwen3": QWEN3,
    "gpt2": GPT2,
    "deepseek_v2": DEEPSEEK_V2,
    "deepseek_v3": DEEPSEEK_V3,
}
"""By the model_type of the stock config."""


def of(model_or_config: PreTrainedModel | PretrainedConfig) -> Family:
    """Find the family of a model or of its config. Raises KeyError for one that `catalog.family_of` does not know either."""
    config = getattr(model_or_config, "config", model_or_config)
    return FAMILIES[config.model_type]


def decoder_of(model_or_config: PreTrainedModel | PretrainedConfig) -> PreNormDecoder:
    """Find the family of a decoder or of its config. Raises KeyError for one that is none of them."""
    config = getattr(model_or_config, "config", model_or_config)
    return DECODERS[config.model_type]


__all__ = [
    "DECODERS",
    "FAMILIES",
    "Block",
    "Family",
    "Head",
    "Kept",
    "Layer",
    "PreNormDecoder",
    "Routed",
    "decoder_of",
    "head_rows",
    "linear_modules",
    "of",
]
