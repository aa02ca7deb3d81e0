"""lathe report, compare, try, share, download: the results of a job."""

import base64
import json as jsonlib
import sys
from pathlib import Path
from typing import Annotated, Literal

import typer

from client.api import Lathe
from client.commands.completion import job_ids
from client.commands.days import days_within
from client.commands.jobs import JobId
from client.core.fields import Question
from client.errors import FAILED, ClientError, Problem
from client.terminal import compare as comparing, predictions, render
from client.terminal.compare import Compared
from client.terminal.output import as_json, emit, moving, table, write_json
from client.terminal.text import UNSEEN
from client.transfers.download import download as fetch
from client.types import Artifact
from compression.schema.stages import STAGES

Format = Literal["table", "md", "html", "json"]
Layout = Literal["table", "md", "csv", "json"]
FORMATS: dict[str, Format] = {".md": "md", ".html": "html", ".json": "json"}
"""File suffix → format."""
DAYS = 7
"""Days of a shared link for which none are given."""
NO_REPORT = 404
"""The status of a job without a report."""
Out = Annotated[Path | None, typer.Option("--out", "-o", help="Write it to this file, and not to the terminal.")]


def _write(text: str, out: Path | None) -> None:
    """Print a document, or write it to a file."""
    if out is None:
        if as_json():
            write_json({"text": text})
        else:
            # Written unchanged to a pipe or a file; on a terminal, control characters are replaced.
            typer.echo(text.rstrip("\n").translate(UNSEEN if sys.stdout.isatty() else {}))
        return
    out.write_text(text, encoding="utf-8")
    emit({"file": str(out.resolve())}, f"{out} is written.")


def report(
    lathe: Lathe,
    job: JobId,
    format: Annotated[Format, typer.Option(help="For a terminal, a pull request, a browser or a program.")] = "table",  # noqa: A002
    out: Out = None,
) -> None:
    """Print the before/after table, the targets met or missed, and the notes; html is one file that needs no network."""
    if format == "table" and out is not None:
        format = FORMATS.get(out.suffix, "table")  # noqa: A001
        if format == "table":
            raise typer.BadParameter(f"name a --format, or a file that ends in {', '.join(FORMATS)}", param_hint="--out")
    if format == "html":
        _write(lathe.report_page(job).decode(), out)
        return
    found = lathe.report(job)
    if format == "table" or (as_json() and out is None):
        emit(found, render.report_table(found))
    elif format == "md":
        _write(render.report_markdown(found), out)
    else:
        _write(jsonlib.dumps(found.model_dump(mode="json"), indent=2, ensure_ascii=False), out)


def _with_report(lathe: Lathe, job_id: str) -> Compared:
    job = lathe.job(job_id)
    return Compared(job, lathe.report(job_id) if job.state == "succeeded" else None)


def compare(
    lathe: Lathe,
    jobs: Annotated[list[str], typer.Argument(metavar="JOB JOB…", help="Two jobs or more.", autocompletion=job_ids)],
    format: Annotated[Layout, typer.Option(help="csv has plain numbers, one line per job.")] = "table",  # noqa: A002
    out: Out = None,
) -> None:
    """Compare jobs: their figures, and where their requests differ. A running job counts by its last finished row."""
    if len(set(jobs)) < 2:
        raise typer.BadParameter("name two jobs or more", param_hint="JOB")
    found = [_with_report(lathe, job) for job in dict.fromkeys(jobs)]
    if format == "md":
        _write(comparing.markdown(found), out)
    elif format == "csv":
        _write(comparing.comma_separated(found), out)
    elif format == "json" and not (as_json() and out is None):
        _write(jsonlib.dumps(comparing.document(found), indent=2, ensure_ascii=False), out)
    elif out is not None:
        raise typer.BadParameter("name a --format: md, csv or json", param_hint="--out")
    else:
        emit(comparing.document(found), comparing.table(found))


def try_(  # noqa: PLR0913 (Typer makes an option of each)
    lathe: Lathe,
    job: JobId,
    text: Annotated[str | None, typer.Argument(help="A sentence; for token classification, its words.")] = None,
    pair: Annotated[str | None, typer.Option("--pair", help="The second text, if the task has one.")] = None,
    question: Annotated[str | None, typer.Option(help="For question answering, with --context.")] = None,
    context: Annotated[str | None, typer.Option(help="The text that has the answer to --question.")] = None,
    image: Annotated[
        Path | None, typer.Option(exists=True, dir_okay=False, readable=True, help="A file, for image classification.")
    ] = None,
    row: Annotated[int | None, typer.Option(min=0, help="In place of these: the number of a row of the data, from 0.")] = None,
    split: Annotated[str | None, typer.Option(help="Split of that row: train, validation or (by default) test.")] = None,
    part: Annotated[str, typer.Option(help="Of several datasets, the one whose models answer.")] = "",
) -> None:
    """Ask a finished job's models, before and after, the same thing: both answers with their times, side by side."""
    if split is not None and row is None:
        raise typer.BadParameter("it is of --row: add it, or leave this out", param_hint="--split")
    asked: Question = {"text": text, "text_pair": pair, "question": question, "context": context}
    asked |= {"row": row, "part": part}
    if split is not None:
        asked["split"] = split
    if image is not None:
        asked["image"] = base64.b64encode(image.read_bytes()).decode()
    found = lathe.ask(job, **asked)
    if found.result is None:
        error = found.error
        shown = (f"{error.cause} ({error.code})", f"next: {error.remedy}") if error else ("There is no answer.",)
        emit(found, *shown)
        raise typer.Exit(FAILED)
    emit(found, *predictions.answers(found.result))


