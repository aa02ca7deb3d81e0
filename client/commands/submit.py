"""lathe submit: creates a job from ids or local folders."""

import json as jsonlib
from pathlib import Path
from typing import Annotated, Any

import typer

from client import recipes
from client.api import Lathe
from client.commands import data, recipe
from client.commands.completion import dataset_ids, model_ids, recipe_names
from client.commands.data import pairs
from client.commands.jobs import ended, finish
from client.terminal import render
from client.terminal.output import emit
from compression.schema.worker_device import WantedDevice


def values(option: str, given: list[str]) -> dict[str, Any]:
    """Parse KEY=VALUE with VALUE as JSON, else as text (axes=["ffn"], prune=null, importance=l1)."""
    found: dict[str, Any] = {}
    for name, text in pairs(option, given).items():
        try:
            found[name] = jsonlib.loads(text)
        except ValueError:
            found[name] = text
    return found


def targets(given: list[str]) -> dict[str, Any]:
    """Parse --target; latency_ms=120 is a latency on the worker, latency_ms=120@jetson on a device; quality_gate=0.008 is the
    most that the score may drop, at the usual confidence.
    """
    found = values("--target", given)
    if isinstance(gate := found.get("quality_gate"), int | float):
        found["quality_gate"] = {"max_drop": gate}
    latency = found.get("latency_ms")
    if isinstance(latency, int | float):
        found["latency_ms"] = {"value": latency}
    elif isinstance(latency, str) and "@" in latency:
        number, _, device = latency.partition("@")
        found["latency_ms"] = {"value": values("--target", [f"value={number}"])["value"], "device": device}
    return found


def evaluation(given: list[str]) -> dict[str, Any]:
    """Parse --evaluate; devices=pi,jetson is a list of names."""
    found = values("--evaluate", given)
    if isinstance(found.get("devices"), str):
        found["devices"] = found["devices"].split(",")
    return found


def check_devices(lathe: Lathe, names: list[str]) -> None:
    """Refuse a device that the team does not have, before anything is uploaded. Raises BadParameter."""
    known = [device.name for device in lathe.devices()]
    for name in names:
        if name not in known:
            raise typer.BadParameter(f"no device {name!r}; the team has {', '.join(known) or 'none'}", param_hint="--evaluate")


def choose_recipe(lathe: Lathe, given: str, changes: dict[str, Any]) -> str | dict[str, Any]:
    """Return a preset's name, a preset with changes, or a file's recipe with them. Raises BadRecipe.

    Only the service knows a preset's defaults for a task, so a preset is sent by its name.
    """
    if recipes.is_file(given):
        return recipes.override(recipes.read(given), changes)
    name = recipe.preset(lathe.recipes(), given).name
    return recipes.override({"preset": name}, changes) if changes else name


def tasks_of(given: list[str], datasets: int) -> list[str]:
    """Return the task of each local dataset: one --task is for all, otherwise there is one for each --data."""
    if len(given) > 1 and len(given) != datasets:
        raise typer.BadParameter(f"{len(given)} tasks for {datasets} datasets", param_hint="--task")
    return given if len(given) > 1 else (given or ["text-classification"]) * datasets


Model = Annotated[str, typer.Option(help="A model's id, or a local folder, which is uploaded first.", autocompletion=model_ids)]
DATA_HELP = "A dataset's id, or a local file or folder, which is uploaded first. Repeatable: their mean counts."
Datasets = Annotated[list[str], typer.Option("--data", help=DATA_HELP, autocompletion=dataset_ids)]
STUDENT_HELP = "Train this model in place of the pruned one: an id or a local folder (prune=null)."
TEACHER_HELP = "A model tuned on the task that teaches too: an id or a local folder. Repeatable."
RECIPE_HELP = "A recipe's name (lathe recipe ls) or a file (lathe recipe init)."
RecipeName = Annotated[str, typer.Option("--recipe", help=RECIPE_HELP, autocompletion=recipe_names)]
TARGET_HELP = (
    "Change a target: retention=0.98, parameters=1.5e9, score=74.3, latency_ms=120@jetson, quality_gate=0.008. Repeatable."
)
EVALUATE_HELP = (
    'The score\'s metric, for all datasets (metric=f1) or one for each (metric=\'["f1", "auto"]\'), and where latency is '
    "measured (threads=2). Repeatable."
)
BUDGET_HELP = "Of the recipe auto: minutes of the whole job, in which it looks for the smallest size that keeps the target."
KEY_HELP = "Any text of your own: the same command with it again finds the same job."


