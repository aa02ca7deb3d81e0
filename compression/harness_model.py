"""What lm-eval is given: a stock checkpoint or a job's model, and its tasks. Imported where lm-eval is known to be there."""

from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
import transformers
from lm_eval import simple_evaluate
from lm_eval.models.huggingface import HFLM
from lm_eval.tasks import TaskManager, get_task_dict
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

from compression.errors import ConfigMismatch, InvalidSpec


class NoData(Exception):
    """The data of a task is not to be had here."""


def asked(
    folder: Path,
    tasks: Sequence[str],
    *,
    include: Path | None,
    few_shot: int | None,
    batch: int,
    limit: int | None,
    threads: int | None,
    seed: int,
) -> Mapping[str, Any]:
    """Return lm-eval's own table of results. See `harness.evaluate`."""
    if threads is not None:
        torch.set_num_threads(threads)
    transformers.utils.logging.disable_progress_bar()
    manager = manager_of(tasks, include)
    if unknown := unknown_in(tasks, manager):
        raise InvalidSpec(
            f"lm-eval has no task {unknown!r:.100}",
            param="--tasks",
            remedy="`lm-eval ls tasks` lists its own; --include names a folder with others.",
        )
    device = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        model = AutoModelForCausalLM.from_pretrained(folder, local_files_only=True, trust_remote_code=False).to(device)
        tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    except Exception as problem:  # transformers raises whatever it meets
        raise ConfigMismatch(
            f"{folder} cannot be opened as a causal language model: {str(problem)[:300]}",
            param=str(folder),
            remedy="Name the folder of a downloaded transformers checkpoint of a language model.",
        ) from problem
    try:
        return told(model, tokenizer, tasks, manager, few_shot=few_shot, batch=batch, limit=limit, seed=seed)
    except NoData as problem:
        raise InvalidSpec(
            f"the tasks' data cannot be had: {problem}",
            param="--tasks",
            remedy="Run it where the hub can be reached, or give --data a folder that has the data under its name on the hub.",
        ) from problem


def told(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    tasks: Sequence[str],
    manager: TaskManager,
    *,
    few_shot: int | None,
    batch: int,
    limit: int | None,
    seed: int,
    resamples: int = 100_000,
) -> Mapping[str, Any]:
    """Ask a model that is open; return lm-eval's own table of results. Raises NoData.

    resamples: for the standard errors that lm-eval has no formula for; by default as many as it takes itself.
    """
    try:
        found: Mapping[str, Any] | None = simple_evaluate(
            model=HFLM(pretrained=model, tokenizer=tokenizer, backend="causal", batch_size=batch),
            tasks=list(tasks),
            num_fewshot=few_shot,
            limit=limit,
            task_manager=manager,
            log_samples=False,
            bootstrap_iters=resamples,
            random_seed=seed,
            numpy_random_seed=seed,
            torch_random_seed=seed,
            fewshot_random_seed=seed,
        )
    except OSError as problem:  # what `datasets` raises for a hub that is not reached, and for files that are not there
        raise NoData(str(problem)[:300]) from problem
    assert found is not None, "only other processes than the first return nothing"  # noqa: S101
    return found


def look_for_data(tasks: Sequence[str], manager: TaskManager) -> None:
    """Read the data of tasks and let it go. Raises NoData."""
    try:
        get_task_dict(list(tasks), manager)
    except OSError as problem:
        raise NoData(str(problem)[:300]) from problem


def unknown_in(tasks: Sequence[str], manager: TaskManager) -> str | None:
    """Return the first name that is no task's; None where all are known."""
    return next((name for name in tasks if not manager.match_tasks([name])), None)


@lru_cache(maxsize=1)
def all_tasks() -> TaskManager:
    """Go through the package's thousands of tasks, which takes some seconds."""
    return TaskManager()


def manager_of(tasks: Sequence[str], include: Path | None) -> TaskManager:
    """Find the tasks: in the user's folder alone where all are there."""
    if include is None:
        return all_tasks()
    own = TaskManager(include_path=str(include), include_defaults=False)
    return own if all(own.match_tasks([name]) for name in tasks) else TaskManager(include_path=str(include))