def share(
    lathe: Lathe,
    job: JobId,
    days: Annotated[
        float | None,
        typer.Option(callback=days_within(90), metavar="DAYS", help=f"Days until it ends: {DAYS} by default, 90 at most."),
    ] = None,
    list_: Annotated[bool, typer.Option("--list", help="List the active links, and make none.")] = False,
    revoke: Annotated[str | None, typer.Option(metavar="ID", help="End this link at once, and make none.")] = None,
) -> None:
    """Make a link that shows this job's report, and nothing else, to anyone who has it. It is shown this once."""
    if days is not None and (list_ or revoke is not None):
        raise typer.BadParameter("it is of a new link: leave it out, or --list and --revoke", param_hint="--days")
    if list_ and revoke is not None:
        raise typer.BadParameter("it lists, and ends no link: leave it out, or --revoke", param_hint="--list")
    if revoke is not None:
        lathe.delete(f"jobs/{job}/share/{revoke}")
        emit({"revoked": revoke}, f"{revoke} is revoked.")
    elif list_:
        found = lathe.shares(job)
        rows = [(link.id, f"{link.created_at:%Y-%m-%d %H:%M}", f"{link.expires_at:%Y-%m-%d %H:%M}") for link in found]
        emit(found, table(("id", "made (UTC)", "until (UTC)"), rows, empty=f"No links. Make one: lathe share {job}"))
    else:
        link = lathe.share(job, days=DAYS if days is None else days)
        emit(link, str(link.url), f"Until {link.expires_at:%Y-%m-%d %H:%M} UTC; sooner: lathe share {job} --revoke {link.id}")


def shares(lathe: Lathe) -> None:
    """List your team's active links, of all jobs: who made each, and when it ends at the latest."""
    found = lathe.shares()
    rows = [
        (link.id, link.job, link.key, f"{link.created_at:%Y-%m-%d %H:%M}", f"{link.expires_at:%Y-%m-%d %H:%M}")
        for link in found
    ]
    emit(
        found,
        table(("id", "job", "made by key", "made (UTC)", "until (UTC)"), rows, empty="No links. Make one: lathe share JOB"),
    )


def best_stage(lathe: Lathe, job: str, artifacts: list[Artifact]) -> str | None:
    """Return the stage of the report's headline; without a report, the last stage that has artifacts."""
    try:
        headline = lathe.report(job).headline
    except Problem as error:
        if error.status != NO_REPORT:
            raise
        headline = None
    order: dict[str, int] = {name: place for place, name in enumerate(STAGES)}
    named = [artifact.stage for artifact in artifacts if artifact.name == headline]
    return max(named or [artifact.stage for artifact in artifacts], key=lambda name: order.get(name, -1), default=None)


def chosen(artifacts: list[Artifact], *, stage: str | None, kind: str | None, every: bool) -> list[Artifact]:
    """Return the artifacts to download: all, or those of one stage. Raises ClientError if there are none."""
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
    lathe: Lathe,
    job: JobId,
    out: Annotated[Path | None, typer.Option("--out", "-o", help="Folder; by default ./JOB.")] = None,
    stage: Annotated[
        str | None,
        typer.Option(help="As pruned, distilled or point2 (of several sizes); by default that of the report's headline."),
    ] = None,
    kind: Annotated[str | None, typer.Option(help="A format, such as onnx or transformers; by default all.")] = None,
    every: Annotated[bool, typer.Option("--all", help="The artifacts of all stages.")] = False,
    recommended: Annotated[
        bool, typer.Option("--recommended", help="Only the report's recommended artifact, or else its headline.")
    ] = False,
) -> None:
    """Download artifacts, check them against their manifest, and print what opens them. Resumes where it broke off."""
    if recommended and (every or stage or kind):
        raise typer.BadParameter("it names the artifact: leave out --stage, --kind and --all", param_hint="--recommended")
    if every and stage:
        raise typer.BadParameter("--all names every stage: leave out one of them", param_hint="--stage")
    folder = out or Path(job)
    artifacts = lathe.artifacts(job)
    if recommended:
        names = lathe.report(job).to_run
        artifacts = [artifact for artifact in artifacts if artifact.name in names]
    else:
        wanted = None if every else stage or best_stage(lathe, job, artifacts)
        artifacts = chosen(artifacts, stage=wanted, kind=kind, every=every)
    total = sum(file.size for artifact in artifacts for file in artifact.files)
    with moving(f"downloading {job}", total) as moved:
        places = [fetch(lathe, artifact, folder, moved=moved) for artifact in artifacts]
    state = lathe.job(job).state
    lines = [] if state == "succeeded" else [f"The job is {state}: these are of a stage that is done, not its result."]
    for artifact, place in zip(artifacts, places, strict=True):
        weight = sum(file.size for file in artifact.files)
        lines.append(f"{place}  {render.size(weight)}  score {render.score_text(artifact.score)}")
        lines.append(f"  opens with: {artifact.opens_with}")
    found = [
        {**artifact.model_dump(mode="json"), "folder": str(place.resolve())}
        for artifact, place in zip(artifacts, places, strict=True)
    ]
    emit({"folder": str(folder.resolve()), "artifacts": found}, *lines)
