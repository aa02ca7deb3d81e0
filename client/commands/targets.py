"""lathe target: what other targets of a finished job would come to."""

from typing import Annotated

import typer

from client.api import Lathe
from client.commands.jobs import JobId
from client.core.fields import TargetFields
from client.terminal import targets
from client.terminal.output import emit
from compression.schema.target_answer import By

SHARE = "the most to keep (1 and above), or the share to remove: -0.5 is half"


def removed(number: float | None) -> float | None:
    """Return a target as the service takes it: a negative share is one to remove."""
    return None if number is None else abs(number)


def target(  # noqa: PLR0913 (Typer makes an option of each)
    lathe: Lathe,
    job: JobId,
    params: Annotated[float | None, typer.Option(help=f"Parameters: {SHARE}.")] = None,
    size: Annotated[float | None, typer.Option("--bytes", help=f"Bytes of the weights: {SHARE}.")] = None,
    flops: Annotated[float | None, typer.Option(help=f"Multiply-adds of an image: {SHARE}.")] = None,
    latency: Annotated[float | None, typer.Option(metavar="MS", help="The most milliseconds, by the device table.")] = None,
    speed_up: Annotated[float | None, typer.Option(help="In place of it: times as fast as the whole model.")] = None,
    by: Annotated[By, typer.Option(help="Without a target: what the front is listed by.")] = "parameters",
    table: Annotated[
        str | None, typer.Option("--device-table", metavar="ID", help="The device table; by default the job's worker's.")
    ] = None,
    part: Annotated[str, typer.Option(help="Of several datasets, the one whose model is cut.")] = "",
) -> None:
    """Say what a finished job's model would come to at other targets, by its error tables: nothing is trained.

    The job's recipe needs prune.search: solver. Without a target: the cuts that err least, from mild to deep.
    """
    if latency is not None and speed_up is not None:
        raise typer.BadParameter("name one of the two", param_hint="--latency, --speed-up")
    targeted = [params, size, flops, latency, speed_up]
    if all(value is None for value in targeted):
        front = lathe.front(job, by=by, device_table=table, part=part)
        emit(front, *targets.front_lines(front))
        return
    asked: TargetFields = {"target_params": removed(params), "target_bytes": removed(size), "target_flops": removed(flops)}
    asked["device_table"], asked["part"] = table, part
    if latency is not None or speed_up is not None:
        asked["target_latency"] = {"milliseconds": latency} if latency is not None else {"speed_up": speed_up or 1.0}
    found = lathe.target(job, **asked)
    emit(found, *targets.answer_lines(found))
