"""Writes a tokenizer's files with fewer tokens and the new ids everywhere."""

import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from compression.modalities.text.vocabulary.required_tokens import Spec, merged, pair, tokens_of


def trimmed(spec: Spec, kept: Sequence[int]) -> dict[str, Any]:
    """Return a tokenizer.json with only the tokens `kept`, in the order of their new ids, and the merges of kept parts."""
    new_ids = {old: new for new, old in enumerate(kept)}
    tokens, model = tokens_of(spec), dict(spec["model"])
    if model["type"] == "Unigram":
        model["vocab"] = [entry for number, entry in enumerate(model["vocab"]) if number in new_ids]
        if model.get("unk_id") is not None:
            model["unk_id"] = new_ids[model["unk_id"]]
    else:
        known = {token: new_ids[number] for token, number in model["vocab"].items() if number in new_ids}
        model["vocab"] = dict(sorted(known.items(), key=lambda entry: entry[1]))
    if "merges" in model:
        stays = {token for token, number in tokens.items() if number in new_ids}
        model["merges"] = [merge for merge in model["merges"] if {*pair(merge), merged(*pair(merge), model)} <= stays]
    out = {**spec, "model": model}
    out["added_tokens"] = [{**token, "id": new_ids[token["id"]]} for token in spec.get("added_tokens") or ()]
    if spec.get("post_processor"):
        out["post_processor"] = _renumbered(spec["post_processor"], new_ids)
    if spec.get("padding"):
        out["padding"] = {**spec["padding"], "pad_id": new_ids[spec["padding"]["pad_id"]]}
    return out


def _renumbered(processor: Mapping[str, Any], new_ids: Mapping[int, int]) -> dict[str, Any]:
    out = dict(processor)
    if "processors" in out:
        out["processors"] = [_renumbered(each, new_ids) for each in out["processors"]]
    for end in ("sep", "cls"):  # of the processors of BERT and RoBERTa
        if isinstance(out.get(end), list | tuple):
            out[end] = [out[end][0], new_ids[out[end][1]]]
    if isinstance(out.get("special_tokens"), Mapping):
        out["special_tokens"] = {
            name: {**token, "ids": [new_ids[number] for number in token["ids"]]}
            for name, token in out["special_tokens"].items()
        }
    return out


def write(source: Path, folder: Path, kept: Sequence[int]) -> None:
    """Write the tokenizer of `source` with only the tokens `kept`; lists other than vocab.txt are in tokenizer.json."""
    folder.mkdir(parents=True, exist_ok=True)
    spec = trimmed(json.loads((source / "tokenizer.json").read_text("utf-8")), kept)
    (folder / "tokenizer.json").write_text(json.dumps(spec, ensure_ascii=False), "utf-8")
    new_ids = {str(old): str(new) for new, old in enumerate(kept)}
    path = source / "tokenizer_config.json"
    if path.is_file():
        settings = json.loads(path.read_text("utf-8"))
        if isinstance(added := settings.get("added_tokens_decoder"), dict):
            settings["added_tokens_decoder"] = {new_ids[old]: token for old, token in added.items() if old in new_ids}
        (folder / path.name).write_text(json.dumps(settings, indent=2, ensure_ascii=False) + "\n", "utf-8")
    if (source / "special_tokens_map.json").is_file():
        shutil.copyfile(source / "special_tokens_map.json", folder / "special_tokens_map.json")
    if (source / "vocab.txt").is_file():
        names = sorted(tokens_of(spec).items(), key=lambda entry: entry[1])
        (folder / "vocab.txt").write_text("".join(f"{token}\n" for token, _ in names), "utf-8")
