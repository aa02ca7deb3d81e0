"""Runs lm-eval tasks in a job, in a fresh process on each stage's model, with the worker's data."""

import tempfile
from collections.abc import Callable, Generator, Iterable, Mapping
from contextlib import closing
from pathlib import Path
from typing import Annotated

import torch
from pydantic import Field, TypeAdapter
from transformers import PreTrainedModel

from compression.evaluation.lm_eval import harness
from compression.evaluation.lm_eval.harness import Found
from compression.modalities.modality import Preprocessor
from compression.quantization.fake_quantize import Simulation, simulation_of
from compression.schema.config import Config
from compression.schema.errors import ALL_ERRORS, CompressionError, InvalidSpec, MissingResource, OutOfMemory
from compression.schema.events import Log
from compression.schema.extras import pip_install
from compression.schema.job_spec import Spec
from compression.schema.recipe.recipe import LmEval
from compression.schema.report.task_figure import TaskFigure
from compression.schema.validation import Rejected
from compression.system import child_process, process
from compression.system.child_process import ChildOutOfMemory, Step
from compression.system.progress import Step as Tick

PARAM = "evaluate.lm_eval"
PHASE = "lm-eval"
REMEDIES = {
    MissingResource.code: f"Ask who runs the worker to add lm-eval ({pip_install('lm-eval')}) and to set LATHE_LM_EVAL_DATA, "
    "or leave evaluate.lm_eval out.",
    InvalidSpec.code: "Name tasks that `lm-eval ls tasks` lists for the worker's version, and no more examples than they have.",
}
RESAMPLES = 1000  #: number of resamples, the same as for the engine's own scores
LONGEST_SECONDS = 30 * 86400.0  #: timeout beyond any job deadline: the worker enforces the deadline


class AskSpec(Config):
    """Which tasks to run on which model, for the command or for a job. Paths are absolute."""

    folder: Annotated[str | None, Field(description="The model and its tokenizer; null: tasks are tried out alone.")] = None
    job: Annotated[bool, Field(description="Whether the model is a job's, with `simulation`, or a checkpoint as shipped.")]
    simulation: Annotated[Simulation | None, Field(description="The integers that a job's model computes with.")] = None
    tasks: tuple[str, ...]
    include: Annotated[str | None, Field(description="Folder of further tasks' YAML files.")] = None
    data: Annotated[str | None, Field(description="Folder of the tasks' data; what it lacks is fetched from the hub.")] = None
    cache: Annotated[str | None, Field(description="Where data is kept as it was read; null: only meanwhile.")] = None
    few_shot: Annotated[int | None, Field(description="Examples before each document; null: each task's own.")] = None
    batch: int = 8
    limit: int | None = None
    threads: int | None = None
    seed: int = 0
    resamples: Annotated[int, Field(description="For standard errors without a formula; by default lm-eval's own.")] = 100_000
    positions: Annotated[int | None, Field(description="That the model has, where tasks are tried out.")] = None


parse_line: TypeAdapter[Step | Found | Rejected] = TypeAdapter(Step | Found | Rejected)


def check(spec: Spec, base: Path, positions: int) -> None:
    """Try out the tasks and their data on a model with so many positions. Raises MissingResource and InvalidSpec."""
    asked = spec.evaluate.lm_eval
    if asked is None:
        return
    try:
        harness.installed()
    except MissingResource as problem:
        raise MissingResource(problem.cause, param=PARAM, remedy=REMEDIES[problem.code]) from problem
    place, cache, seed = place_of(spec, base), cache_of(spec, base), spec.recipe.train.seed
    for _ in answers(_of_job(asked, place, cache, seed).model_copy(update={"positions": positions})):
        pass


