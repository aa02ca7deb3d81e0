"""Writes an artifact's tokenizer: tokenizer.json, which suffices for ONNX, and stock code's files."""

import json
import shutil
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer
from torch import nn
from transformers import AutoTokenizer

from compression.modalities.text.scoring.question_answering import overlap_of
from compression.models import loading
from compression.models.adapters.registry import is_decoder
from compression.schema.recipe.base import Task

EXTRAS = ("special_tokens_map.json", "vocab.txt", "chat_template.jinja")
SETTINGS = "tokenizer_config.json"
SPECIAL = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")


def write_tokenizer(source: Path, folder: Path, max_length: int, task: Task, model: nn.Module | None = None) -> None:
    """Copy the tokenizer, and set truncation to `max_length` and no padding in its tokenizer.json.

    Texts lose the end that training with the uploaded tokenizer cut off. For question answering, contexts are split into
    windows from their beginning; a language model's tokenizer does not truncate. model: of the tokenizer. For a decoder, the
    settings name its inputs and the padding token, for a classifier on the right: it finds the last token by it. If the
    settings' class splits texts differently from tokenizer.json, they name a class that does not.
    """
    tokenizer, settings = Tokenizer.from_file(str(source / "tokenizer.json")), _read(source / SETTINGS)
    if task == "causal-lm":  # the user who generates decides how many tokens to read
        tokenizer.no_truncation()
    elif task == "question-answering":
        tokenizer.enable_truncation(max_length, stride=overlap_of(max_length), strategy="only_second")
        settings |= {"truncation_side": "right"} if "truncation_side" in settings else {}
    else:
        tokenizer.enable_truncation(max_length, direction=_side(tokenizer, settings))
    tokenizer.no_padding()
    tokenizer.save(str(folder / "tokenizer.json"))
    for extra in EXTRAS:
        if (source / extra).is_file():
            shutil.copyfile(source / extra, folder / extra)
    if model is not None and is_decoder(model):
        settings |= {"model_input_names": ["input_ids", "attention_mask"]}
        named = any(_read(source / name).get("pad_token") for name in (SETTINGS, "special_tokens_map.json"))
        padding: Any = model.config.pad_token_id  # type: ignore[union-attr]
        if padding is not None and not named:
            settings |= {"pad_token": tokenizer.id_to_token(int(padding))}
        if task != "causal-lm":
            settings |= {"padding_side": "right"}
    _write(folder, {**settings, "model_max_length": max_length})
    if model is not None:
        _write(folder, {**settings, "model_max_length": max_length, **_as_filed(folder, tokenizer, model)})


def _side(tokenizer: Tokenizer, settings: dict[str, Any]) -> str:
    """Return the end of a long text that stock code cuts off: the settings' own, else that of tokenizer.json."""
    return str(settings.get("truncation_side") or (tokenizer.truncation or {}).get("direction", "right"))


def _as_filed(folder: Path, own: Tokenizer, model: nn.Module) -> dict[str, Any]:
    """Return settings that make stock code split texts as tokenizer.json does; none if it already does.

    Most stock classes have rules of their own. The common class uses the file as it is, and has no special tokens or inputs of
    its own, so the settings name those. For a Qwen2, stock code uses the family's class whatever the settings name.
    """
    stock = AutoTokenizer.from_pretrained(folder, config=model.config, local_files_only=True, trust_remote_code=False)
    if loading.is_as_filed(stock, own):
        return {}
    special = {name: getattr(stock, name) for name in SPECIAL}
    known = {name: token for name, token in special.items() if token is not None and own.token_to_id(token) is not None}
    return {**known, "model_input_names": stock.model_input_names, "tokenizer_class": "PreTrainedTokenizerFast"}


def _write(folder: Path, settings: dict[str, Any]) -> None:
    (folder / SETTINGS).write_text(json.dumps(settings, indent=2, ensure_ascii=False) + "\n", "utf-8")


def _read(path: Path) -> dict[str, Any]:
    return dict(json.loads(path.read_text("utf-8"))) if path.is_file() else {}
