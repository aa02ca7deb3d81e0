"""What hubs write into a Parquet file's schema about its columns: the names of classes that numbers stand for. Torch-free."""

import json
from typing import Any

import pyarrow as arrow

HUB = b"huggingface"
"""Key of a schema's metadata under which hubs describe the columns."""


def class_names(schema: arrow.Schema, column: str) -> tuple[str, ...]:
    """Return the names of the classes of a column, or of the items of its lists, by number; none if the file has none."""
    try:
        feature = json.loads((schema.metadata or {})[HUB])["info"]["features"][column]
    except (KeyError, TypeError, ValueError):
        return ()
    names = _of_items(feature).get("names")
    return tuple(names) if isinstance(names, list) and all(isinstance(name, str) for name in names) else ()


def _of_items(feature: Any) -> dict[str, Any]:
    """Return what describes the items of a list, which versions of the datasets library write in three ways; or the value."""
    if isinstance(feature, list) and feature:
        feature = feature[0]
    elif isinstance(feature, dict) and "feature" in feature:
        feature = feature["feature"]
    return feature if isinstance(feature, dict) else {}