def ask(
    model: PreTrainedModel,
    preprocessor: Preprocessor,
    asked: LmEval,
    place: Path,
    cache: Path,
    *,
    seed: int,
    parts: int = 1,
    check_pause: Callable[[], None],
) -> Generator[Tick | Log, None, tuple[TaskFigure, ...]]:
    """Run the tasks on `model`, which does not change; yield progress, and log each task's results.

    place: folder of the data; cache: folder for the data as read; parts: micro-batches per batch, if memory did not suffice.
    check_pause: called at least once a second; its exceptions end the run. Raises InvalidSpec if a task fails to run after all,
    and the errors of the machine (such as OutOfMemory).
    """
    found: list[TaskFigure] = []
    number, total = 0, 1000 * len(asked.tasks)  # in thousandths of a task: the request counts of later tasks are unknown
    cache.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=cache, prefix="model-") as folder:
        model.save_pretrained(folder)
        preprocessor.write(Path(folder))
        given = {"folder": folder, "simulation": simulation_of(model), "batch": max(asked.batch // parts, 1)}
        process.release_memory()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        with closing(answers(_of_job(asked, place, cache, seed).model_copy(update=given), check_pause)) as news:
            for event in news:
                check_pause()
                if isinstance(event, Step):
                    yield Tick(step=1000 * number + 999 * event.done // event.total, total=total)
                    continue
                number += 1
                found += event.figures
                yield Log(message=f"lm-eval: {figures_line(event.figures)}."[:4000])
                yield Tick(step=1000 * number, total=total)
    return tuple(found)


def _of_job(asked: LmEval, place: Path, cache: Path, seed: int) -> AskSpec:
    places = {"data": str(place), "cache": str(cache)}
    return AskSpec(job=True, **asked.model_dump(), **places, threads=torch.get_num_threads(), seed=seed, resamples=RESAMPLES)


def answers(spec: AskSpec, waiting: Callable[[], None] = lambda: None) -> Generator[Step | Found, None, None]:
    """Run the tasks in a fresh process; yield progress and results, raise its CompressionError. waiting: called each second."""
    try:
        with closing(child_process.child_lines("lm-eval-job", spec, timeout=LONGEST_SECONDS, waiting=waiting)) as lines:
            for line in lines:
                event = parse_line.validate_json(line)
                if isinstance(event, Rejected):
                    raise _error(event.reasons[0])
                yield event
    except ChildOutOfMemory as problem:
        raise OutOfMemory(f"lm-eval's tasks could not be asked: {problem}", param=PARAM) from problem


def _error(reason: Mapping[str, str | None]) -> CompressionError:
    kind = next(kind for kind in ALL_ERRORS if kind.code == reason["code"])
    param, remedy = reason["param"], reason["remedy"]
    if kind.code in REMEDIES:
        param, remedy = f"{PARAM}.tasks", REMEDIES[kind.code]
    return kind(str(reason["cause"]), param=param, remedy=remedy)


def cache_of(spec: Spec, base: Path) -> Path:
    """Return the cache folder for data as read. Only the job's own folder is writable."""
    return (base / spec.output / "scratch" / "lm-eval").absolute()


def place_of(spec: Spec, base: Path) -> Path:
    """Return the folder of the tasks' data. Raises MissingResource if the worker has none."""
    if spec.lm_eval_data is None or not (base / spec.lm_eval_data).is_dir():
        remedy = REMEDIES[MissingResource.code]
        raise MissingResource("this worker has no data of lm-eval's tasks", param=PARAM, remedy=remedy)
    return (base / spec.lm_eval_data).absolute()


def figures_line(figures: Iterable[TaskFigure]) -> str:
    """Format figures on one line, for example: arc_easy acc 0.7500 ± 0.0250 of 300."""
    texts = []
    for one in figures:
        how = "" if one.filter == "none" else f" ({one.filter})"
        error = "" if one.standard_error is None else f" ± {one.standard_error:.4f}"
        value = "no number" if one.value is None else f"{one.value:.4f}"
        texts.append(f"{one.task} {one.metric}{how} {value}{error}" + (f" of {one.rows}" if one.rows else ""))
    return ", ".join(texts)
