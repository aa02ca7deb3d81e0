"""The schemas that people read as forms and as comments: every key says what it is for, and no number may be infinite."""

from collections import defaultdict
from collections.abc import Iterator, Mapping
from typing import Any

import pytest
from pydantic import TypeAdapter

from compression.schema.config import Config
from compression.schema.recipe.base import Patience, Rate
from compression.schema.recipe.recipe import JobEvaluate, Recipe, Targets

ALIASES: dict[Any, str] = {Rate: "rate", Patience: "patience"}
"""Types that bring words along, and the name of the keys that these words are enough for."""


def forms(node: Mapping[str, Any], defs: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    """Yield every form that a value may have, with references resolved."""
    if "$ref" in node:
        yield from forms(defs[node["$ref"].rsplit("/", 1)[-1]], defs)
    for option in node.get("anyOf", ()):
        yield from forms(option, defs)
    yield node


def told(schema: Mapping[str, Any], defs: Mapping[str, Any], path: str) -> Iterator[tuple[str, str]]:
    """Yield (path, description) of all properties, those of inner objects too; empty where nothing is said."""
    for name, node in schema.get("properties", {}).items():
        found = list(forms(node, defs))
        # What is said at the key comes last and counts first; else an object's own docstring speaks for it.
        yield f"{path}.{name}", next((form["description"] for form in reversed(found) if form.get("description")), "")
        for form in found:
            yield from told(form, defs, f"{path}.{name}")


@pytest.mark.parametrize("whole", [Recipe, JobEvaluate, Targets])
def test_every_key_says_what_it_is_for_in_words_of_its_own(whole: type[Config]) -> None:
    schema = whole.model_json_schema()
    said = dict(told(schema, schema.get("$defs", {}), whole.__name__))
    assert said
    assert [path for path, words in said.items() if not words] == []
    users: dict[str, set[str]] = defaultdict(set)
    for path, words in said.items():
        users[words].add(path.rsplit(".", 1)[-1])
    assert {words: names for words, names in users.items() if len(names) > 1} == {}
    for alias, name in ALIASES.items():
        assert users[TypeAdapter(alias).json_schema()["description"]] <= {name}


def unbounded(node: Mapping[str, Any], defs: Mapping[str, Any], path: str) -> Iterator[str]:
    """Yield the paths of numbers without an upper bound."""
    for form in forms(node, defs):
        if form.get("type") == "number" and not {"maximum", "exclusiveMaximum"} & form.keys():
            yield path
        for name, inner in form.get("properties", {}).items():
            yield from unbounded(inner, defs, f"{path}.{name}")
        for inner in (form.get("items"), *form.get("prefixItems", ())):
            yield from unbounded(inner, defs, path) if inner else ()


@pytest.mark.parametrize("whole", [Recipe, JobEvaluate, Targets])
def test_every_number_has_an_upper_bound_for_json_may_say_1e400(whole: type[Config]) -> None:
    schema = whole.model_json_schema()
    assert list(unbounded(schema, schema.get("$defs", {}), whole.__name__)) == []
    with pytest.raises(ValueError, match="less than or equal to"):
        Recipe.model_validate_json('{"prune": {"target_params": 1e400}}')
