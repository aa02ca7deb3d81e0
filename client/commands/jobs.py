"""lathe ls, show, watch, wait, logs, cancel, retry, rm: jobs that wait, run or have ended."""

import re
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from itertools import islice
from typing import Annotated

import typer

from client import errors, recipes
from client.api import Lathe
from client.commands.completion import job_ids, model_ids
from client.core.fields import STATES
from client.terminal import job_view, render
from client.terminal.output import as_json, console, emit, say, table, write_json
from client.terminal.text import one_line
from client.types import Event, Job

JobId = Annotated[str, typer.Argument(metavar="JOB", help="The job's id.", autocompletion=job_ids)]


def ls(
    lathe: Lathe,
    state: Annotated[
        list[str] | None,
        typer.Option(help=f"{', '.join(STATES)}. Repeatable: any of them.", autocompletion=lambda: list(STATES)),
    ] = None,
    label: Annotated[list[str] | None, typer.Option(help="KEY=VALUE of a label. Repeatable: all of them.")] = None,
    model: Annotated[str | None, typer.Option(help="Id of a model.", autocompletion=model_ids)] = None,
    search: Annotated[str | None, typer.Option(help="Part of the name, the id or the owner.")] = None,
    limit: Annotated[int, typer.Option(min=1, help="At most so many, newest first.")] = 50,
) -> None:
    """List jobs."""
    wanted = [re.sub("[=:]", ":", one, count=1) for one in label or ()]  # a value may have either
    found = list(islice(lathe.jobs(state=state, label=wanted or None, model=model, search=search), limit))
    rows = [(job.id, job.name, job.state, f"{job.created_at:%Y-%m-%d %H:%M}", _now(job)) for job in found]
    empty = "No jobs. Submit one: lathe submit --model FOLDER --data FOLDER --recipe quick"
    emit(found, table(("id", "name", "state", "created (UTC)", "now"), rows, empty=empty))


def _now(job: Job) -> str:
    if job.error:
        return job.error.cause
    if not job.ended:
        return job_view.headline(job)
    return render.ratios_text(job.ratios, job.retention) if job.ratios else ""


def show(lathe: Lathe, job: JobId) -> None:
    """Show a job and the rows of its table so far."""
    found = lathe.job(job)
    lines = [f"{found.id}  {found.name}  {job_view.headline(found)}"]
    if found.owner:
        lines.append(f"sent by {found.owner}")
    if found.labels:
        lines.append("labels: " + ", ".join(f"{name}={value}" for name, value in found.labels.items()))
    models = [f"model {found.models.get('base')}"]
    if student := found.models.get("student"):
        models.append(f"student {student}")
    if teachers := found.models.get("teachers"):
        models.append(f"teachers {', '.join(teachers)}")
    lines.append(f"{', '.join(models)}, data {', '.join(found.datasets)}, attempt {found.attempt}")
    lines += _failure(found)
    rows = (render.row_table(found.rows, found.task),) if found.rows else ()
    offered = [f"to try: {render.remedy_text(remedy)}" for remedy in found.remedies if found.ended]
    gates = [f"quality gate: {row.stage} {row.gate.text}" for row in found.rows if row.gate is not None]
    emit(found, *lines, *rows, *gates, *offered)
    if found.state == "succeeded":
        say(f"Next: lathe report {found.id}; lathe download {found.id}")
    elif not found.ended:
        say(f"Next: lathe watch {found.id}")
    elif found.state == "failed":
        say(f"Next: lathe logs {found.id}; lathe retry {found.id}{' --remedy' if found.remedies else ''}")


def _failure(job: Job) -> list[str]:
    if job.error is None:
        return []
    field = f" (field {job.error.param})" if job.error.param else ""
    return [f"failed: {job.error.cause} ({job.error.code}){field}", f"next: {job.error.remedy}"]


@contextmanager
def detachable(job_id: str) -> Iterator[None]:
    """On Ctrl-C, print that the job goes on, and how to return to it."""
    try:
        yield
    except KeyboardInterrupt:
        say("")
        say(f"{job_id} goes on. Come back: lathe watch {job_id}; stop it: lathe cancel {job_id}")
        raise


def ended(lathe: Lathe, job_id: str, timeout: float | None) -> Job:
    """Wait for a job."""
    with detachable(job_id):
        return job_view.wait(lathe, job_id, timeout=timeout)


def finish(lathe: Lathe, job: Job, *, gate: bool = False) -> None:
    """Print the outcome and exit with its code. gate: whether a result that the quality gate does not accept has its own."""
    if job.state == "succeeded":
        report = lathe.report(job.id) if gate or not as_json() else None
        emit(job, *(() if report is None or as_json() else (render.report_table(report), "", f"Next: lathe download {job.id}")))
        if gate and report is not None and report.gate is not None and report.gate.status != "accept":
            raise typer.Exit(errors.NOT_ACCEPTED)
    else:
        emit(job, f"{job.id} {job.state}.", *_failure(job))
    raise typer.Exit(job_view.EXIT_CODES[job.state])


