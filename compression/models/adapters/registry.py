"""The adapter of each model family, by the model_type of the stock config.

`adapter_of` works for a model with any head and offers what all families have in common. Stages that use the parts of a layer
call `encoder_of` or `decoder_of`, because post-norm encoders and pre-norm decoders have different parts.
"""

from pkgutil import resolve_name

from transformers import PretrainedConfig, PreTrainedModel

from compression.models.adapters.adapter import ArchitectureAdapter
from compression.models.adapters.decoder import PreNormDecoder
from compression.models.adapters.deepseek import Deepseek
from compression.models.adapters.encoder import PostNormEncoder
from compression.models.adapters.gpt2 import Gpt2
from compression.models.adapters.network.adapter import NetworkAdapter
from compression.models.adapters.qwen import Qwen3
from compression.models.architectures.decoder_tensor_names import FAMILIES
from compression.models.architectures.families import INSTALLED
from compression.models.architectures.tensor_names import NAMES
from compression.schema.errors import MissingResource

ENCODER_ADAPTERS: dict[str, PostNormEncoder] = {kind: PostNormEncoder(kind) for kind in NAMES}
OWN_ADAPTERS = {"qwen3": Qwen3, "gpt2": Gpt2, "deepseek_v2": Deepseek, "deepseek_v3": Deepseek}
DECODER_ADAPTERS: dict[str, PreNormDecoder] = {kind: OWN_ADAPTERS.get(kind, PreNormDecoder)(kind) for kind in FAMILIES}
ADAPTERS: dict[str, ArchitectureAdapter] = {**ENCODER_ADAPTERS, **DECODER_ADAPTERS, "network": NetworkAdapter()}


def adapter_named(model_type: str) -> ArchitectureAdapter | None:
    """Find the adapter of a family; None if there is none. That of an installed package is imported at its first use. Raises
    MissingResource if it cannot be.
    """
    if model_type not in ADAPTERS and model_type in INSTALLED:
        engine = INSTALLED[model_type].engine
        try:
            ADAPTERS[model_type] = resolve_name(engine)
        except Exception as problem:
            cause = f"the family {model_type} ({engine}) cannot be loaded: {problem}"
            raise MissingResource(cause, remedy="Ask who runs the worker to mend the package.") from problem
    return ADAPTERS.get(model_type)


def adapter_of(model_or_config: PreTrainedModel | PretrainedConfig) -> ArchitectureAdapter:
    """Find the adapter of a model or its config. Raises KeyError for a family that `architecture_of` does not know either."""
    found = adapter_named(kind := _kind(model_or_config))
    if found is None:
        raise KeyError(kind)
    return found


def encoder_of(model_or_config: PreTrainedModel | PretrainedConfig) -> PostNormEncoder:
    """Find the adapter of an encoder or its config. Raises KeyError for anything else."""
    return ENCODER_ADAPTERS[_kind(model_or_config)]


def decoder_of(model_or_config: PreTrainedModel | PretrainedConfig) -> PreNormDecoder:
    """Find the adapter of a decoder or its config. Raises KeyError for anything else."""
    return DECODER_ADAPTERS[_kind(model_or_config)]


def is_decoder(model_or_config: PreTrainedModel | PretrainedConfig) -> bool:
    """Return whether a model, or the model of a config, is a decoder."""
    return _kind(model_or_config) in DECODER_ADAPTERS


def _kind(model_or_config: PreTrainedModel | PretrainedConfig) -> str:
    config = getattr(model_or_config, "config", model_or_config)
    return str(config.model_type)
