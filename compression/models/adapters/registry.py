"""One file a model family: which weights are coupled, and how its stock config says the new shape. No training here.

`families.of(model)` is the way in: it answers for whatever head the model has, with what all families can do. Stages that speak
of the parts of a layer ask `encoder_of` or `decoder_of`: post-norm encoders and pre-norm decoders have different ones.
"""

from transformers import PretrainedConfig, PreTrainedModel

from compression.models.adapters.bert import BERT
from compression.models.adapters.decoder import PreNormDecoder
from compression.models.adapters.deepseek import DEEPSEEK_V2, DEEPSEEK_V3
from compression.models.adapters.distilbert import DISTILBERT
from compression.models.adapters.electra import ELECTRA
from compression.models.adapters.encoder import PostNormEncoder
from compression.models.adapters.gpt2 import GPT2
from compression.models.adapters.llama import LLAMA
from compression.models.adapters.mistral import MISTRAL
from compression.models.adapters.mpnet import MPNET
from compression.models.adapters.qwen import QWEN2, QWEN3
from compression.models.adapters.roberta import ROBERTA
from compression.models.adapters.structure import (
    ArchitectureAdapter,
)

ENCODER_ADAPTERS: dict[str, PostNormEncoder] = {
    "bert": BERT,
    "distilbert": DISTILBERT,
    "roberta": ROBERTA,
    "xlm-roberta": ROBERTA,
    "electra": ELECTRA,
    "mpnet": MPNET,
}
DECODER_ADAPTERS: dict[str, PreNormDecoder] = {
    "llama": LLAMA,
    "mistral": MISTRAL,
    "qwen2": QWEN2,
    "qwen3": QWEN3,
    "gpt2": GPT2,
    "deepseek_v2": DEEPSEEK_V2,
    "deepseek_v3": DEEPSEEK_V3,
}
ADAPTERS: dict[str, ArchitectureAdapter] = {**ENCODER_ADAPTERS, **DECODER_ADAPTERS}
"""By the model_type of the stock config, as the two above."""


def adapter_of(model_or_config: PreTrainedModel | PretrainedConfig) -> ArchitectureAdapter:
    """Find the family of a model or of its config. Raises KeyError for one that `catalog.family_of` does not know either."""
    return ADAPTERS[_kind(model_or_config)]


def encoder_of(model_or_config: PreTrainedModel | PretrainedConfig) -> PostNormEncoder:
    """Find the family of an encoder or of its config. Raises KeyError for one that is none of them."""
    return ENCODER_ADAPTERS[_kind(model_or_config)]


def decoder_of(model_or_config: PreTrainedModel | PretrainedConfig) -> PreNormDecoder:
    """Find the family of a decoder or of its config. Raises KeyError for one that is none of them."""
    return DECODER_ADAPTERS[_kind(model_or_config)]


def is_decoder(model_or_config: PreTrainedModel | PretrainedConfig) -> bool:
    """Say whether a model, or that of a config, is a decoder."""
    return _kind(model_or_config) in DECODER_ADAPTERS


def _kind(model_or_config: PreTrainedModel | PretrainedConfig) -> str:
    config = getattr(model_or_config, "config", model_or_config)
    return str(config.model_type)
