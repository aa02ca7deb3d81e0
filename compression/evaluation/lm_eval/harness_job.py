"""lm-eval's tasks in a job: asked of the model as each stage leaves it, with the data that the worker has."""

import os
from collections.abc import Callable, Generator
from pathlib import Path

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from compression.evaluation.lm_eval import harness
from compression.schema.errors import CompressionError, InvalidSpec, MissingResource
from compression.schema.events import Log
from compression.schema.job_spec import Spec
from compression.schema.recipe.recipe import LmEval
from compression.schema.report.measurements import TaskFigure
from compression.system import failures
from compression.system.interrupts import Pause
from compression.system.progress import Step

PARAM = "evaluate.lm_eval"
PHASE = "lm-eval"
REMEDY = "Ask who runs the worker to install lathe[lm-eval] and to set LATHE_LM_EVAL_DATA, or leave evaluate.lm_eval out."
OTHERS = "Name tasks that `lm-eval ls tasks` lists for the worker's version, and no more examples than they have."
RESAMPLES = 1000
"""As for the engine's own scores."""


def check(spec: Spec, base: Path, positions: int) -> None:
    """Open tasks and their data before any training. positions: of the model. Raises MissingResource and InvalidSpec."""
    asked = spec.evaluate.lm_eval
    if asked is None:
        return
    try:
        release = harness.installed()
    except MissingResource as problem:
        raise MissingResource(problem.cause, param=PARAM, remedy=REMEDY) from problem
    place = place_of(spec, base)
    os.environ["DISABLE_MULTIPROC"] = "1"  # lm-eval's resampling: a confined engine has no semaphores to share
    from compression.evaluation.lm_eval import harness_model  # it needs what was just looked for

    manager = harness_model.all_tasks()
    if unknown := harness_model.unknown_in(asked.tasks, manager):
        raise InvalidSpec(f"lm-eval {release} has no task {unknown!r}", param=f"{PARAM}.tasks", remedy=OTHERS)
    for task in asked.tasks:
        try:
            with harness_model.data_in(place, cache_of(spec, base)):
                harness_model.try_out([task], manager, positions, few_shot=asked.few_shot, seed=spec.recipe.train.seed)
        except harness_model.NoData as problem:
            cause = f"this worker has no data of {task}: {problem}"
            raise MissingResource(cause, param=f"{PARAM}.tasks", remedy=REMEDY) from problem
        except Exception as problem:
            raise _coded(problem, task) from problem


def ask(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    asked: LmEval,
    place: Path,
    cache: Path,
    *,
    seed: int,
    parts: int = 1,
    check_pause: Callable[[], None],
) -> Generator[Step | Log, None, tuple[TaskFigure, ...]]:
    """Ask one task after another, tell how far that is, and log what each says. `model` is left as it was, but for its mode.

    place: folder of the data; cache: where it is kept as it was read; parts: into which batches are split, where memory did
    not suffice. heed: called before each batch; what it raises ends the asking. Raises InvalidSpec for a task that cannot be
    asked after all, and the machine's failures.
    """
    from compression.evaluation.lm_eval import harness_model

    found: list[TaskFigure] = []
    model.eval()
    listening = model.register_forward_pre_hook(lambda *_: check_pause())
    try:
        for number, task in enumerate(asked.tasks):
            precompute = harness_model.told(
                model,
                tokenizer,
                [task],
                harness_model.all_tasks(),
                few_shot=asked.few_shot,
                batch=max(asked.batch // parts, 1),
                limit=asked.limit,
                seed=seed,
                resamples=RESAMPLES,
            )
            while True:
                try:
                    with harness_model.data_in(place, cache):
                        done, total = next(precompute)
                except StopIteration as end:
                    own = harness.figures(end.value)
                    break
                except Exception as problem:
                    raise _coded(problem, task) from problem
                # In thousandths of a task: how many requests the others make is not known yet.
                yield Step(step=1000 * number + 999 * done // total, total=1000 * len(asked.tasks))
            found += own
            yield Log(message=f"lm-eval: {said(own)}."[:4000])
            yield Step(step=1000 * (number + 1), total=1000 * len(asked.tasks))
    finally:
        listening.remove()
    return tuple(found)


def _coded(problem: Exception, task: str) -> Exception:
    """Make of what lm-eval raises an error that says what to do; pauses, and errors that say so already, stay as they are."""
    if isinstance(problem, CompressionError | Pause):
        return problem
    cause = f"{task} cannot be asked: {str(problem)[:300] or type(problem).__name__}"
    return failures.typed(problem) or InvalidSpec(cause, param=f"{PARAM}.tasks", remedy=OTHERS)


def cache_of(spec: Spec, base: Path) -> Path:
    """Return where data is kept as it was read: a job's folder alone can be written to."""
    return (base / spec.output / "scratch" / "lm-eval").absolute()


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
        value = "no number" if one.value is None else f"{one.value:.4f}"
        told.append(f"{one.task} {one.metric}{how} {value}{error}" + (f" of {one.rows}" if one.rows else ""))
    return ", ".join(told)
