"""Recipes as files: JSON in which a line that begins with // is a comment. Writes such a file from a schema."""

import json
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from client.errors import BadRecipe
from compression.schema.recipe.prune import USUAL_AXES

SUFFIXES = (".json", ".jsonc")
WIDTH = 100
"""Columns of a comment, its indentation included."""
Schema = Mapping[str, Any]


def is_file(given: str) -> bool:
    """Return whether a recipe is given by a file's path, not by a name."""
    return Path(given).suffix in SUFFIXES


def parse(text: str) -> Any:
    """Read JSON with comments. No string of JSON spans lines, so a line that begins with // is never within one."""
    return json.loads("\n".join("" if line.lstrip().startswith("//") else line for line in text.splitlines()))


def read(path: str | Path) -> dict[str, Any]:
    """Read a recipe's file, which the service checks. Raises BadRecipe."""
    try:
        found = parse(Path(path).read_text(encoding="utf-8"))
    except json.JSONDecodeError as error:
        raise BadRecipe(f"{path}, line {error.lineno}, column {error.colno}: {error.msg}") from error
    except (OSError, ValueError) as error:
        raise BadRecipe(f"{path} cannot be read: {error}") from error
    if not isinstance(found, dict):
        raise BadRecipe(f"{path} holds no JSON object")
    return found


def override(recipe: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """Set dotted keys in a copy: {"prune.ratio": 0.4}. A null stage is created; the service checks names and ranges."""
    changed: dict[str, Any] = json.loads(json.dumps(recipe))
    for path, value in changes.items():
        *parents, last = path.split(".")
        place = changed
        for parent in parents:
            inner = place.get(parent)
            if not isinstance(inner, dict):
                inner = place[parent] = {}
            place = inner
        place[last] = value
    return changed


def without_usual_axes(recipe: Mapping[str, Any]) -> dict[str, Any]:
    """Return a recipe that leaves the axes of its cut to the model, unless it names others than the usual ones.

    Named, they would be cut as they are: a preset does not name them, so a network of images has usual axes of its own.
    """
    cut = recipe.get("prune") or {}
    usual = cut.get("axes") == list(USUAL_AXES)
    return {**recipe, "prune": {key: value for key, value in cut.items() if key != "axes"}} if usual else dict(recipe)


def different(sides: Sequence[Any], path: str = "") -> Iterator[tuple[str, list[Any]]]:
    """Yield (dotted key, each side's value) for keys whose values differ; a stage that one side skips is one key."""
    if all(isinstance(side, Mapping) for side in sides):
        for name in dict.fromkeys(name for side in sides for name in side):
            yield from different([side.get(name) for side in sides], f"{path}.{name}" if path else str(name))
    elif any(side != sides[0] for side in sides):
        yield path, list(sides)


def as_text(value: Any) -> str:
    """Return a recipe's value as text; a whole stage is abbreviated."""
    return "{…}" if isinstance(value, Mapping) and value else json.dumps(value, ensure_ascii=False)


def changes(before: Mapping[str, Any], after: Mapping[str, Any]) -> list[str]:
    """Return the changes of a recipe as lines: prune.ratio: 0.3 → 0.4."""
    return [f"{key}: {as_text(old)} → {as_text(new)}" for key, (old, new) in different([before, after])]


def _forms(node: Schema, defs: Schema) -> list[Schema]:
    """Resolve references; return the forms that a value may have."""
    if reference := node.get("$ref"):
        named = defs[str(reference).rsplit("/", 1)[-1]]
        return _forms({**named, **{name: value for name, value in node.items() if name != "$ref"}}, defs)
    if options := node.get("anyOf"):
        return [form for option in options for form in _forms(option, defs)]
    return [node]


def _fields(value: Any, forms: list[Schema]) -> Schema:
    """Return the properties of the form that an object has."""
    for form in forms:
        if "properties" in form and set(value) <= set(form["properties"]):
            found: Schema = form["properties"]
            return found
    return {}


def _range(form: Schema) -> str:
    low = f"{form['minimum']:g} or more" if "minimum" in form else ""
    low = low or (f"above {form['exclusiveMinimum']:g}" if "exclusiveMinimum" in form else "")
    high = f"{form['maximum']:g} at most" if "maximum" in form else ""
    high = high or (f"below {form['exclusiveMaximum']:g}" if "exclusiveMaximum" in form else "")
    return ", ".join(part for part in (low, high) if part)


def _choices(forms: list[Schema]) -> str:
    """Return the permitted values: names, a range, null."""
    found = []
    for form in forms:
        if "enum" in form:
            found.append(" | ".join(json.dumps(name) for name in form["enum"]))
        elif form.get("type") == "array" and "enum" in form.get("items", {}):
            found.append("a list of " + " | ".join(json.dumps(name) for name in form["items"]["enum"]))
        elif form.get("type") in ("integer", "number"):
            found.append(_range(form))
        elif form.get("type") == "null":
            found.append("null")
    text = " or ".join(part for part in found if part)
    return "or null" if text == "null" else text  # a whole stage


def _about(node: Schema, forms: list[Schema]) -> str:
    """Return a key's description and its permitted values. Of a class's docstring only the first paragraph counts."""
    text = str(node.get("description") or next((form["description"] for form in forms if form.get("description")), ""))
    text = " ".join(text.split("\n\n")[0].split())
    choices = _choices(forms)
    return f"{text} [{choices}]".strip() if choices else text


def _lines(value: Any, forms: list[Schema], defs: Schema, indent: str) -> Iterator[str]:
    fields, begin = _fields(value, forms), f"{indent}// "
    for number, (name, inner) in enumerate(value.items()):
        node = fields.get(name, {})
        inner_forms = _forms(node, defs)
        if about := _about(node, inner_forms):
            yield from textwrap.wrap(about, WIDTH, initial_indent=begin, subsequent_indent=begin, break_on_hyphens=False)
        comma = "," if number < len(value) - 1 else ""
        if isinstance(inner, Mapping) and inner:
            yield f"{indent}{json.dumps(name)}: {{"
            yield from _lines(inner, inner_forms, defs, indent + "  ")
            yield f"{indent}}}{comma}"
        else:
            yield f"{indent}{json.dumps(name)}: {json.dumps(inner)}{comma}"


def commented(recipe: Mapping[str, Any], schema: Schema, *title: str) -> str:
    """Return a recipe with a comment above each key: its description and its permitted values."""
    head = [f"// {line}" for line in title]
    return "\n".join([*head, "{", *_lines(recipe, [schema], schema.get("$defs", {}), "  "), "}"]) + "\n"
