"""Adds a separator token to a decoder's tokenizer that puts nothing between the two texts of a row.

Byte-level tokenizers of language models have no rule for pairs. A model whose head is not initialized yet has not seen pairs:
it reads them with a token in between from the first step on, and so does every user of its artifacts, whose tokenizer.json has
the rule. A model that was fine-tuned on pairs keeps the rule of its fine-tuning.
"""

import filecmp
import json
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer

from compression.models import loading
from compression.models.architectures import heads
from compression.models.architectures.families import architecture_of
from compression.models.sanitized_folder import linked
from compression.schema.recipe.base import Task

FIRST, SECOND = "a", "b"  #: texts to test a tokenizer with


def apart(folder: Path, task: Task, target: Path) -> tuple[Path, str | None]:
    """Return a folder whose tokenizer separates a row's two texts, and the separator token, if added.

    It is `folder` itself, unless a decoder without a head for pairs has a tokenizer that joins them: then `target` has the same
    files (links) except for tokenizer.json. Raises `loading`'s errors.
    """
    config = loading.read_config(folder)
    if not architecture_of(config).decodes or loading.has_head(config, heads.of_task(task)):
        return folder, None
    tokenizer = loading.load_tokenizer(folder)  # raises an error that describes an invalid file
    backend = Tokenizer.from_file(str(folder / "tokenizer.json"))
    backend.no_padding()  # nor truncation: a file's length settings are not part of its rule for pairs
    backend.no_truncation()
    first, second = (backend.encode(text, add_special_tokens=False).ids for text in (FIRST, SECOND))
    before, after = _around(backend)
    if not (first and second) or backend.encode(FIRST, SECOND).ids != [*before, *first, *second, *after]:
        return folder, None
    named = (tokenizer.sep_token, tokenizer.eos_token, tokenizer.pad_token)  # the settings may name tokens that the file lacks
    between = next((str(one) for one in named if one is not None and backend.token_to_id(str(one)) is not None), None)
    if between is None:
        return folder, None
    filed = json.loads((folder / "tokenizer.json").read_text("utf-8"))
    filed["post_processor"] = with_pairs(filed.get("post_processor"), backend, between)
    linked(folder, target, {"tokenizer.json": json.dumps(filed, ensure_ascii=False)})
    return target, between


def are_alike(one: Path, other: Path) -> bool:
    """Return whether two folders hold the same tokenizer.json."""
    mine, theirs = (folder / "tokenizer.json" for folder in (one, other))
    return mine.is_file() and theirs.is_file() and filecmp.cmp(mine, theirs, shallow=False)


def _around(backend: Tokenizer) -> tuple[list[int], list[int]]:
    """Return the ids that the tokenizer puts before and after a single text."""
    whole, plain = backend.encode(FIRST).ids, backend.encode(FIRST, add_special_tokens=False).ids
    at = next(start for start in range(len(whole) - len(plain) + 1) if whole[start : start + len(plain)] == plain)
    return whole[:at], whole[at + len(plain) :]


def with_pairs(rule: dict[str, Any] | None, backend: Tokenizer, between: str) -> dict[str, Any]:
    """Return tokenizer.json's post_processor with a template for pairs, in the tokenizers library's format.

    rule: the current one; its parts other than templates stay. A pair gets the special tokens of a single text around it.
    """
    before, after = ([str(backend.id_to_token(number)) for number in part] for part in _around(backend))
    names = {*before, *after, between}

    def pieces(*parts: str) -> list[dict[str, Any]]:
        kinds = {"A": "Sequence", "B": "Sequence"}
        return [{kinds.get(part, "SpecialToken"): {"id": part, "type_id": 0}} for part in parts]

    template = {
        "type": "TemplateProcessing",
        "single": pieces(*before, "A", *after),
        "pair": pieces(*before, "A", between, "B", *after),
        "special_tokens": {name: {"id": name, "ids": [backend.token_to_id(name)], "tokens": [name]} for name in sorted(names)},
    }
    parts = [] if rule is None else rule["processors"] if rule["type"] == "Sequence" else [rule]
    others = [part for part in parts if part["type"] != "TemplateProcessing"]
    return {"type": "Sequence", "processors": [*others, template]} if others else template
