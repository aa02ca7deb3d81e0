"""lathe report, lathe download: what a job made."""

import json as jsonlib
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from client import render
from client.api import Lathe
from client.commands import connect
from client.commands.jobs import JobId
from client.download import download as fetch
from client.errors import ClientError, Problem
from client.output import AsJson, emit, moving
from client.types import Artifact
from compression.report import STAGES


class Format(StrEnum):
    """How a report is printed."""

    TABLE = "table"
    JSON = "json"
    MARKDOWN = "md"


def report(
    job: JobId,
    format: Annotated[Format, typer.Option(help="table, json or md.")] = Format.TABLE,  # noqa: A002
    json: AsJson = False,
) -> None:
    """Print the before/after table, the targets met or missed, and the notes."""
    with connect() as lathe:
        found = lathe.report(job)
    if format is Format.JSON and not json:
        emit(found, jsonlib.dumps(found.model_dump(mode="json"), indent=2, ensure_ascii=False))
    elif format is Format.MARKDOWN:
        emit(found, render.report_markdown(found).rstrip("\n"))
    else:
        emit(found, render.report_table(found))


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
