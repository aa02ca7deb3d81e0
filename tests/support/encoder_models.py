"""Tiny models of every family, random and made in milliseconds, with tokenizers whose padding is where the family has it."""

import json
from pathlib import Path

import torch
import transformers
from transformers import CONFIG_MAPPING, PretrainedConfig, PreTrainedModel

from tests.support import tiny_bert
from tests.support.tiny_bert import BAD, FILLER, GOOD

LAYERS, HIDDEN, HEADS, FFN, POSITIONS = 2, 32, 4, 64, 66
WORDS = ["[CLS]", "[PAD]", "[SEP]", "[UNK]", "[MASK]", *GOOD, *BAD, *FILLER]
"""The order of RoBERTa and MPNet, whose padding is token 1; the other families do not mind."""
PADDING = 1
STEMS = {"bert": "Bert", "distilbert": "DistilBert", "roberta": "Roberta", "xlm-roberta": "XLMRoberta"}
STEMS |= {"electra": "Electra", "electra-base": "Electra", "mpnet": "MPNet"}
"""Every kind of model that is taken apart in another way. electra has narrow tables and a projection, electra-base not."""


def tiny_config(kind: str, **changes: object) -> PretrainedConfig:
    settings = {"hidden_size": HIDDEN, "num_attention_heads": HEADS, "num_hidden_layers": LAYERS, "intermediate_size": FFN}
    settings |= {"vocab_size": len(WORDS), "max_position_embeddings": POSITIONS, "pad_token_id": PADDING}
    if kind == "distilbert":
        settings["hidden_dim"] = settings.pop("intermediate_size")
    if kind in {"roberta", "xlm-roberta"}:
        settings["type_vocab_size"] = 1
    if kind.startswith("electra"):
        settings["embedding_size"] = 16 if kind == "electra" else HIDDEN
    return CONFIG_MAPPING[kind.removesuffix("-base")](**{"initializer_range": 0.1, **settings, **changes})


def tiny(kind: str, head: str = "ForSequenceClassification", **changes: object) -> PreTrainedModel:
    """Make a model whose biases are not zero, so that losing one shows."""
    torch.manual_seed(1)
    model: PreTrainedModel = getattr(transformers, STEMS[kind] + head)(tiny_config(kind, **changes)).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith("bias") and parameter.ndim == 1:
                parameter.normal_(std=0.1)
    return model


def write_tokenizer(folder: Path) -> None:
    tiny_bert.write_tokenizer(folder, WORDS, second="$B [SEP]")
    # As model authors write it: the class that opens any tokenizer.json.
    path = folder / "tokenizer_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "tokenizer_class": "PreTrainedTokenizerFast"}))
