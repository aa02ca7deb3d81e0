"""lm-eval's tasks in a job: asked of the model as each stage leaves it, with the data that the worker has."""

import os
from collections.abc import Callable, Generator
from pathlib import Path

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from compression import harness
from compression.errors import InvalidSpec, MissingResource
from compression.recipe import LmEval, Spec
from compression.report import Event, Log, TaskFigure

PARAM = "evaluate.lm_eval"
REMEDY = "Ask who runs the worker to install lathe[lm-eval] and to set LATHE_LM_EVAL_DATA, or leave evaluate.lm_eval out."


RESAMPLES = 1000
"""As for the engine's own scores."""


def check(spec: Spec, base: Path) -> None:
    """Find tasks and their data before any training. Raises MissingResource and InvalidSpec."""
    asked = spec.evaluate.lm_eval
    if asked is None:
        return
    try:
        harness.installed()
    except MissingResource as problem:
        raise MissingResource(problem.cause, param=PARAM, remedy=REMEDY) from problem
    place = place_of(spec, base)
    # Where `datasets` keeps what it has read: it looks at this when it is imported, and a job's folder alone can be written to.
    os.environ.setdefault("HF_DATASETS_CACHE", str((base / spec.output / "scratch" / "lm-eval").absolute()))
    os.environ["DISABLE_MULTIPROC"] = "1"  # lm-eval's resampling: a confined engine has no semaphores to share
    from compression import harness_model  # it needs what was just looked for

    manager = harness_model.all_tasks()
    if unknown := harness_model.unknown_in(asked.tasks, manager):
        raise InvalidSpec(
            f"lm-eval {harness.installed()} has no task {unknown!r}",
            param=f"{PARAM}.tasks",
            remedy="Name tasks that `lm-eval ls tasks` lists for the worker's version.",
        )
    for task in asked.tasks:
        try:
            with harness.data_in(place):
                harness_model.look_for_data([task], manager)
        except harness_model.NoData as problem:
            cause = f"this worker has no data of {task}: {problem}"
            raise MissingResource(cause, param=f"{PARAM}.tasks", remedy=REMEDY) from problem


def ask(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    asked: LmEval,
    place: Path,
    seed: int,
    heed: Callable[[], None],
) -> Generator[Event, None, tuple[TaskFigure, ...]]:
    """Ask one task after another, and log what each says. `model` is left as it was.

    place: folder of the data. heed: called before each batch; what it raises ends the asking.
    """
    from compression import harness_model

    found: list[TaskFigure] = []
    model.eval()
    listening = model.register_forward_pre_hook(lambda *_: heed())
    try:
        for task in asked.tasks:
            with harness.data_in(place):
                table = harness_model.told(
                    model,
                    tokenizer,
                    [task],
                    harness_model.all_tasks(),
                    few_shot=asked.few_shot,
                    batch=asked.batch,
                    limit=asked.limit,
                    seed=seed,
                    resamples=RESAMPLES,
                )
            own = harness.figures(table)
            found += own
            yield Log(message=f"lm-eval: {said(own)}."[:4000])
    finally:
        listening.remove()
    return tuple(found)


def place_of(spec: Spec, base: Path) -> Path:
    """Return the folder of the tasks' data. Raises MissingResource."""
    if spec.lm_eval_data is None or not (base / spec.lm_eval_data).is_dir():
        raise MissingResource("this worker has no data of lm-eval's tasks", param=PARAM, remedy=REMEDY)
    return (base / spec.lm_eval_data).absolute()


def said(figures: list[TaskFigure]) -> str:
    """Write figures on one line: arc_easy acc 0.7500 ± 0.0250 of 300."""
    told = []
    for one in figures:
        how = "" if one.filter == "none" else f" ({one.filter})"
        error = "" if one.standard_error is None else f" ± {one.standard_error:.4f}"
        told.append(f"{one.task} {one.metric}{how} {one.value:.4f}{error}" + (f" of {one.rows}" if one.rows else ""))
    return ", ".join(told)
