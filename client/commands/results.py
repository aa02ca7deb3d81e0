"""lathe report, compare, download: what a job made."""

import json as jsonlib
import sys
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from client.api import Lathe
from client.commands import connect
from client.commands.completion import job_ids
from client.commands.jobs import JobId
from client.errors import FAILED, ClientError, Problem
from client.terminal import compare as comparing
from client.terminal import render
from client.terminal.compare import Compared
from client.terminal.output import AsJson, as_json, emit, moving, table, write_json
from client.terminal.text import UNSEEN
from client.transfers.download import download as fetch
from client.types import Artifact
from compression.schema.report.measurements import STAGES


class Format(StrEnum):
    """How a report is printed."""

    TABLE = "table"
    MARKDOWN = "md"
    HTML = "html"
    JSON = "json"


class Layout(StrEnum):
    """How a comparison is printed."""

    TABLE = "table"
    MARKDOWN = "md"
    CSV = "csv"
    JSON = "json"


Out = Annotated[Path | None, typer.Option("--out", "-o", help="Write it to this file, and not to the terminal.")]


def _write(text: str, out: Path | None) -> None:
    """Print a document, or write it to a file and say so."""
    if out is None:
        if as_json():
            write_json({"text": text})
        else:
            # What a pipe or a file takes is left as it is; a terminal is not steered by it.
            typer.echo(text.rstrip("\n").translate(UNSEEN if sys.stdout.isatty() else {}))
        return
    out.write_text(text, encoding="utf-8")
    emit({"file": str(out.resolve())}, f"{out} is written.")


def report(
    job: JobId,
    format: Annotated[Format, typer.Option(help="For the terminal, a pull request, a browser or a program.")] = Format.TABLE,  # noqa: A002
    out: Out = None,
    json: AsJson = False,
) -> None:
    """Print the before/after table, the targets met or missed, and the notes; html is one file that needs no network."""
    if format is Format.TABLE and out is not None:
        format = FORMATS.get(out.suffix, Format.TABLE)  # noqa: A001
        if format is Format.TABLE:
            raise typer.BadParameter(f"name a --format, or a file that ends in {', '.join(FORMATS)}", param_hint="--out")
    with connect() as lathe:
        if format is Format.HTML:
            _write(lathe.report_page(job).decode(), out)
            return
        found = lathe.report(job)
    if format is Format.TABLE or (json and out is None):
        emit(found, render.report_table(found))
    elif format is Format.MARKDOWN:
        _write(render.report_markdown(found), out)
    else:
        _write(jsonlib.dumps(found.model_dump(mode="json"), indent=2, ensure_ascii=False), out)


FORMATS = {".md": Format.MARKDOWN, ".html": Format.HTML, ".json": Format.JSON}
"""What a file's name says of its format."""


def _with_report(lathe: Lathe, job_id: str) -> Compared:
    job = lathe.job(job_id)
    return Compared(job, lathe.report(job_id) if job.state == "succeeded" else None)


def compare(
    jobs: Annotated[list[str], typer.Argument(metavar="JOB JOB…", help="Two jobs or more.", autocompletion=job_ids)],
    format: Annotated[Layout, typer.Option(help="csv has plain numbers, a line a job.")] = Layout.TABLE,  # noqa: A002
    out: Out = None,
    json: AsJson = False,
) -> None:
    """Put jobs side by side: their figures, and where their requests differ. A job at work counts by its last finished row."""
    if len(set(jobs)) < 2:
        raise typer.BadParameter("name two jobs or more", param_hint="JOB")
    with connect() as lathe:
        found = [_with_report(lathe, job) for job in dict.fromkeys(jobs)]
    if format is Layout.MARKDOWN:
        _write(comparing.markdown(found), out)
    elif format is Layout.CSV:
        _write(comparing.comma_separated(found), out)
    elif format is Layout.JSON and not (json and out is None):
        _write(jsonlib.dumps(comparing.document(found), indent=2, ensure_ascii=False), out)
    elif out is not None:
        raise typer.BadParameter("name a --format: md, csv or json", param_hint="--out")
    else:
        emit(comparing.document(found), comparing.table(found))


def try_(
    job: JobId,
    text: Annotated[str | None, typer.Argument(help="A sentence; of tags, its words.")] = None,
    pair: Annotated[str | None, typer.Option("--pair", help="The second text, where the task has one.")] = None,
    question: Annotated[str | None, typer.Option(help="Of question answering, beside --context.")] = None,
    context: Annotated[str | None, typer.Option(help="Where the answer to --question is looked for.")] = None,
    row: Annotated[int | None, typer.Option(min=0, help="In place of texts: a row of the data, from 0.")] = None,
    split: Annotated[str, typer.Option(help="Where that row is: train, validation or test.")] = "test",
    part: Annotated[str, typer.Option(help="Of several datasets, the one whose models are asked.")] = "",
    json: AsJson = False,  # noqa: ARG001
) -> None:
    """Ask a finished job's models, before and after, the same thing: both answers with their times, side by side."""
    with connect() as lathe:
        found = lathe.ask(job, text=text, text_pair=pair, question=question, context=context, row=row, split=split, part=part)
    if found.result is None:
        error = found.error
        shown = (f"{error.cause} ({error.code})", f"next: {error.remedy}") if error else ("There is no answer.",)
        emit(found, *shown)
        raise typer.Exit(FAILED)
    emit(found, *render.answers(found.result))


