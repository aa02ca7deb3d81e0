"""lathe profile, profiles: what artifacts cost on devices."""

from itertools import islice
from typing import Annotated

import typer
from rich.console import RenderableType

from client.api import Lathe
from client.device_types import Profile
from client.errors import FAILED
from client.terminal import render
from client.terminal.output import as_json, emit, table
from compression.schema.profile import Energy, MemoryRange
from compression.schema.report.written import plain

TO_PROFILE = "unfused_operators"
"""Of the codes that name another artifact, the one that asks for its profile."""


def _size(profile: Profile) -> str:
    asked = profile.figures.request if profile.figures else profile.request
    length = f" × {asked.length} tokens" if asked.length else ""
    side = f" × {asked.resolution} px" if asked.resolution else ""
    return f"{asked.batch}{length}{side}"


def figures(profile: Profile) -> tuple[str | None, ...]:
    """Return the cells of a profile: pass, rows a second, load, memory, energy a row, runtime."""
    found = profile.figures
    if found is None:
        return (None,) * 6
    memory = render.size(found.memory.max_bytes) if isinstance(found.memory, MemoryRange) else None
    energy = f"{plain(1000 * found.energy.joules_per_row)} mJ" if isinstance(found.energy, Energy) else None
    token = f", a token {plain(found.decode_ms)} ms" if found.decode_ms else ""
    passed = f"{plain(found.median_ms)} ms (p95 {plain(found.p95_ms)}){token}"
    return passed, plain(found.rows_per_second, 4), f"{plain(found.load.first_ms)} ms", memory, energy, found.runtime


def shown(profiles: list[Profile]) -> RenderableType:
    """Return profiles as a table, with the reason of those that failed."""
    columns = ("id", "artifact", "device", "batch", "state", "pass", "rows/s", "load", "memory", "energy/row", "runtime")
    rows = []
    for one in profiles:
        state = f"{one.state}: {one.error.code}" if one.error else one.state
        rows.append((one.id, one.artifact, one.device_name, _size(one), state, *figures(one)))
    return table(columns, rows, empty="No profiles. Request one: lathe profile JOB --device NAME")


def advice(lathe: Lathe, profile: Profile) -> list[str]:
    """Return what to try after a profile, each with the command for it."""
    if profile.error and not profile.remedies:
        return [f"{profile.error.detail}\nnext: {profile.error.remedy}"]
    forms = {one.id: one for one in lathe.artifacts(profile.job)} if any(one.artifact for one in profile.remedies) else {}
    may_retry = any(one.change for one in profile.remedies) and lathe.job(profile.job).ended
    asked = profile.figures.request if profile.figures else profile.request
    lines = []
    for one in profile.remedies:
        command = ""
        if one.change is not None:
            command = f"lathe retry {profile.job} --profile {profile.id} --apply {one.change.key}" if may_retry else ""
        elif one.artifact in forms and one.code == TO_PROFILE:
            command = asked.command(one.artifact, profile.device_name)
        elif one.artifact in forms:
            form = forms[one.artifact]
            command = f"lathe download {profile.job} --stage {form.stage} --kind {form.kind}"
        elif one.request is not None:
            command = one.request.command(profile.artifact, profile.device_name)
        lines += [f"{one.code}: {one.cause}", f"  {one.remedy}", *([f"  next: {command}"] if command else [])]
    return lines


def to_profile(lathe: Lathe, job: str) -> list[str]:
    """Return the ids of the artifacts that a job's report says to take: one, or one of each dataset."""
    names = lathe.report(job).to_run
    return [artifact.id for artifact in lathe.artifacts(job) if artifact.name in names]


def profile(  # noqa: PLR0913 (Typer makes an option of each)
    lathe: Lathe,
    what: Annotated[str, typer.Argument(metavar="ARTIFACT|JOB", help="An artifact's id, or a job's: what its report takes.")],
    device: Annotated[str, typer.Option(help="Name or id of the device (lathe device ls).")],
    batch: Annotated[int | None, typer.Option(min=1, help="Rows of one pass; by default 1.")] = None,
    length: Annotated[int | None, typer.Option(min=1, help="Tokens of a row of text; by default the artifact's own.")] = None,
    resolution: Annotated[int | None, typer.Option(min=1, help="Side of an image; by default the artifact's own.")] = None,
    seconds: Annotated[
        float | None, typer.Option(max=600, help="Time that passes are timed for; for energy take 60. By default 10.")
    ] = None,
    threads: Annotated[int | None, typer.Option(min=1, help="Threads of the runtime; by default 1.")] = None,
    detach: Annotated[bool, typer.Option("--detach", help="Request it, and do not wait for it.")] = False,
    timeout: Annotated[float | None, typer.Option(help="Seconds to wait at most.")] = None,
) -> None:
    """Measure an artifact on a device: load, latency, rows a second, memory, layers, energy. Waits until it is done."""
    if detach and timeout is not None:
        raise typer.BadParameter("it is of waiting: leave it out, or --detach", param_hint="--timeout")
    wanted = to_profile(lathe, what) if what.startswith("job_") else [what]
    sizes = {"batch": batch, "length": length, "resolution": resolution}
    asked = [lathe.request_profile(one, device, seconds=seconds, threads=threads, **sizes) for one in wanted]
    if detach:
        emit(asked, *(f"{one.id} waits for {one.device_name}." for one in asked))
        return
    done = [lathe.wait_for_profile(one.id, timeout=timeout) for one in asked]
    failures = [one for one in done if one.error]
    emit(done, shown(done), *([] if as_json() else [line for one in done for line in advice(lathe, one)]))
    if failures:
        raise typer.Exit(FAILED)


def profiles(
    lathe: Lathe,
    profile: Annotated[str | None, typer.Argument(help="Id of one profile, to see what to try after it.")] = None,
    job: Annotated[str | None, typer.Option(help="Id of a job.")] = None,
    device: Annotated[str | None, typer.Option(help="Name or id of a device.")] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="At most so many, newest first; by default 50.")] = None,
    cancel: Annotated[bool, typer.Option("--cancel", help="Delete this profile, which still waits.")] = False,
) -> None:
    """List profiles, or show one with what its figures suggest."""
    if profile is not None and (job or device or limit):
        raise typer.BadParameter("--job, --device and --limit are of lists: leave them out", param_hint="PROFILE")
    if cancel:
        if profile is None:
            raise typer.BadParameter("name the profile", param_hint="--cancel")
        if (one := lathe.profile(profile)).ended:
            raise typer.BadParameter(f"{profile} is {one.state}: nothing is left to cancel", param_hint="--cancel")
        lathe.delete(f"profiles/{profile}")
        emit({"deleted": [profile]}, f"Deleted {profile}.")
    elif profile is not None:
        one = lathe.profile(profile)
        emit(one, shown([one]), *([] if as_json() else advice(lathe, one)))
    else:
        _list(lathe, job, device, limit or 50)


def _list(lathe: Lathe, job: str | None, device: str | None, limit: int) -> None:
    named = device and next((one.id for one in lathe.devices() if device in (one.id, one.name)), device)
    found = list(islice(lathe.profiles(job=job, device=named), limit))
    ready = [one.id for one in found if one.remedies]
    emit(found, shown(found), *([f"What to try: lathe profiles {ready[0]}"] if ready else []))
