"""One file a model family: which weights are coupled, and how its stock config says the new shape. No training here.

`families.of(model)` is the way in: it answers for whatever head the model has.
"""

from transformers import PretrainedConfig, PreTrainedModel

from compression.families.base import linear_modules
from compression.families.bert import BERT
from compression.families.distilbert import DISTILBERT
from compression.families.electra import ELECTRA
from compression.families.mpnet import MPNET
from compression.families.parts import Family, Head, Kept, Layer, head_rows
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


def of(model_or_config: PreTrainedModel | PretrainedConfig) -> Family:
    """Find the family of a model or of its config. Raises KeyError for one that `catalog.family_of` does not know either."""
    config = getattr(model_or_config, "config", model_or_config)
    return FAMILIES[config.model_type]


__all__ = ["FAMILIES", "Family", "Head", "Kept", "Layer", "head_rows", "linear_modules", "of"]
