"""lathe recipe: recipes by name and as files."""

import json as jsonlib
from pathlib import Path
from typing import Annotated, Any, get_args

import typer

from client import recipes
from client.api import Lathe
from client.commands.completion import recipe_names
from client.commands.registry import Commands
from client.errors import BadRecipe
from client.terminal import render
from client.terminal.output import emit, say, table
from client.types import Dataset, Preset
from compression.schema.recipe.base import Task as TaskName

app = Commands(help="Recipes: the settings of each stage.", no_args_is_help=True)

Named = Annotated[
    str, typer.Argument(metavar="NAME|FILE", help="Its name (lathe recipe ls), or its file.", autocompletion=recipe_names)
]
TASK_HELP = f"The task of the data that it is for: {', '.join(get_args(TaskName))}; by default of texts. Repeatable."
Tasks = Annotated[list[str] | None, typer.Option("--task", help=TASK_HELP)]
AXES = "Of the usual axes of a cut, those count that the model has: prune.axes names others."


def preset(found: list[Preset], name: str) -> Preset:
    """Return the recipe of a name. Raises BadRecipe."""
    for one in found:
        if one.name == name:
            return one
    raise BadRecipe(
        f"there is no recipe {name!r}", remedy=f"Choose of: {', '.join(one.name for one in found)}; or name a file."
    )


def nearest_to(whole: dict[str, Any], found: list[Preset]) -> tuple[str, dict[str, Any]]:
    """Return the preset, of any kind of data, that differs from `whole` in the fewest keys: (what it is called, its recipe)."""
    known = [(one.name, one.recipe) for one in found]
    known += [(f"{one.name} ({kind})", recipe) for one in found for kind, recipe in one.of_modalities.items()]
    return min(known, key=lambda one: len(recipes.changes(one[1], whole)))


@app.command("ls")
def ls(lathe: Lathe) -> None:
    """List the recipes that have a name."""
    found = lathe.recipes()
    rows = [(one.name, one.summary) for one in found]
    emit(found, table(("name", "when"), rows, empty="No recipes."), "One of your own: lathe recipe init NAME")


@app.command("show")
def show(lathe: Lathe, recipe: Named, task: Tasks = None) -> None:
    """Print a recipe in full: every key, with defaults."""
    if recipes.is_file(recipe):
        if task:
            raise typer.BadParameter("a file is the same for all tasks", param_hint="--task")
        found = lathe.check_recipe(recipes.read(recipe)).recipe
    else:
        found = preset(lathe.recipes(tasks=task or ()), recipe).recipe
    emit(found, *jsonlib.dumps(found, indent=2, ensure_ascii=False).splitlines())


@app.command("init")
def init(
    lathe: Lathe,
    name: Annotated[str, typer.Argument(help="The recipe to start from.", autocompletion=recipe_names)] = "standard",
    task: Tasks = None,
    out: Annotated[Path, typer.Option("--out", "-o", help="Where to write it.")] = Path("recipe.jsonc"),
    force: Annotated[bool, typer.Option("--force", help="Overwrite an existing file.")] = False,
) -> None:
    """Write a recipe to a file, with a comment above each key that explains it and its values."""
    if out.suffix not in recipes.SUFFIXES:
        raise typer.BadParameter(f"{out} must end in {' or '.join(recipes.SUFFIXES)}", param_hint="--out")
    if out.exists() and not force:
        raise BadRecipe(f"{out} is there already", remedy="Name another with --out, or add --force to write over it.")
    everything = lathe.all_recipes(tasks=task or ())
    found = preset(list(everything.items), name)
    title = [f"{name}: {found.summary}", "Lines that begin with // are comments. A key that is left out has its default."]
    written = found.recipe
    if task:
        title[:1] = [f"{name} for {', '.join(task)}: {found.summary}", AXES]
        written = recipes.without_usual_axes(written)
    out.write_text(recipes.commented(written, everything.recipe_schema, *title), encoding="utf-8")
    emit({"file": str(out), "recipe": written}, f"{out} is written.", f"Next: lathe recipe check {out}")


@app.command("check")
def check(
    lathe: Lathe,
    recipe: Named,
    model: Annotated[str | None, typer.Option(help="A model's id: whether the recipe fits it, and what it would cost.")] = None,
    data: Annotated[list[str] | None, typer.Option(help="A dataset's id, with --model. Repeatable.")] = None,
) -> None:
    """Check a recipe, by itself or for a model and its data. Nothing is stored.

    Exit code 0: it is right; 2: the file cannot be read; 6: the service refuses it, and names the key.
    """
    if bool(model) != bool(data):
        raise typer.BadParameter("--model and --data go together", param_hint="--model")
    of_data = [lathe.upload("datasets", one) for one in data or ()]
    tasks = [one.task for one in of_data if isinstance(one, Dataset)]
    presets = lathe.recipes(tasks=tasks)
    sent: str | dict[str, Any] = recipes.read(recipe) if recipes.is_file(recipe) else recipe  # as `lathe submit` does
    whole = preset(presets, sent).recipe if isinstance(sent, str) else lathe.check_recipe(sent, tasks=tasks).recipe
    forecast = lathe.preflight(model=model, data=data or (), recipe=sent) if model else None
    name, nearest = nearest_to(whole, presets)
    changes = dict(recipes.different([nearest, whole]))
    lines = [f"{recipe} is right: {name}" + (", with these changes:" if changes else ", unchanged.")]
    lines += [f"  {change}" for change in recipes.changes(nearest, whole)]
    if forecast:
        lines += render.forecast_lines(forecast)
    emit({"recipe": whole, "nearest": name, "changes": changes, "forecast": forecast}, *lines)
    say(f"Next: lathe submit --model {model or 'FOLDER'} --data {' --data '.join(data or ['FOLDER'])} --recipe {recipe}")
