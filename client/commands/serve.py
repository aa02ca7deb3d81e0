"""lathe serve: predictions of an artifact over HTTP, on this machine."""

import os
import re
import sys
from pathlib import Path
from typing import Annotated

import typer

from client.api import Lathe
from client.commands.results import best_stage, chosen
from client.errors import BadFolder, ClientError
from client.terminal.output import as_json, moving, say
from client.transfers.download import download as fetch
from compression.schema.artifact_formats import ONNX
from compression.schema.prediction_request import BODY_DEFAULTS

RECOMMENDED = "recommended"
ID = re.compile("(job|art)_[0-9a-z]{26}")
KIND_HELP = f"Of a job: the format to serve, by default {ONNX.name}, or recommended: what its report takes."
BODY_HELP = f"Bytes of a request, by default {BODY_DEFAULTS}; more is answered with 413."


def serve(  # noqa: PLR0913 (Typer makes an option of each)
    artifact: Annotated[
        str, typer.Argument(metavar="ARTIFACT", help="A folder of `lathe download` (./JOB), or the id of a job or an artifact.")
    ],
    host: Annotated[str, typer.Option(help="Address; all but loopback need a key in LATHE_SERVE_KEY.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port; 0: any that is free.")] = 8400,
    target_ms: Annotated[float, typer.Option(help="Time from a request to its answer, within which rows may wait.")] = 50,
    max_batch: Annotated[int, typer.Option(min=1, max=4096, help="Rows of a batch; 1: no batches.")] = 32,
    queue: Annotated[int, typer.Option(min=1, max=1 << 20, help="Rows that may wait; more are answered with 503.")] = 256,
    threads: Annotated[int | None, typer.Option(min=1, help="Threads of the runtime; by default one a core.")] = None,
    max_body: Annotated[int | None, typer.Option(min=1, help=BODY_HELP)] = None,
    kind: Annotated[str | None, typer.Option(help=KIND_HELP)] = None,
    out: Annotated[Path | None, typer.Option("--out", "-o", help="Folder to download an id to; by default ./ID.")] = None,
) -> None:
    """Answer what `lathe try` asks over HTTP, by one artifact: POST /v1/predict. Rows are batched by load. Ctrl-C ends it."""
    folder = Path(artifact)
    # `lathe download JOB` makes a folder of that name, which may hold several formats, or not the one that is asked for.
    if ID.fullmatch(artifact) or not folder.is_dir():
        if kind is not None and artifact.startswith("art_"):
            raise typer.BadParameter("an artifact has one format: leave it out, or name the job", param_hint="--kind")
        folder = downloaded(artifact, kind or ONNX.name, out or folder)
    elif kind is not None or out is not None:
        cause = f"{artifact} is a folder, which is served as it is: leave it out, or name a job"
        raise typer.BadParameter(cause, param_hint="--kind" if kind is not None else "--out")
    options = {"host": host, "port": port, "target-ms": target_ms, "max-batch": max_batch, "queue": queue}
    options |= {name: value for name, value in (("threads", threads), ("max-body", max_body)) if value is not None}
    # -P: a folder named `compression` where the command is typed is not the engine.
    command = [sys.executable, "-P", "-m", "compression", "serve", str(folder)]
    command += [part for name, value in options.items() for part in (f"--{name}", str(value))]
    if as_json():
        command.append("--json")
    say(f"opening {folder}")
    sys.stdout.flush()
    os.execv(command[0], command)  # noqa: S606 (this process becomes the server)


def downloaded(wanted: str, kind: str, out: Path) -> Path:
    """Download an artifact, or the one of a job's headline in a format; return its folder."""
    if not wanted.startswith(("job_", "art_")):
        raise BadFolder(f"{wanted} is no folder", remedy="Name a folder that `lathe download` wrote, a job or an artifact.")
    with Lathe.from_config() as lathe:
        if wanted.startswith("art_"):
            found = [lathe.artifact(wanted)]
        else:
            artifacts = lathe.artifacts(wanted)
            if kind == RECOMMENDED:
                taken = lathe.report(wanted).to_run
                found = [one for one in artifacts if one.name in taken]
            else:
                found = chosen(artifacts, stage=best_stage(lathe, wanted, artifacts), kind=kind, every=False)
        if len(found) > 1:
            names = ", ".join(f"{one.id} ({one.name})" for one in found)
            raise ClientError(f"{wanted} has several {kind} artifacts: {names}", remedy="Name one of them by its id.")
        with moving(f"downloading {found[0].name}", sum(file.size for file in found[0].files)) as moved:
            return fetch(lathe, found[0], out, moved=moved)
