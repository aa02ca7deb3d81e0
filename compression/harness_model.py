"""What lm-eval is given: a stock checkpoint, opened here, and its tasks. Imported where lm-eval is known to be there."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import transformers
from lm_eval import simple_evaluate
from lm_eval.models.huggingface import HFLM
from lm_eval.tasks import TaskManager
from transformers import AutoModelForCausalLM, AutoTokenizer

from compression.errors import ConfigMismatch, InvalidSpec


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
    manager = _manager(tasks, include)
    unknown = [name for name in tasks if not manager.match_tasks([name])]
    if unknown:
        raise InvalidSpec(
            f"lm-eval has no task {unknown[0]!r:.100}",
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
        found: Mapping[str, Any] | None = simple_evaluate(
            model=HFLM(pretrained=model, tokenizer=tokenizer, backend="causal", batch_size=batch),
            tasks=list(tasks),
            num_fewshot=few_shot,
            limit=limit,
            task_manager=manager,
            log_samples=False,
            random_seed=seed,
            numpy_random_seed=seed,
            torch_random_seed=seed,
            fewshot_random_seed=seed,
        )
    except OSError as problem:  # what `datasets` raises for a hub that is not reached, and for files that are not there
        raise InvalidSpec(
            f"the tasks' data cannot be had: {str(problem)[:300]}",
            param="--tasks",
            remedy="Run it where the hub can be reached, or give --data a folder that has the data under its name on the hub.",
        ) from problem
    assert found is not None, "only other processes than the first return nothing"  # noqa: S101
    return found


def _manager(tasks: Sequence[str], include: Path | None) -> TaskManager:
    """Find the tasks: in the user's folder alone where all are there, for going through the package's thousands takes long."""
    if include is None:
        return TaskManager()
    own = TaskManager(include_path=str(include), include_defaults=False)
    return own if all(own.match_tasks([name]) for name in tasks) else TaskManager(include_path=str(include))