def refuse_of_uploads(given: dict[str, Any]) -> None:
    """Raise BadParameter if one of these options is given: what is uploaded already has its task and columns."""
    for option, value in given.items():
        if value and value not in ("text", "label"):
            cause = "the datasets are uploaded, and have their task and columns: leave it out, or name a folder or file"
            raise typer.BadParameter(cause, param_hint=option)


def submit(  # noqa: PLR0913 (Typer makes an option of each)
    lathe: Lathe,
    model: Model,
    data_: Datasets,
    student: Annotated[str | None, typer.Option(help=STUDENT_HELP)] = None,
    teacher: Annotated[list[str] | None, typer.Option(help=TEACHER_HELP)] = None,
    recipe_: RecipeName = "standard",
    set_: Annotated[list[str] | None, typer.Option("--set", help="Change the recipe: prune.ratio=0.4. Repeatable.")] = None,
    target: Annotated[list[str] | None, typer.Option(help=TARGET_HELP)] = None,
    budget_minutes: Annotated[float | None, typer.Option(help=BUDGET_HELP)] = None,
    evaluate: Annotated[list[str] | None, typer.Option(help=EVALUATE_HELP)] = None,
    name: Annotated[str | None, typer.Option(help="The job's name; by default its model and data.")] = None,
    label: Annotated[list[str] | None, typer.Option(help="KEY=VALUE, to find the job by. Repeatable.")] = None,
    device: Annotated[WantedDevice, typer.Option(help="Which workers may take it: with a GPU (cuda), or on the CPU.")] = "any",
    priority: Annotated[int, typer.Option(help="Higher goes first, of your team's jobs.")] = 0,
    deadline: Annotated[int | None, typer.Option(help="Seconds from now in which the job must be done, or it fails.")] = None,
    idempotency_key: Annotated[str | None, typer.Option(help=KEY_HELP)] = None,
    text_column: data.TextColumn = "text",
    label_column: data.LabelColumn = "label",
    task: data.Tasks = None,
    column: data.ColumnNames = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Check and estimate only; local folders are uploaded.")] = False,
    wait: Annotated[bool, typer.Option("--wait", help="Wait until the job has ended; exit codes as of `lathe wait`.")] = False,
    timeout: Annotated[float | None, typer.Option(help="With --wait: seconds after which to stop waiting.")] = None,
) -> None:
    """Submit a job: lathe submit --model ./model --data ./data --recipe quick --set prune.ratio=0.4 --wait."""
    if timeout is not None and not wait:
        raise typer.BadParameter("it is of --wait: add it, or leave this out", param_hint="--timeout")
    body: dict[str, Any] = {"labels": pairs("--label", label or []), "priority": priority, "deadline_seconds": deadline}
    given = {"targets": targets(target or []), "evaluate": evaluation(evaluate or [])}
    body |= {"name": name, "device": device} | {key: value for key, value in given.items() if value}
    if budget_minutes is not None:
        body["budget_minutes"] = budget_minutes
    changes, columns = (
        values("--set", set_ or []),
        {"text": text_column, "label": label_column, **pairs("--column", column or [])},
    )
    if all(place.startswith("dat_") and not Path(place).exists() for place in data_):
        refuse_of_uploads({"--task": task, "--text-column": text_column, "--label-column": label_column, "--column": column})
    tasks = tasks_of(task or [], len(data_))
    body["recipe"] = chosen = choose_recipe(lathe, recipe_, changes)
    if not isinstance(chosen, str):
        lathe.check_recipe(chosen)  # before anything is uploaded for it
    if isinstance(named := given["evaluate"].get("devices"), list):
        check_devices(lathe, named)
    body["models"] = data.resolve_models(lathe, model, student, teacher or [])
    body["datasets"] = [
        data.resolve(lathe, "datasets", place, task=one, columns=columns) for place, one in zip(data_, tasks, strict=True)
    ]
    if dry_run:
        found = lathe.preflight(body)
        emit(found, *render.forecast_lines(found), "Nothing was submitted. Leave out --dry-run to do so.")
        return
    job = lathe.submit(body, idempotency_key=idempotency_key)
    if wait:
        finish(lathe, ended(lathe, job.id, timeout))
    emit(job, f"{job.id} is {job.state}.", f"Next: lathe watch {job.id}")
