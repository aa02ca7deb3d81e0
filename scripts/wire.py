"""Rewrite tests/golden/: what Lathe writes to disk and sends on the wire, one line per key.

A document's lines name places in it and what stands there (`rows[].score.value: number`), so that a change of code that moves,
renames or retypes a key shows as a line that moved. Words for people (titles, descriptions) and names of classes are left out.
"""

import argparse
import json
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, get_args

from pydantic import BaseModel

from app.main import app
from app.store.models import EventType
from compression.engine.checkpoints import StageCheckpoint, fingerprint_facts
from compression.schema.events import parse_event
from compression.schema.job_spec import Spec
from compression.schema.recipe.recipe import Recipe
from compression.schema.report.before import Before
from compression.schema.report.report import Report
from compression.schema.solved_search import SolvedSearch, TablesCheckpoint
from compression.training.save import TrainingCheckpoint

GOLDEN = Path(__file__).parents[1] / "tests" / "golden"
BOUNDS = (
    *("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "minLength", "maxLength", "minItems", "maxItems"),
    *("pattern", "format", "uniqueItems"),
)
METHODS = ("get", "put", "post", "patch", "delete", "head")


def walk(schema: Any, place: str, whole: dict[str, Any], within: tuple[str, ...] = ()) -> Iterator[str]:
    """Yield the lines of a JSON schema that lies at a place; whole: the document that its references point into."""
    if not isinstance(schema, dict):
        return
    if reference := schema.get("$ref"):
        if reference in within:
            yield f"{place}: again"
            return
        found: Any = whole
        for step in reference.removeprefix("#/").split("/"):
            found = found[step]
        yield from walk(found, place, whole, (*within, reference))
    for each in (each for kind in ("anyOf", "oneOf", "allOf") for each in schema.get(kind, ())):
        yield from walk(each, place, whole, within)
    if "default" in schema:
        yield f"{place} = {json.dumps(schema['default'], sort_keys=True)}"
    if choices := schema.get("enum", [schema["const"]] if "const" in schema else None):
        yield f"{place}: {' | '.join(sorted(json.dumps(each) for each in choices))}"
    elif kind := schema.get("type"):
        yield f"{place}: {' '.join([kind, *(f'{name}={schema[name]}' for name in BOUNDS if name in schema)])}"
    yield from _below(schema, place, whole, within)


def _below(schema: dict[str, Any], place: str, whole: dict[str, Any], within: tuple[str, ...]) -> Iterator[str]:
    for name, each in schema.get("properties", {}).items():
        yield from walk(each, f"{place}.{name}{'' if name in schema.get('required', ()) else '?'}", whole, within)
    yield from walk(schema.get("additionalProperties"), f"{place}.*", whole, within)
    yield from walk(schema.get("items"), f"{place}[]", whole, within)
    for number, each in enumerate(schema.get("prefixItems", ())):
        yield from walk(each, f"{place}[{number}]", whole, within)


def model(kind: type[BaseModel]) -> list[str]:
    """Return the lines of a model that is written to disk."""
    schema = kind.model_json_schema(mode="serialization")
    return sorted(set(walk(schema, "", schema)))


def events() -> list[str]:
    """Return the lines of what the engine writes to its pipe, each after its event's type."""
    schema = parse_event.json_schema(mode="serialization")
    kinds = schema["discriminator"]["mapping"]
    return sorted({line for name, reference in kinds.items() for line in walk({"$ref": reference}, name, schema)})


def paths() -> list[str]:
    """Return the lines of the OpenAPI document: what each route takes, and what it answers with each status."""
    whole = app.openapi()
    found: set[str] = set()
    for path, routes in whole["paths"].items():
        for method in (each for each in METHODS if each in routes):
            found.update(_operation(f"{method.upper()} {path}", routes[method], whole))
    return sorted(found)


def _operation(name: str, route: dict[str, Any], whole: dict[str, Any]) -> Iterator[str]:
    yield f"{name} = {route['operationId']}"
    for each in route.get("parameters", ()):
        yield from walk(each["schema"], f"{name} {each['in']} {each['name']}{'' if each.get('required') else '?'}", whole)
    for media, each in route.get("requestBody", {}).get("content", {}).items():
        yield from walk(each["schema"], f"{name} takes {media} ", whole)
    for status, answer in route["responses"].items():
        if "$ref" in answer:
            answer = whole["components"]["responses"][answer["$ref"].rsplit("/", 1)[1]]
        yield f"{name} {status} headers: {' '.join(sorted(answer.get('headers', {})))}"
        if codes := answer.get("x-problems"):
            yield f"{name} {status} codes: {' '.join(sorted(codes))}"
            continue
        for media, each in answer.get("content", {}).items():
            yield from walk(each.get("schema"), f"{name} {status} {media} ", whole)


def fingerprints() -> list[str]:
    """Return the lines of the inputs of stages' fingerprints, for a job with every option."""
    with tempfile.TemporaryDirectory() as place:
        base = Path(place)
        for name in ("model/config.json", "teacher/config.json", "train.jsonl", "validation.jsonl", "test.jsonl", "more.jsonl"):
            (base / name).parent.mkdir(exist_ok=True)
            (base / name).write_text("{}\n", encoding="utf-8")
        splits = {name: [f"{name}.jsonl"] for name in ("train", "validation", "test")} | {"unlabelled": ["more.jsonl"]}
        asked = {
            "output": "out",
            "task": "text-classification",
            "model": "model",
            "teachers": ["teacher"],
            "data": {"format": "jsonl", "splits": splits},
            "recipe": {"prune": {"recovery": {"by": "teacher"}}, "distill": {}},
        }
        facts = fingerprint_facts(Spec.model_validate(asked), base)
    return sorted({line for stage, each in facts.items() for line in _values(each, stage)})


def _values(value: Any, place: str) -> Iterator[str]:
    if isinstance(value, dict):
        for name, each in value.items():
            yield from _values(each, f"{place}.{name}")
    elif isinstance(value, list | tuple):
        for each in value:
            yield from _values(each, f"{place}[]")
    else:
        yield f"{place}: {type(value).__name__}"


DOCUMENTS: dict[str, Callable[[], list[str]]] = {
    "recipe": lambda: model(Recipe),
    "job_spec": lambda: model(Spec),
    "report": lambda: model(Report),
    "before": lambda: model(Before),
    "engine_events": events,
    "job_events": lambda: sorted(get_args(EventType)),
    "stage_checkpoint": lambda: model(StageCheckpoint),
    "fingerprints": fingerprints,
    "tables_checkpoint": lambda: model(TablesCheckpoint),
    "solved_search": lambda: model(SolvedSearch),
    "training_save": lambda: model(TrainingCheckpoint),
    "openapi": paths,
}
"""Name of the file in tests/golden → its lines as they are now."""


def text(name: str) -> str:
    """Return a document's lines as its file has them."""
    return "\n".join(DOCUMENTS[name]()) + "\n"


if __name__ == "__main__":
    argparse.ArgumentParser(prog="python -m scripts.wire", description=__doc__).parse_args()
    GOLDEN.mkdir(exist_ok=True)
    for each in DOCUMENTS:
        (GOLDEN / f"{each}.txt").write_text(text(each), encoding="utf-8")
