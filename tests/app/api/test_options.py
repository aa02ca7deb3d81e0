"""Every key of a recipe can be sent over HTTP, comes back as it was sent, and the schema says what it is for."""

import json
from collections.abc import Iterator
from typing import Any

import httpx

from tests.app.api.conftest import Json

# Not all can stand together, so there are several; and no value is the default of its key.
RECIPES: list[Json] = json.loads("""
[{"version": 1,
  "prepare": {"epochs": 7, "rate": 3e-5, "patience": 4},
  "quantize": {
    "scheme": "static-int8", "portable": false, "symmetric": true, "observer": "percentile", "percentile": 99.5,
    "calibration_rows": 64, "smoothing": "search",
    "qat": {"full": 2, "ramp": 3, "quantized": 4, "rate": 7e-5, "order": "depth"}},
  "prune": {
    "ratio": {"hidden": 0.25, "heads": 0.25, "ffn": 0.45, "layers": 0.35, "vocabulary": 0.5}, "target_params": 0.4,
    "axes": ["hidden", "heads", "ffn", "layers", "vocabulary"], "steps": 2, "importance": "taylor", "multiple": 32,
    "calibration_rows": 128, "reconstruct": true, "sensitivity": true,
    "recovery": {"epochs": 6, "rate": 2e-5, "shallow_first": false, "adapt_l2": false, "patience": 3, "by": "teacher"}},
  "distill": {
    "epochs": 9, "rate": 9e-5, "temperature": 4.0, "soft": 0.7, "hard": 0.2, "hidden": 2.0, "attention": 0.6, "embedding": 0.4,
    "attention_by": "relations", "layers": [[1, 2], [2, 4]], "weighting": "linear", "patience": 5,
    "to": {"soft": 1.5, "hard": 0.6, "hidden": 0.1, "attention": 0.3, "embedding": 0.05},
    "teachers": {"seeds": 3, "fusion": "validation", "precision": "int8"}, "kept": 64, "spill_gib": 1.5,
    "general": {
      "epochs": 5, "rate": 8e-5, "teacher": "base", "hidden": 0.9, "attention": 0.8, "embedding": 0.7, "patience": 2},
    "augment": {
      "copies": 3, "synonyms": {"source": "masked-lm", "share": 0.2, "candidates": 7, "model": "bert"},
      "back_translation": {"models": ["there", "back"]}, "splices": 4}},
  "train": {
    "batch": 24, "micro_batch": 6, "accumulate": 3, "max_length": 96, "seed": 5, "warmup": 0.05, "decay": 0.02,
    "optimizer": "adamw-8bit", "compile": "on", "precision": "float32", "checkpointing": "on",
    "max_steps": 4000, "max_minutes": 30.5},
  "artifacts": ["onnx"]},
 {"quantize": {"scheme": "weight-only-int4", "group_size": 64},
  "prune": {
    "ratio": {"experts": 0.4, "expert_ffn": 0.2, "query_rank": 0.15, "kv_rank": 0.1},
    "axes": ["experts", "expert_ffn", "query_rank", "kv_rank"], "target_latency": {"speed_up": 3.5}},
  "distill": {"augment": {"synonyms": null, "back_translation": {"apertium": "eng-spa", "optional": true}}}},
 {"prune": {
    "ratio": {"channels": 0.3}, "axes": ["channels"], "refresh_statistics": false, "stock": true, "target_flops": 0.4},
  "train": {"views": {"crop": 4, "flip": true, "rand_augment": 5, "mixup": 0.3}}},
 {"quantize": {"scheme": "auto"},
  "prune": {"multiple": "auto", "search": "rl", "search_budget": {"evaluations": 300, "seconds": 45.5}},
  "train": {"devices": 4}},
 {"prune": {"ratio": 0.4, "target_latency": {"milliseconds": 2.5}}, "train": {"views": {"area": 0.3}}},
 {"prune": {"search": "solver"},
  "auto": {"budget_minutes": 45.5, "confidence": 0.9, "objective": "latency", "rounds": 3, "steps": 150}},
 {"prune": {"search": "solver", "points": 4, "target_params": 0.5, "target_bytes": 0.6, "free_widths": true}},
 {"prune": {"search": "solver", "finalists": {"cuts": 2, "steps": 150}}},
 {"quantize": {"scheme": "weight-only-int4"}, "prune": {"search": "solver", "target_bytes": 0.3, "mixed_bits": true}}]
""")


def leaves(schema: Json, node: Json, path: str = "") -> Iterator[tuple[str, bool]]:
    """Yield the path of each key that has no keys itself, and whether the schema says a word of it."""
    described = "description" in node
    if "$ref" in node:
        node = schema["$defs"][node["$ref"].rsplit("/", 1)[-1]]
    named = [option for option in node.get("anyOf", []) if "$ref" in option]
    for option in named:
        yield from leaves(schema, option, path)
    if "properties" in node:
        for key, value in node["properties"].items():
            yield from leaves(schema, value, f"{path}.{key}".lstrip("."))
    elif not named:
        yield path, described or "description" in node


def values(sent: Json, path: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in sent.items():
        place = f"{path}.{key}".lstrip(".")
        if isinstance(value, dict):
            yield from values(value, place)
        else:
            yield place, value


def at(found: Any, path: str) -> Any:
    for key in path.split("."):
        found = found[key]
    return found


def test_every_key_of_a_recipe_comes_back_as_it_was_sent(http: httpx.Client) -> None:
    schema = http.get("/v1/recipes").json()["schema"]
    told = dict(leaves(schema, schema))
    plain = http.post("/v1/recipes/check", json={}).json()["recipe"]
    sent: set[str] = set()
    for recipe in RECIPES:
        answer = http.post("/v1/recipes/check", json=recipe)
        assert answer.status_code == 200, answer.text
        for path, value in values(recipe):
            assert at(answer.json()["recipe"], path) == value, path
            try:
                usual = at(plain, path)
            except (KeyError, TypeError):
                usual = None  # of a part that is not there by default
            if value is not None and (value != usual or path == "version"):
                sent.add(path)
    assert {*told, "prune.ratio"} == sent, "a key that no recipe above sends, or that does not differ from its default"
    assert [path for path, described in told.items() if not described] == []
