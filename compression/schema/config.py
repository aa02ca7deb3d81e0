"""Frozen data models that reject unknown keys: the base of recipes, jobs, events, reports and of installed packages' models."""

import json
from typing import Any

from pydantic import BaseModel, ConfigDict, GetCoreSchemaHandler
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


class Config(BaseModel):
    """A frozen data model that rejects unknown keys, and strings or booleans as numbers.

    A field is described by `Field(description=…)` if that fits its line, else by the docstring below it.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    @classmethod
    def __get_pydantic_core_schema__(cls, source: type[BaseModel], handler: GetCoreSchemaHandler) -> CoreSchema:
        """Make the number fields reject strings and booleans, and put each field's docstring on one line: its description."""
        for field in cls.__pydantic_fields__.values():
            field.description = field.description and " ".join(field.description.split())
        made: CoreSchema = guard_numbers(handler(source))
        return made
