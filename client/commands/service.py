"""lathe recipes, families, workers: what the service can do."""

import json as jsonlib
from typing import Annotated, Any

import typer

from client.commands import connect
from client.errors import ClientError
from client.output import AsJson, emit, table


def recipes(
    name: Annotated[str | None, typer.Argument(help="Show this one in full.")] = None,
    json: AsJson = False,  # noqa: ARG001
) -> None:
    """List the recipes that have a name."""
    with connect() as lathe:
        presets = lathe.recipes()
    if name is None:
        rows = [(preset.name, preset.summary) for preset in presets]
        emit(presets, table(("name", "when"), rows, empty="No recipes."), "In full: lathe recipes NAME")
        return
    found = next((preset for preset in presets if preset.name == name), None)
    if found is None:
        raise ClientError(f"there is no recipe {name!r}", remedy=f"Choose of: {', '.join(preset.name for preset in presets)}")
    emit(found, jsonlib.dumps(found.recipe, indent=2))


def _words(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)


def families(json: AsJson = False) -> None:  # noqa: ARG001
    """List the model families that can be taken apart, and their limits."""
    with connect() as lathe:
        found = list(lathe.pages("/v1/families"))
    lines = []
    for item in found:
        lines.append(str(item.get("name")))
        lines += [f"  {name.replace('_', ' ')}: {_words(value)}" for name, value in item.items() if name != "name"]
    emit(found, *lines)


def workers(json: AsJson = False) -> None:  # noqa: ARG001
    """List the workers, and what waits for them."""
    columns = ("id", "kind", "host", "pid", "alive", "drain", "job", "seen_at")
    with connect() as lathe:
        found, queue = list(lathe.pages("/v1/workers")), lathe.listing("queue")
    rows = [[None if item.get(column) is None else _words(item[column]) for column in columns] for item in found]
    shown = table(columns, rows, empty="No workers. `lathe up` starts some.")
    waiting = ", ".join(f"{name.replace('_', ' ')} {value}" for name, value in queue.items() if isinstance(value, int | float))
    emit({"workers": found, "queue": queue}, shown, f"Queue: {waiting}")
