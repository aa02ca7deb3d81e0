"""Runs lm-eval on an exported checkpoint: `python -m compression lm-eval FOLDER --tasks NAME …`. Torch-free until it opens a
model.

lm-eval is EleutherAI's and needs the extra `lm-eval`. Data comes from a hub, or from a folder with the same content.
Tasks come from the package or from YAML files, which may name Python functions that then run: trust such folders only as you
trust programs. Jobs run only the package's own tasks (`harness_job`).
"""

import argparse
import json
import math
import sys
from collections.abc import Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field

from compression.schema.config import Config
from compression.schema.errors import CompressionError, InvalidSpec, MissingResource
from compression.schema.extras import pip_install
from compression.schema.report.task_figure import TaskFigure
from compression.system.process import private_channel

REMEDY = f"{pip_install('lm-eval')}."
OTHERS = (
    "`lm-eval ls tasks` lists lm-eval's own tasks; --include names a folder with others. Data comes from the hub, or from a "
    "folder (--data) that has it under its name on the hub."
)
SUFFIX = "_stderr"


class Found(Config):
    """Output of the command, as one JSON object."""

    figures: tuple[TaskFigure, ...]
    lm_eval: Annotated[str, Field(description="Version of the package.")]
    limit: Annotated[int | None, Field(description="Documents of each task; null is all. With a limit figures are no results.")]


def evaluate(
    folder: Path, tasks: Sequence[str], *, include: Path | None = None, data: Path | None = None, **asked: int | None
) -> Found:
    """Run lm-eval tasks on the causal language model in `folder`, a stock checkpoint.

    include: folder of additional tasks. data: folder with the tasks' data under their names on the hub
    (`data/allenai/ai2_arc`); missing data is requested from the hub. asked: few_shot, batch, limit, threads and seed. Raises
    MissingResource without lm-eval, InvalidSpec if a task is unknown or has no data, ConfigMismatch if the checkpoint does not
    open.
    """
    release = installed()
    for place, param in ((include, "--include"), (data, "--data")):
        if place is not None and not place.is_dir():
            raise InvalidSpec(f"{place} is no folder", param=param)
    # These modules need lm-eval and torch.
    from compression.evaluation.lm_eval.harness_job import AskSpec
    from compression.evaluation.lm_eval.harness_model import ask

    places = {"folder": folder, "include": include, "data": data}
    given = {name: str(place.absolute()) for name, place in places.items() if place is not None}
    spec = AskSpec.model_validate({"job": False, "tasks": tuple(tasks), **given, **asked})
    results: list[Found] = []
    try:
        ask(spec, lambda event: results.append(event) if isinstance(event, Found) else None)
    except (InvalidSpec, MissingResource) as problem:
        raise InvalidSpec(problem.cause, param="--tasks", remedy=OTHERS) from problem
    return Found(figures=tuple(figure for one in results for figure in one.figures), lm_eval=release, limit=spec.limit)


def installed() -> str:
    """Return lm-eval's version. Raises MissingResource if it is not installed."""
    try:
        return version("lm_eval")
    except PackageNotFoundError as problem:
        raise MissingResource("lm-eval is not installed", param="lm-eval", remedy=REMEDY) from problem


def figures(found: Mapping[str, Any]) -> list[TaskFigure]:
    """Convert lm-eval's results: task → "metric,filter" → value, with "metric_stderr,filter" beside it."""
    out = []
    for task, values in {**found["results"], **found.get("groups", {})}.items():
        for key, value in values.items():
            metric, _, how = key.partition(",")
            if not how or metric.endswith(SUFFIX) or isinstance(value, bool) or not isinstance(value, int | float):
                continue
            rows = found.get("n-samples", {}).get(task)
            out.append(
                TaskFigure(
                    task=task,
                    metric=metric,
                    filter=how,
                    value=_number(value),
                    standard_error=_number(values.get(f"{metric}{SUFFIX},{how}")),
                    higher_is_better=found.get("higher_is_better", {}).get(task, {}).get(metric),
                    rows=rows["effective"] if rows else values.get("sample_len"),
                    few_shot=found.get("n-shot", {}).get(task),
                    version=str(found.get("versions", {}).get(task)),
                )
            )
    return out


def _number(value: object) -> float | None:
    """Return a value that JSON readers can represent, or None. For a bad model lm-eval may return 10^80 or NaN."""
    return float(value) if isinstance(value, int | float) and math.isfinite(value) and abs(value) < 2**62 else None


def add_arguments(command: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    command.add_argument("folder", type=Path, metavar="FOLDER", help="a downloaded transformers checkpoint")
    command.add_argument("--tasks", nargs="+", required=True, metavar="NAME", help="lm-eval's tasks or groups")
    command.add_argument("--include", type=Path, metavar="FOLDER", help="further tasks' YAML files, which may run code")
    command.add_argument("--data", type=Path, metavar="FOLDER", help="tasks' data under its names on the hub")
    command.add_argument("--few-shot", type=int, metavar="N", help="examples before each document (default: the task's own)")
    command.add_argument("--batch", type=int, default=8, metavar="N", help="documents at once (default: 8)")
    command.add_argument("--limit", type=int, metavar="N", help="documents of each task (default: all)")
    command.add_argument("--threads", type=int, metavar="N", help="torch's threads (default: torch's own choice)")
    command.add_argument("--seed", type=int, default=0, metavar="N", help="of few-shot examples and sampling (default: 0)")


def main(options: argparse.Namespace) -> int:
    """Run the command and print `Found`. Returns 2 on failure, with the reason on standard error."""
    answers = private_channel()  # lm-eval and its dependencies print to standard output
    try:
        asked = {name: getattr(options, name) for name in ("few_shot", "batch", "limit", "threads", "seed")}
        found = evaluate(options.folder, options.tasks, include=options.include, data=options.data, **asked)
    except CompressionError as problem:
        print(json.dumps(problem.as_dict()), file=sys.stderr)  # noqa: T201 (a command's output)
        return 2
    print(found.model_dump_json(indent=1), file=answers)
    return 0
