"""lathe recipe: recipes by name and as files."""

import json as jsonlib
from pathlib import Path
from typing import Annotated, Any

import typer

from client import recipes
from client.api import Lathe
from client.commands.completion import recipe_names
from client.commands.registry import Commands
from client.errors import BadRecipe
from client.terminal import render
from client.terminal.output import emit, say, table
from client.types import Preset

app = Commands(help="Recipes: the settings of each stage.", no_args_is_help=True)

Named = Annotated[
    str, typer.Argument(metavar="NAME|FILE", help="Its name (lathe recipe ls), or its file.", autocompletion=recipe_names)
]


def preset(found: list[Preset], name: str) -> Preset:
    """Return the recipe of a name. Raises BadRecipe."""
    for one in found:
        if one.name == name:
            return one
    raise BadRecipe(
        f"there is no recipe {name!r}", remedy=f"Choose of: {', '.join(one.name for one in found)}; or name a file."
    )


def load(lathe: Lathe, given: str) -> dict[str, Any]:
    """Return the recipe of a file or a name. Raises BadRecipe."""
    return recipes.read(given) if recipes.is_file(given) else preset(lathe.recipes(), given).recipe


@app.command("ls")
def ls(lathe: Lathe) -> None:
    """List the recipes that have a name."""
    found = lathe.recipes()
    rows = [(one.name, one.summary) for one in found]
    emit(found, table(("name", "when"), rows, empty="No recipes."), "One of your own: lathe recipe init NAME")


@app.command("show")
def show(lathe: Lathe, recipe: Named) -> None:
    """Print a recipe in full: every key, with defaults."""
    found = lathe.check_recipe(load(lathe, recipe)).recipe
    emit(found, *jsonlib.dumps(found, indent=2, ensure_ascii=False).splitlines())


@app.command("init")
def init(
    lathe: Lathe,
    name: Annotated[str, typer.Argument(help="The recipe to start from.", autocompletion=recipe_names)] = "standard",
    out: Annotated[Path, typer.Option("--out", "-o", help="Where to write it.")] = Path("recipe.jsonc"),
    force: Annotated[bool, typer.Option("--force", help="Overwrite an existing file.")] = False,
) -> None:
    """Write a recipe to a file, with a comment above each key that explains it and its values."""
    if out.suffix not in recipes.SUFFIXES:
        raise typer.BadParameter(f"{out} must end in {' or '.join(recipes.SUFFIXES)}", param_hint="--out")
    if out.exists() and not force:
        raise BadRecipe(f"{out} is there already", remedy="Name another with --out, or add --force to write over it.")
    everything = lathe.all_recipes()
    found = preset(list(everything.items), name)
    title = (f"{name}: {found.summary}", "Lines that begin with // are comments. A key that is left out has its default.")
    out.write_text(recipes.commented(found.recipe, everything.recipe_schema, *title), encoding="utf-8")
    emit({"file": str(out), "recipe": found.recipe}, f"{out} is written.", f"Next: lathe recipe check {out}")


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
    asked = load(lathe, recipe)
    whole = lathe.check_recipe(asked).recipe
    forecast = lathe.preflight(model=model, data=data or (), recipe=whole) if model else None
    presets = lathe.recipes()
    nearest = min(presets, key=lambda one: len(recipes.changes(one.recipe, whole)))
    changes = dict(recipes.different([nearest.recipe, whole]))
    lines = [f"{recipe} is right: {nearest.name}" + (", with these changes:" if changes else ", unchanged.")]
    lines += [f"  {change}" for change in recipes.changes(nearest.recipe, whole)]
    if forecast:
        lines += render.forecast_lines(forecast)
    emit({"recipe": whole, "nearest": nearest.name, "changes": changes, "forecast": forecast}, *lines)
    say(f"Next: lathe submit --model {model or 'FOLDER'} --data {' --data '.join(data or ['FOLDER'])} --recipe {recipe}")