Gate = Annotated[bool, typer.Option("--gate", help="Exit with 7 unless the job's quality gate accepts what is shipped.")]
Timeout = Annotated[float | None, typer.Option(metavar="SECONDS", help="Seconds after which to stop waiting; the job goes on.")]


def wait(lathe: Lathe, job: JobId, timeout: Timeout = None, gate: Gate = False) -> None:
    """Wait until a job has ended; show its progress, then its table. For scripts: the exit code tells the outcome.

    Exit codes: 0 the job succeeded; 1 it failed; 3 it was cancelled; 4 --timeout is over; 7 with --gate, what is shipped is a
    regression or undecided; others as of every command.
    """
    if gate and not lathe.job(job).targets.get("quality_gate"):
        raise errors.NoGate(f"{job} has no quality gate")
    finish(lathe, ended(lathe, job, timeout), gate=gate)


def watch(lathe: Lathe, job: JobId, timeout: Timeout = None) -> None:
    """Watch a job live: a bar per stage, its events as they happen, then its table. Ctrl-C leaves it running.

    It waits for a service that restarts meanwhile, and misses nothing. With --json, one line per change of the job. Exit
    codes as of `lathe wait`.
    """
    with detachable(job):
        if as_json():
            for found in lathe.watch(job, timeout=timeout):
                write_json(found)
            raise typer.Exit(job_view.EXIT_CODES[found.state])
        finish(lathe, job_view.live(lathe, job, timeout=timeout, line=_line))


def _line(event: Event) -> str:
    data = event.data
    if event.type == "log":
        text = str(data.get("message", ""))
        text = text if data.get("level", "info") == "info" else f"{data['level']}: {text}"
    elif event.type == "progress":
        text = f"{data.get('stage')} {data.get('phase')} {data.get('step')}/{data.get('total')}"
        text += "".join(f" {name} {data[name]:.4g}" for name in ("loss", "score") if data.get(name) is not None)
    elif event.type == "training_saved":  # patience ends most trainings before their last step
        text = (
            f"training saved: {data.get('stage')} {data.get('phase')}, step {data.get('step')} of at most {data.get('total')}"
        )
    else:
        if isinstance(row := data.get("row"), dict):
            data = {"stage": row.get("stage"), **data}
        short = {name: value for name, value in data.items() if name != "type" and not isinstance(value, dict | list)}
        text = " ".join([event.type, *(f"{name}={value}" for name, value in short.items() if value is not None)])
    return f"{event.at:%H:%M:%S}  {text}" if event.at else text


def logs(
    lathe: Lathe,
    job: JobId,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Continue until the job has ended.")] = False,
    after: Annotated[int, typer.Option(min=0, help="Only events after this seq.")] = 0,
) -> None:
    """Print a job's events in order. With --json, one event per line."""
    out = console()
    with detachable(job) if follow else nullcontext():
        for event in lathe.follow(job, after=after) if follow else lathe.events(job, after=after):
            if as_json():
                write_json(event)
            else:
                out.print(one_line(_line(event)), markup=False, soft_wrap=True)


def cancel(lathe: Lathe, job: JobId) -> None:
    """Ask a job to stop. Finished stages and their artifacts stay."""
    found = lathe.cancel(job)
    emit(found, f"{found.id} is {job_view.headline(found)}.", *([] if found.ended else [f"Next: lathe watch {found.id}"]))


def retry(
    lathe: Lathe,
    job: JobId,
    remedy: Annotated[
        bool, typer.Option("--remedy", help="With all changes that its error or its table proposes (lathe show).")
    ] = False,
    apply: Annotated[
        list[str] | None, typer.Option(metavar="KEY", help="With one of them: recipe.distill.epochs. Repeatable.")
    ] = None,
    profile: Annotated[
        str | None, typer.Option(metavar="PROFILE", help="With the changes that a profile proposes (lathe profiles PROFILE).")
    ] = None,
) -> None:
    """Submit an ended job again, as a new job: unchanged, or with --remedy."""
    if remedy and apply:
        raise typer.BadParameter("it applies all changes: leave it out, or --apply", param_hint="--remedy")
    before = lathe.job(job)
    found = lathe.retry(job, remedies="all" if remedy else apply or (), profile=profile)
    lines = [f"  recipe.{change}" for change in recipes.changes(before.recipe, found.recipe)]
    emit(found, f"{found.id} is {found.state}, a new attempt at {job}.", *lines, f"Next: lathe watch {found.id}")


def rm(
    lathe: Lathe, ids: Annotated[list[str], typer.Argument(metavar="JOB", help="Ids of jobs.", autocompletion=job_ids)]
) -> None:
    """Delete ended jobs with their artifacts. Models and data stay."""
    for identifier in ids:
        lathe.delete(f"jobs/{identifier}")
    emit({"deleted": ids}, f"Deleted {', '.join(ids)}.")
