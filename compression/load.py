"""Open the user's model with the stock classes, from a local folder, without running anything that is in it."""

import inspect
import json
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from transformers import (
    AutoModelForSequenceClassification,
    AutoTokenizer,
    BertConfig,
    PreTrainedModel,
    PreTrainedTokenizerFast,
)

from compression.catalog import family_of
from compression.errors import ConfigMismatch, DamagedCheckpoint, LabelMismatch, MissingFile, UnsafeCheckpoint
from compression.failures import typed
from compression.tasks import classification

NEW_PARTS = ("classifier.", "bert.pooler.")
"""What a bare encoder may lack; it is drawn anew. All else must be in the checkpoint."""


def has_head(config: dict[str, Any]) -> bool:
    """Say whether a config.json describes a model with a classification head."""
    return any(str(name).endswith("ForSequenceClassification") for name in config.get("architectures") or ())


def read_config(folder: Path) -> dict[str, Any]:
    """Read config.json and refuse what cannot or may not be loaded.

    Raises MissingFile, UnsafeCheckpoint, ConfigMismatch and UnsupportedArchitecture.
    """
    for name in ("config.json", "tokenizer.json"):
        if not (folder / name).is_file():
            raise MissingFile(f"the model has no {name}", param=name)
    if not any(folder.glob("*.safetensors")):
        pickles = sorted(path.name for suffix in ("bin", "pt", "pth", "ckpt") for path in folder.glob(f"*.{suffix}"))
        if pickles:
            raise UnsafeCheckpoint(f"{pickles[0]} is a pickle, which can run code when it is opened", param=pickles[0])
        raise MissingFile("the model has no *.safetensors", param="*.safetensors")
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as problem:
        raise ConfigMismatch(f"config.json is not JSON: {problem}", param="config.json") from problem
    if not isinstance(config, dict):
        raise ConfigMismatch("config.json is not a JSON object", param="config.json")
    if "auto_map" in config:
        raise UnsafeCheckpoint("config.json names code to run (auto_map)", param="config.json:auto_map")
    family_of(config)
    if shadowing := sorted(key for key in config if _is_code(key)):
        cause = f"config.json sets {shadowing[0]!r}, which is a method of the stock config"
        raise ConfigMismatch(cause, param=f"config.json:{shadowing[0]}")
    return config


def _is_code(key: str) -> bool:
    # transformers makes an attribute of every key: one of a method's name breaks whatever calls the method.
    found = inspect.getattr_static(BertConfig, key, None)
    return callable(found) or isinstance(found, classmethod | staticmethod) or (isinstance(found, property) and not found.fset)


def load_tokenizer(folder: Path) -> PreTrainedTokenizerFast:
    """Open tokenizer.json with the stock class. Raises ConfigMismatch where it is not one, or not this model's."""
    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False, use_fast=True)
    except Exception as problem:  # the tokenizers library raises bare Exception
        raise typed(problem) or ConfigMismatch(
            f"tokenizer.json cannot be opened: {problem}", param="tokenizer.json"
        ) from problem
    if tokenizer.pad_token_id is None:
        raise ConfigMismatch("the tokenizer has no padding token", param="tokenizer.json")
    # tokenizer_config.json can add tokens to those of tokenizer.json: an id without a row in the table ends the job midway.
    rows, highest = read_config(folder).get("vocab_size", BertConfig().vocab_size), max(tokenizer.get_vocab().values())
    if highest >= rows:
        raise ConfigMismatch(
            f"the tokenizer has the id {highest}, config.json a vocabulary of {rows}", param="tokenizer_config.json"
        )
    return tokenizer


def load_model(folder: Path, labels: tuple[str, ...], *, seed: int) -> PreTrainedModel:
    """Load the model in float32 for exactly these labels.

    A bare encoder is given a new head, drawn with `seed`, whose outputs follow `labels`. A model with a head keeps its own
    order: read it with `classification.head_labels`. Raises what `read_config` does, and LabelMismatch, ConfigMismatch and
    DamagedCheckpoint.
    """
    config = read_config(folder)
    settings: dict[str, Any] = {}
    headed = has_head(config)
    if not headed:
        settings = {"id2label": dict(enumerate(labels)), "label2id": {label: number for number, label in enumerate(labels)}}
    model, report = open_stock(folder, **settings)
    if headed:
        own = classification.head_labels(model.config)
        if set(own) != set(labels) or len(own) != len(labels):
            raise LabelMismatch(
                f"the model's head has {_listed(own)}, the data has {_listed(labels)}", param="config.json:id2label"
            )
        labels = own
    lost = [name for name in report["missing_keys"] if headed or not name.startswith(NEW_PARTS)]
    if lost:
        raise ConfigMismatch(f"the weights lack {_listed(tuple(sorted(lost)))}", param=f"*.safetensors:{min(lost)}")
    torch.manual_seed(seed)
    deviation = model.config.initializer_range
    if any(name.startswith("bert.pooler.") for name in report["missing_keys"]):
        classification.initialise_head(model.bert.pooler.dense, deviation)
    if not headed:
        classification.initialise_head(model.classifier, deviation)
    classification.name_labels(model.config, labels)
    return model


def open_stock(folder: Path, **settings: Any) -> tuple[PreTrainedModel, dict[str, Any]]:
    """Open a folder with AutoModelForSequenceClassification: safetensors only, no code, no network.

    Returns the model in evaluation mode and transformers' account of missing and unexpected keys. Raises ConfigMismatch
    and DamagedCheckpoint.
    """
    try:
        model, report = AutoModelForSequenceClassification.from_pretrained(
            folder,
            dtype=torch.float32,
            use_safetensors=True,
            local_files_only=True,
            trust_remote_code=False,
            attn_implementation="sdpa",
            output_loading_info=True,
            **settings,
        )
    except SafetensorError as problem:
        raise typed(problem) or DamagedCheckpoint(f"the weights cannot be read: {problem}", param="*.safetensors") from problem
    except Exception as problem:  # transformers and torch raise whatever they meet, AssertionError among it
        raise typed(problem) or ConfigMismatch(
            f"the weights do not fit config.json: {problem}", param="config.json"
        ) from problem
    return model.eval(), report


def _listed(names: tuple[str, ...], most: int = 8) -> str:
    shown = ", ".join(map(repr, names[:most]))
    return shown if len(names) <= most else f"{shown} and {len(names) - most} more"
