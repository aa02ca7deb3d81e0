"""lathe models, lathe datasets. An upload resumes where an earlier one stopped."""

import re
from pathlib import Path
from typing import Annotated, Any, get_args

import typer

from client.api import Lathe
from client.commands.registry import Commands
from client.core.fields import Kind
from client.errors import BadFolder
from client.terminal import render
from client.terminal.output import emit, moving, say, table
from client.transfers.folders import Local, local_model, manifest
from client.transfers.packing import dataset_to_send
from client.transfers.upload import add, until_ready
from client.types import Dataset, Model
from compression.schema.recipe.base import Task as TaskName

models = Commands(help="Checkpoints to compress.", no_args_is_help=True)
datasets = Commands(help="Data to train and test on.", no_args_is_help=True)

PLACE_HELP = (
    "A file (train), or a folder with train.*, validation.*, test.*, unlabelled.*; for image-classification also a folder with "
    "a folder of images for each class, or with such folders in train, validation and test."
)
HUB = re.compile(r"[\w-][\w.-]*/[\w.-]+")
"""The name of a repository on a hub, from which the service fetches nothing."""
Name = Annotated[str | None, typer.Option(help="Its name; by default the folder's.")]
TextColumn = Annotated[str, typer.Option(help="Column that holds the text.")]
LabelColumn = Annotated[str, typer.Option(help="Column that holds the label.")]
Task = Annotated[str, typer.Option(help=f"The task of the data: {', '.join(get_args(TaskName))}.")]
Tasks = Annotated[
    list[str] | None,
    typer.Option("--task", help=f"The task of local data: {', '.join(get_args(TaskName))}. Once, or for each --data in turn."),
]
ColumnNames = Annotated[
    list[str] | None,
    typer.Option("--column", help="KEY=NAME of another column: text_pair, tokens, tags, question … Repeatable."),
]


def send(lathe: Lathe, local: Local) -> Model | Dataset:
    """Hash, upload and wait until it is checked; show the progress."""
    name = local.body["name"]
    if local.left_out:
        say(f"left out of {name}: {', '.join(path.name for path in local.left_out)}")
    with moving(f"hashing {name}", local.bytes) as moved:
        promised = manifest(local.files, moved)
    with moving(f"uploading {name}", local.bytes) as moved:
        target = add(lathe, local.kind, local.body, promised, moved=moved)
    if target.state == "ready":
        say(f"{name} is there already: {target.id}")
    if target.state == "validating":
        say(f"{target.name} ({target.id}) is being checked …")
    return until_ready(lathe, local.kind, target)


def add_model(lathe: Lathe, folder: Path, name: str | None = None) -> Model | Dataset:
    """Upload a model's folder and wait until it is ready."""
    return send(lathe, local_model(folder, name))


def add_dataset(
    lathe: Lathe, place: Path, name: str | None = None, *, task: str, columns: dict[str, str] | None
) -> Model | Dataset:
    """Upload data, images packed on the way, and wait until they are ready."""
    with dataset_to_send(place, moving, name, task=task, columns=columns) as local:
        return send(lathe, local)


def pairs(option: str, given: list[str]) -> dict[str, str]:
    """Parse any number of KEY=VALUE."""
    found = {}
    for text in given:
        name, equals, value = text.partition("=")
        if not equals or not name:
            raise typer.BadParameter(f"{text!r} is not of the form KEY=VALUE", param_hint=option)
        found[name] = value
    return found


def _facts(found: Model | Dataset) -> str:
    if isinstance(found, Model):
        facts = found.facts
        return f"{facts.family}, {render.count(facts.parameters.total)} parameters, {facts.dtype}" if facts else ""
    if found.facts is None:
        return ""
    rows = ", ".join(f"{split} {count}" for split, count in found.facts.rows.items())
    if found.facts.values:
        values = found.facts.values["train"]
        return f"{rows} rows; {found.facts.task}, values {values.least:g} to {values.most:g}"
    labels = f", labels {', '.join(found.facts.labels)}" if found.facts.labels else ""
    return f"{rows} rows; {found.facts.task}{labels}"


