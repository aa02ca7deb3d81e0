"""What lm-eval is given: a stock checkpoint or a job's model, and its tasks. Imported where lm-eval is known to be there."""

import random
import tempfile
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import chdir, contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import torch
import transformers
from lm_eval.api.model import LM
from lm_eval.evaluator import evaluate
from lm_eval.models.huggingface import HFLM
from lm_eval.tasks import TaskManager
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase, PreTrainedTokenizerFast

from compression.models import loading
from compression.planning.estimator import HARNESS_BYTES
from compression.schema.errors import ConfigMismatch, InvalidSpec

SLICE = 8
"""Batches after which it is told how far asking is."""


class NoData(Exception):
    """The data of a task is not to be had here."""


class Unfit(Exception):
    """A task that cannot be asked of such a model, or not here."""


class _Wanted(Exception):
    """Requests whose answers are not known yet."""

    def __init__(self, kind: str, requests: Sequence[Any]) -> None:
        super().__init__(kind)
        self.kind, self.requests = kind, requests


class _Replay(LM):  # type: ignore[misc]  # lm-eval's classes have no types
    """Says what is known, and stops lm-eval where it asks for anything else: so it is asked in pieces, by who called it."""

    def __init__(self, known: Mapping[str, list[Any]]) -> None:
        super().__init__()
        self.known = known

    def _said(self, kind: str, requests: Sequence[Any]) -> list[Any]:
        if kind not in self.known:
            raise _Wanted(kind, requests)
        return self.known[kind]

    def loglikelihood(self, requests: Sequence[Any]) -> list[Any]:
        return self._said("loglikelihood", requests)

    def loglikelihood_rolling(self, requests: Sequence[Any]) -> list[Any]:
        return self._said("loglikelihood_rolling", requests)

    def generate_until(self, requests: Sequence[Any]) -> list[Any]:
        return self._said("generate_until", requests)


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
        tokenizer = _tokenizer(folder)
    except Exception as problem:  # transformers raises whatever it meets
        raise ConfigMismatch(
            f"{folder} cannot be opened as a causal language model: {str(problem)[:300]}",
            param=str(folder),
            remedy="Name the folder of a downloaded transformers checkpoint of a language model.",
        ) from problem
    try:
        precompute = told(model, tokenizer, tasks, manager, few_shot=few_shot, batch=batch, limit=limit, seed=seed)
        while True:
            next(precompute)
    except StopIteration as end:
        found: Mapping[str, Any] = end.value
        return found
    except Unfit as problem:
        raise InvalidSpec(str(problem), param="--tasks", remedy="Name other tasks, or another --few-shot.") from problem
    except NoData as problem:
        raise InvalidSpec(
            f"the tasks' data cannot be had: {problem}",
            param="--tasks",
            remedy="Run it where the hub can be reached, or give --data a folder that has the data under its name on the hub.",
        ) from problem


def _tokenizer(folder: Path) -> PreTrainedTokenizerBase:
    """Open a checkpoint's tokenizer; texts are cut as tokenizer.json says, by which a job's own figures are taken."""
    found = AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    if isinstance(found, PreTrainedTokenizerFast) and (folder / "tokenizer.json").is_file():
        loading.as_filed(found, folder)
    return found


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
) -> Generator[tuple[int, int], None, Mapping[str, Any]]:
    """Ask a model that is open; return lm-eval's own table of results. The model is left as it was, but for its mode.

    Yields how many requests of one kind are answered, and of how many. batch: fewer go together where their logits would take
    more than HARNESS_BYTES. resamples: for the standard errors that lm-eval has no formula for; by default as many as it takes
    itself. Raises NoData, Unfit, and what the model raises.
    """
    answers: dict[str, list[Any]] = {}
    while True:
        try:
            found: Mapping[str, Any] | None = evaluate(
                _Replay(answers),
                loaded(tasks, manager, few_shot=few_shot, seed=seed),
                limit=limit,
                log_samples=False,
                bootstrap_iters=resamples,
            )
        except _Wanted as wanted:
            kind, requests = wanted.kind, wanted.requests
        else:
            assert found is not None, "only other processes than the first return nothing"  # noqa: S101
            return found
        size = _together(model, tokenizer, requests, batch)
        with _untied(model):
            precompute = HFLM(pretrained=model, tokenizer=tokenizer, backend="causal", batch_size=size)
        answers[kind] = []
        for at in range(0, len(requests), SLICE * size):
            answers[kind] += getattr(precompute, kind)(requests[at : at + SLICE * size], disable_tqdm=True)
            yield len(answers[kind]), len(requests)


