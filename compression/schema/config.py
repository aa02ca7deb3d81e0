"""Frozen data models that reject unknown keys: the base of recipes, jobs, events, reports and of installed packages' models."""

import ast
import inspect
import json
import sys
from functools import cache
from typing import Any

from pydantic import BaseModel, ConfigDict, GetCoreSchemaHandler, GetJsonSchemaHandler
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema, core_schema


def _refuse_converting(value: object) -> object:
    if isinstance(value, bool | str):
        raise ValueError(f"must be a number, not {json.dumps(value)}")
    return value


def guard_numbers(schema: Any) -> Any:
    """Make a model's schema reject `"7"` and `true` as numbers, which pydantic would convert."""
    if schema["type"] in {"int", "float"}:
        return core_schema.no_info_before_validator_function(_refuse_converting, schema)
    for key in ("schema", "items_schema"):
        if isinstance(schema.get(key), dict):
            schema[key] = guard_numbers(schema[key])
    for field in schema["fields"].values() if schema["type"] == "model-fields" else ():
        field["schema"] = guard_numbers(field["schema"])
    return schema


@cache
def attribute_docstrings(module: str) -> dict[str, dict[str, str]]:
    """Return the docstrings below the attributes of a module's classes, on one line each, by the classes' names. None are found
    where there is no source.
    """
    found: dict[str, dict[str, str]] = {}
    try:
        source = inspect.getsource(sys.modules[module])
    except (KeyError, OSError, TypeError):
        return found
    waiting = [("", ast.parse(source).body)]
    while waiting:
        outer, body = waiting.pop()
        texts = found.setdefault(outer.removesuffix("."), {})
        for one, after in zip(body, [*body[1:], None], strict=True):
            match one, after:
                case ast.ClassDef(name=name, body=inner), _:
                    waiting.append((f"{outer}{name}.", inner))
                case ast.AnnAssign(target=ast.Name(id=name)), ast.Expr(value=ast.Constant(value=str(text))):
                    texts[name] = " ".join(text.split())
    return found


class Config(BaseModel):
    """A frozen data model that rejects unknown keys, and strings or booleans as numbers.

    A field is described by `Field(description=…)` if that fits its line, else by the docstring below it.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    @classmethod
    def __get_pydantic_core_schema__(cls, source: type[BaseModel], handler: GetCoreSchemaHandler) -> CoreSchema:
        """Make the number fields reject strings and booleans."""
        made: CoreSchema = guard_numbers(handler(source))
        return made

    @classmethod
    def __get_pydantic_json_schema__(cls, schema: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        """Describe the fields by their docstrings, which are read when somebody asks: a start would wait for all of them."""
        made = handler(schema)
        fields = handler.resolve_ref_schema(made).get("properties", {})
        texts: dict[str, str] = {}
        for base in reversed(cls.__mro__):
            own = attribute_docstrings(base.__module__).get(base.__qualname__, {}) if issubclass(base, Config) else {}
            texts |= {name: own.get(name, "") for name in inspect.get_annotations(base)}
        for name, field in fields.items():
            if text := texts.get(name):
                field.setdefault("description", text)
        return made