def _show(kind: Kind, found: Model | Dataset) -> None:
    lines = [f"{found.id}  {found.name}  {found.state}", _facts(found)]
    for reason in found.reasons:
        lines += [f"rejected: {reason.cause} ({reason.code})", f"  next: {reason.remedy}"]
    rows = [(file.path, render.size(file.size), file.sha256[:16], "yes" if file.uploaded else "no") for file in found.files]
    files = table(("file", "size", "sha256", "uploaded"), rows, empty="No files.")
    more = f"… and {found.file_count - len(rows):,} files more." if found.file_count > len(rows) else ""
    emit(found, *(line for line in lines if line), files, *([more] if more else []))
    if found.state == "uploading":
        say(f"Not complete yet. Resume it with: lathe {kind} add FOLDER")


def _manage(app: Commands, kind: Kind) -> None:
    """Register the commands that models and datasets have in common."""
    noun = kind.removesuffix("s")

    def ls(lathe: Lathe) -> None:
        found = list(lathe.uploads(kind))
        rows = [(item.id, item.name, item.state, render.size(item.bytes), _facts(item)) for item in found]
        emit(found, table(("id", "name", "state", "size", "facts"), rows, empty=f"None yet. Add one: lathe {kind} add FOLDER"))

    def show(lathe: Lathe, id_: Annotated[str, typer.Argument(metavar=noun.upper(), help="Its id.")]) -> None:
        found = lathe.upload(kind, id_)
        _show(kind, found)

    def rm(lathe: Lathe, ids: Annotated[list[str], typer.Argument(help="Their ids.")]) -> None:
        for identifier in ids:
            lathe.delete(f"{kind}/{identifier}")
        emit({"deleted": ids}, f"Deleted {', '.join(ids)}.")

    app.command("ls", help=f"List the {kind}.")(ls)
    app.command("show", help=f"Show a {noun} with its files and facts.")(show)
    app.command("rm", help=f"Delete {kind}. Jobs that use them stay.")(rm)


@models.command("add")
def models_add(lathe: Lathe, folder: Path, name: Name = None) -> None:
    """Upload a model's folder (as save_pretrained() wrote it, or with one GGUF or ONNX file), and wait until it is checked."""
    model = add_model(lathe, folder, name)
    emit(model, f"{model.id} is ready: {_facts(model)}", f"Next: lathe submit --model {model.id} --data FOLDER")


@datasets.command("add")
def datasets_add(
    lathe: Lathe,
    place: Annotated[Path, typer.Argument(help=PLACE_HELP)],
    name: Name = None,
    text_column: TextColumn = "text",
    label_column: LabelColumn = "label",
    task: Task = "text-classification",
    column: ColumnNames = None,
) -> None:
    """Upload data (jsonl, csv, tsv, parquet; causal-lm: txt too; image-classification: images, npz, parquet), and wait."""
    columns = {"text": text_column, "label": label_column, **pairs("--column", column or [])}
    found = add_dataset(lathe, place, name, task=task, columns=columns)
    emit(found, f"{found.id} is ready: {_facts(found)}", f"Next: lathe submit --model FOLDER --data {found.id}")


_manage(models, "models")
_manage(datasets, "datasets")


def resolve(
    lathe: Lathe, kind: Kind, given: str, *, task: str = "text-classification", columns: dict[str, str] | None = None
) -> str:
    """Return the id of a model or dataset: an id as it is; a local folder or file is uploaded first."""
    place = Path(given)
    if place.exists():
        if kind == "models":
            return add_model(lathe, place).id
        return add_dataset(lathe, place, task=task, columns=columns).id
    prefix = "mdl_" if kind == "models" else "dat_"
    if given.startswith(prefix):
        return given
    remedy = f"Check the path, or see `lathe {kind} ls`."
    if HUB.fullmatch(given):
        here = given.split("/")[1]
        remedy = f"If it is on a hub, fetch it first and name the folder: hf download {given} --local-dir {here}."
    raise BadFolder(f"{given!r} is neither a local path nor an id ({prefix}…)", remedy=remedy)


def resolve_models(lathe: Lathe, base: str, student: str | None, teachers: list[str]) -> dict[str, Any]:
    """Return the ids of a job's models; local folders are uploaded first."""
    models: dict[str, Any] = {"base": resolve(lathe, "models", base)}
    if student is not None:
        models["student"] = resolve(lathe, "models", student)
    if teachers:
        models["teachers"] = [resolve(lathe, "models", place) for place in teachers]
    return models