def loaded(tasks: Sequence[str], manager: TaskManager, *, few_shot: int | None, seed: int) -> Any:
    """Open tasks with their data, each with as many examples as asked, or as its own settings say. Raises NoData and Unfit."""
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)
    try:
        found = manager.load(list(tasks))
    except OSError as problem:  # what `datasets` raises for a hub that is not reached, and for files that are not there
        raise NoData(str(problem)[:300]) from problem
    except (ImportError, LookupError, RuntimeError, ValueError) as problem:
        raise Unfit(f"lm-eval cannot open {', '.join(tasks)} here: {str(problem)[:300]}") from problem
    for name, task in found["tasks"].items():
        if getattr(task, "UNSAFE_CODE", False) or getattr(task, "MULTIMODAL", False):
            raise Unfit(f"{name} runs what models write, or shows them more than text")
        own = task.get_config("num_fewshot")
        if few_shot is not None and own != 0:  # 0 is what a task insists on
            task.set_config(key="num_fewshot", value=few_shot)
        elif own is None:
            task.set_config(key="num_fewshot", value=0)
        task.set_fewshot_seed(seed=seed)
    return found


def try_out(tasks: Sequence[str], manager: TaskManager, positions: int, *, few_shot: int | None, seed: int) -> None:
    """Make the first request of each task, and let it go. positions: that the model has. Raises NoData and Unfit."""
    for name, task in loaded(tasks, manager, few_shot=few_shot, seed=seed)["tasks"].items():
        try:
            task.build_all_requests(limit=1, rank=0, world_size=1)
        except Exception as problem:  # whatever a task's own code meets
            raise Unfit(f"lm-eval cannot make requests of {name}: {str(problem)[:300]}") from problem
        for request in task.instances:
            said = request.args[1].get("max_gen_toks", 256) if request.request_type == "generate_until" else 0
            if said >= positions:
                raise Unfit(f"{name} lets the model write {said} tokens, and it takes at most {positions} in all")


def unknown_in(tasks: Sequence[str], manager: TaskManager) -> str | None:
    """Return the first name that is no task's; None where all are known."""
    return next((name for name in tasks if not manager.match_tasks([name])), None)


@contextmanager
def data_in(folder: Path | None, cache: Path | None = None) -> Iterator[None]:
    """Let tasks' data come from a folder while this lasts; what it lacks is asked of the hub.

    `datasets` looks for a name on the hub only where the current folder has no such folder. What it has read it keeps by that
    name, whichever folder it was in; so it keeps that apart: in `cache`, which stays, or in a folder that goes with the end.
    """
    if folder is None:
        yield
        return
    with tempfile.TemporaryDirectory() as temporary, chdir(folder):
        before, datasets.config.HF_DATASETS_CACHE = datasets.config.HF_DATASETS_CACHE, cache or Path(temporary)
        try:
            yield
        finally:
            datasets.config.HF_DATASETS_CACHE = before


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


def _together(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, requests: Sequence[Any], most: int) -> int:
    """Say how many requests may go together: lm-eval takes logits of all their tokens, and their logarithms beside."""
    texts = ["".join(part for part in request.args if isinstance(part, str)) for request in requests]
    longest = max(map(len, tokenizer(texts, add_special_tokens=False)["input_ids"])) + 1
    logits: int = 2 * 4 * min(longest, model.config.max_position_embeddings) * model.config.vocab_size
    return max(1, min(most, HARNESS_BYTES // logits))


@contextmanager
def _untied(model: PreTrainedModel) -> Iterator[None]:
    """Keep lm-eval from tying the output layer to the table anew: where a checkpoint has both, its config may say otherwise."""
    model.tie_weights = lambda *_, **__: None
    try:
        yield
    finally:
        del model.tie_weights
