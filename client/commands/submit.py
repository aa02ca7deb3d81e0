"""lathe submit: one command from a local folder to a job."""

import json as jsonlib
from pathlib import Path
from typing import Annotated, Any

import typer

from client import render
from client.api import Lathe
from client.commands import connect, data
from client.commands.data import pairs
from client.commands.jobs import ended, finish
from client.output import AsJson, emit
from client.types import Preflight


def values(option: str, given: list[str]) -> dict[str, Any]:
    """Read KEY=VALUE where VALUE is JSON; what is no JSON is text (axes=["ffn"], prune=null, importance=l1)."""
    found: dict[str, Any] = {}
    for name, text in pairs(option, given).items():
        try:
            found[name] = jsonlib.loads(text)
        except ValueError:
            found[name] = text
    return found


def override(recipe: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    """Set dotted keys in a recipe: {"prune.ratio": 0.4}. A null stage comes to be; the service checks names and ranges."""
    changed: dict[str, Any] = jsonlib.loads(jsonlib.dumps(recipe))
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


def choose_recipe(lathe: Lathe, given: str, changes: dict[str, Any]) -> str | dict[str, Any]:
    """Return a preset's name, or a whole recipe: from a file, or a preset with changes."""
    file = Path(given)
    if file.suffix == ".json":
        try:
            recipe = jsonlib.loads(file.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise typer.BadParameter(f"{given} cannot be read: {error}", param_hint="--recipe") from error
        if not isinstance(recipe, dict):
            raise typer.BadParameter(f"{given} holds no JSON object", param_hint="--recipe")
        return override(recipe, changes)
    if not changes:
        return given
    presets = {preset.name: preset.recipe for preset in lathe.recipes()}
    if given not in presets:
        raise typer.BadParameter(f"{given!r} is none of: {', '.join(presets)}", param_hint="--recipe")
    return override(presets[given], changes)


def tasks_of(given: list[str], datasets: int) -> list[str]:
    """Say what each local dataset is for: one --task is for all, otherwise there is one for each --data."""
    if len(given) > 1 and len(given) != datasets:
        raise typer.BadParameter(f"{len(given)} tasks for {datasets} datasets", param_hint="--task")
    return given if len(given) > 1 else (given or ["text-classification"]) * datasets


def show_preflight(found: Preflight) -> None:
    """Say what the job would be."""
    lines = []
    if found.shape:
        lines.append("Shape: " + ", ".join(f"{name} {value}" for name, value in found.shape.items()))
    if found.parameters and "total" in found.parameters:
        lines.append(f"Parameters: {render.count(int(found.parameters['total']))}")
    for name, value in found.estimate.items():
        if isinstance(value, int | float):
            text = render.size(int(value)) if name.endswith("bytes") else f"{value:g}"
            lines.append(f"Estimate: {name.removesuffix('_bytes')} {text}")
    lines += [f"Warning: {warning}" for warning in found.warnings]
    emit(found, *lines, "Nothing was submitted. Leave out --dry-run to do so.")


def submit(
    model: Annotated[str, typer.Option(help="A model's id, or a local folder, which is uploaded first.")],
    data_: Annotated[
        list[str],
        typer.Option(
            "--data", help="A dataset's id, or a local file or folder, which is uploaded first. Repeatable: their mean counts."
        ),
    ],
    student: Annotated[
        str | None, typer.Option(help="Train this model in place of the pruned one: an id or a local folder (prune=null).")
    ] = None,
    teacher: Annotated[
        list[str] | None, typer.Option(help="A model tuned on the task that teaches too: an id or a local folder. Repeatable.")
    ] = None,
    recipe: Annotated[str, typer.Option(help="A recipe's name (lathe recipes) or a .json file.")] = "standard",
    set_: Annotated[list[str] | None, typer.Option("--set", help="Change the recipe: prune.ratio=0.4. Repeatable.")] = None,
    target: Annotated[list[str] | None, typer.Option(help="Change a target: retention=0.98. Repeatable.")] = None,
    evaluate: Annotated[list[str] | None, typer.Option(help="Where latency is measured: threads=2. Repeatable.")] = None,
    name: Annotated[str | None, typer.Option(help="The job's name; its model and data where left out.")] = None,
    label: Annotated[list[str] | None, typer.Option(help="KEY=VALUE, to find the job by. Repeatable.")] = None,
    priority: Annotated[int, typer.Option(help="Higher goes first.")] = 0,
    deadline: Annotated[int | None, typer.Option(help="Seconds from now in which the job must be done, or it fails.")] = None,
    text_column: data.TextColumn = "text",
    label_column: data.LabelColumn = "label",
    task: data.Tasks = None,
    column: data.ColumnNames = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Check and estimate only; local folders are uploaded.")] = False,
    wait: Annotated[bool, typer.Option("--wait", help="Wait until the job has ended; exit codes as of `lathe wait`.")] = False,
    timeout: Annotated[float | None, typer.Option(help="With --wait: seconds after which to stop waiting.")] = None,
    json: AsJson = False,  # noqa: ARG001
) -> None:
    """Submit a job: lathe submit --model ./model --data ./data --recipe quick --set prune.ratio=0.4 --wait."""
    body: dict[str, Any] = {
        "labels": pairs("--label", label or []),
        "priority": priority,
        "deadline_seconds": deadline,
    }
    given = {"targets": values("--target", target or []), "evaluate": values("--evaluate", evaluate or [])}
    body |= {key: value for key, value in given.items() if value}
    changes = values("--set", set_ or [])
    with connect() as lathe:
        body["recipe"] = choose_recipe(lathe, recipe, changes)
        models: dict[str, Any] = {"base": data.resolve(lathe, "models", model)}
        if student is not None:
            models["student"] = data.resolve(lathe, "models", student)
        if teacher:
            models["teachers"] = [data.resolve(lathe, "models", place) for place in teacher]
        columns = {"text": text_column, "label": label_column, **pairs("--column", column or [])}
        datasets = [
            data.resolve(lathe, "datasets", place, task=one, columns=columns)
            for place, one in zip(data_, tasks_of(task or [], len(data_)), strict=True)
        ]
        body |= {"models": models, "datasets": datasets, "name": name}
        if dry_run:
            show_preflight(lathe.preflight(body))
            return
        job = lathe.submit(body)
        if wait:
            finish(lathe, ended(lathe, job.id, timeout))
    emit(job, f"{job.id} is {job.state}.", f"Next: lathe wait {job.id}")
