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


def removed(option: str, number: float | None) -> float | None:
    """Return a target as the service takes it: a negative share is one to remove. Raises BadParameter for -30, say."""
    if number is not None and number <= -1:
        raise typer.BadParameter(f"{number:g} is no share to remove: -0.3 is 30 percent", param_hint=option)
    return None if number is None else abs(number)


def target(  # noqa: PLR0913 (Typer makes an option of each)
    lathe: Lathe,
    job: JobId,
    params: Annotated[float | None, typer.Option(help=f"Parameters: {SHARE}.")] = None,
    size: Annotated[float | None, typer.Option("--bytes", help=f"Bytes of the weights: {SHARE}.")] = None,
    flops: Annotated[float | None, typer.Option(help=f"Multiply-adds of an image, or of a text: {SHARE}.")] = None,
    latency: Annotated[float | None, typer.Option(metavar="MS", help="The most milliseconds, by the device table.")] = None,
    speed_up: Annotated[float | None, typer.Option(help="In place of it: times as fast as the whole model.")] = None,
    by: Annotated[By | None, typer.Option(help="Without a target: what the front is listed by (parameters).")] = None,
    table: Annotated[
        str | None, typer.Option("--device-table", metavar="ID", help="The device table; else the one most like the job's.")
    ] = None,
    part: Annotated[str, typer.Option(help="Of several datasets, the one whose model is cut.")] = "",
) -> None:
    """Say what a finished job's model would come to at other targets, by its error tables: nothing is trained.

    The job's recipe needs prune.search, any of them. Without a target: the cuts that err least, from mild to deep.
    """
    if latency is not None and speed_up is not None:
        raise typer.BadParameter("name one of the two", param_hint="--latency, --speed-up")
    targeted = [params, size, flops, latency, speed_up]
    if all(value is None for value in targeted):
        front = lathe.front(job, by=by or "parameters", device_table=table, part=part)
        emit(front, *targets.front_lines(front))
        return
    if by is not None:
        raise typer.BadParameter("is of the front, which is listed without a target", param_hint="--by")
    asked: TargetFields = {"target_params": removed("--params", params), "target_bytes": removed("--bytes", size)}
    asked |= {"target_flops": removed("--flops", flops), "device_table": table, "part": part}
    if latency is not None or speed_up is not None:
        asked["target_latency"] = {"milliseconds": latency} if latency is not None else {"speed_up": speed_up or 1.0}
    found = lathe.target(job, **asked)
    emit(found, *targets.answer_lines(found))