def share(
    job: JobId,
    days: Annotated[float, typer.Option(min=1 / 1440, max=90, help="Days that the link is in force.")] = 7,
    list_: Annotated[bool, typer.Option("--list", help="List the links that are in force, and make none.")] = False,
    revoke: Annotated[str | None, typer.Option(metavar="ID", help="End this link at once, and make none.")] = None,
    json: AsJson = False,  # noqa: ARG001
) -> None:
    """Make a link that shows this job's report, and nothing else, to whoever has it. It is shown this once."""
    with connect() as lathe:
        if revoke is not None:
            lathe.delete(f"jobs/{job}/share/{revoke}")
            emit({"revoked": revoke}, f"{revoke} is revoked.")
        elif list_:
            found = lathe.shares(job)
            rows = [(link.id, f"{link.created_at:%Y-%m-%d %H:%M}", f"{link.expires_at:%Y-%m-%d %H:%M}") for link in found]
            emit(found, table(("id", "made", "until"), rows, empty=f"No links. Make one: lathe share {job}"))
        else:
            link = lathe.share(job, days=days)
            emit(
                link, str(link.url), f"Until {link.expires_at:%Y-%m-%d %H:%M} UTC; sooner: lathe share {job} --revoke {link.id}"
            )


def shares(json: AsJson = False) -> None:  # noqa: ARG001
    """List your team's links that are in force, of all jobs: who made each, and when it ends at the latest."""
    with connect() as lathe:
        found = lathe.shares()
    rows = [
        (link.id, link.job, link.key, f"{link.created_at:%Y-%m-%d %H:%M}", f"{link.expires_at:%Y-%m-%d %H:%M}")
        for link in found
    ]
    emit(found, table(("id", "job", "made by key", "made", "until"), rows, empty="No links. Make one: lathe share JOB"))


def best_stage(lathe: Lathe, job: str, artifacts: list[Artifact]) -> str | None:
    """Name the stage of the report's headline; of a job that has no report yet, or none at all, the last that made anything."""
    try:
        headline = lathe.report(job).headline
    except Problem:
        headline = None
    order: dict[str, int] = {name: place for place, name in enumerate(STAGES)}
    named = [artifact.stage for artifact in artifacts if artifact.name == headline]
    return max(named or [artifact.stage for artifact in artifacts], key=lambda name: order.get(name, -1), default=None)


def chosen(artifacts: list[Artifact], *, stage: str | None, kind: str | None, every: bool) -> list[Artifact]:
    """Pick what is downloaded: all, or of one stage. Raises ClientError where none is left."""
    if not every:
        artifacts = [artifact for artifact in artifacts if artifact.stage == stage]
    found = [artifact for artifact in artifacts if kind in (None, artifact.kind)]
    if not found:
        raise ClientError(
            "there is nothing to download"
            + "".join(f" of {name} {value!r}" for name, value in (("stage", stage), ("kind", kind)) if value),
            remedy="Artifacts come with each finished stage: see `lathe show JOB`, or leave out --stage and --kind.",
        )
    return found


def download(
    job: JobId,
    out: Annotated[Path | None, typer.Option("--out", "-o", help="Folder; ./JOB where left out.")] = None,
    stage: Annotated[
        str | None, typer.Option(help="baseline, quantized, pruned or distilled; the report's headline where left out.")
    ] = None,
    kind: Annotated[str | None, typer.Option(help="onnx or transformers; all where left out.")] = None,
    every: Annotated[bool, typer.Option("--all", help="The artifacts of all stages.")] = False,
    json: AsJson = False,  # noqa: ARG001
) -> None:
    """Download artifacts, check them against their manifest, and say what opens them. Goes on where it was broken off."""
    folder = out or Path(job)
    with connect() as lathe:
        artifacts = lathe.artifacts(job)
        wanted = stage if every or stage else best_stage(lathe, job, artifacts)
        artifacts = chosen(artifacts, stage=wanted, kind=kind, every=every)
        total = sum(file.size for artifact in artifacts for file in artifact.files)
        with moving(f"downloading {job}", total) as moved:
            places = [fetch(lathe, artifact, folder, moved=moved) for artifact in artifacts]
    lines = []
    for artifact, place in zip(artifacts, places, strict=True):
        weight = sum(file.size for file in artifact.files)
        lines.append(f"{place}  {render.size(weight)}  score {render.score_text(artifact.score)}")
        lines.append(f"  opens with: {artifact.opens_with}")
    found = [
        {**artifact.model_dump(mode="json"), "folder": str(place.resolve())}
        for artifact, place in zip(artifacts, places, strict=True)
    ]
    emit({"folder": str(folder.resolve()), "artifacts": found}, *lines)
