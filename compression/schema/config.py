"""Frozen data that refuses unknown keys: the base of recipes, jobs, events and reports, and of what installed packages add."""

import json
from typing import Any

from pydantic import BaseModel, ConfigDict, GetCoreSchemaHandler
from pydantic_core import CoreSchema, core_schema


def _refuse_converting(value: object) -> object:
    if isinstance(value, bool | str):
        raise ValueError(f"must be a number, not {json.dumps(value)}")
    return value


def guard_numbers(schema: Any) -> Any:
    """Make a model's schema refuse `"7"` and `true` in the place of a number, which pydantic would convert."""
    if schema["type"] in {"int", "float"}:
        return core_schema.no_info_before_validator_function(_refuse_converting, schema)
    for key in ("schema", "items_schema"):
        if isinstance(schema.get(key), dict):
            schema[key] = guard_numbers(schema[key])
    for field in schema["fields"].values() if schema["type"] == "model-fields" else ():
        field["schema"] = guard_numbers(field["schema"])
    return schema


class Config(BaseModel):
    """Frozen data that refuses unknown keys, and numbers that are none."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    @classmethod
    def __get_pydantic_core_schema__(cls, source: type[BaseModel], handler: GetCoreSchemaHandler) -> CoreSchema:
        """Guard the numbers among the fields."""
        made: CoreSchema = guard_numbers(handler(source))
        return made
