"""Runs lm-eval on a model: `python -m compression lm-eval-job SPEC.json`. Import this module only if lm-eval is installed."""

import json
import os
import random
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import chdir, contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import torch
import transformers
from lm_eval.evaluator import evaluate
from lm_eval.models.huggingface import HFLM
from lm_eval.tasks import TaskManager
from lm_eval.tasks._index import Entry, Kind
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase, PreTrainedTokenizerFast

from compression.evaluation.lm_eval.harness import Found, figures, installed
from compression.evaluation.lm_eval.harness_job import AskSpec
from compression.models import loading
from compression.models.architectures import heads
from compression.planning.memory import HARNESS_BYTES
from compression.quantization.fake_quantize import insert_fake_quantization
from compression.schema.errors import CompressionError, ConfigMismatch, InvalidSpec, MissingResource
from compression.schema.validation import Rejected
from compression.system import child_process, durable_files, failures
from compression.system.child_process import Step
from compression.system.device import training_device

SLICE = 8  #: batches between two progress reports
Tell = Callable[[Step | Found], None]


class _InSlices(HFLM):  # type: ignore[misc]  # lm-eval's classes have no types
    """lm-eval's own model class, run in slices to report the progress of each kind of request. most: the largest batch size."""

    def __init__(self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, most: int, tell: Tell) -> None:
        # A checkpoint may have separate embeddings and output layer although its config ties them; lm-eval follows the config.
        model.tie_weights = lambda *_, **__: None
        super().__init__(pretrained=model, tokenizer=tokenizer, backend="causal", batch_size=most)
        self._most, self._tell = most, tell

    def loglikelihood(self, requests: Sequence[Any], disable_tqdm: bool = True) -> list[Any]:
        return self._in_slices(super().loglikelihood, requests, disable_tqdm)

    def loglikelihood_rolling(self, requests: Sequence[Any], disable_tqdm: bool = True) -> list[Any]:
        return self._in_slices(super().loglikelihood_rolling, requests, disable_tqdm)

    def generate_until(self, requests: Sequence[Any], disable_tqdm: bool = True) -> list[Any]:
        return self._in_slices(super().generate_until, requests, disable_tqdm)

    def _in_slices(self, answer: Callable[..., list[Any]], requests: Sequence[Any], disable_tqdm: bool) -> list[Any]:
        self.batch_size_per_gpu = self._batch_size(requests)
        answers: list[Any] = []
        for at in range(0, len(requests), SLICE * self.batch_size_per_gpu):
            self._tell(Step(done=at, total=len(requests)))
            answers += answer(requests[at : at + SLICE * self.batch_size_per_gpu], disable_tqdm=disable_tqdm)
        self._tell(Step(done=len(answers), total=len(answers)))
        return answers

    def _batch_size(self, requests: Sequence[Any]) -> int:
        """Return the batch size whose logits take HARNESS_BYTES: lm-eval keeps those of all tokens and their log-softmax."""
        texts = ["".join(part for part in request.args if isinstance(part, str)) for request in requests]
        longest = max(map(len, self.tokenizer(texts, add_special_tokens=False)["input_ids"])) + 1
        logits: int = 2 * 4 * min(longest, self.config.max_position_embeddings) * self.config.vocab_size
        return max(1, min(self._most, HARNESS_BYTES // logits))


def ask(spec: AskSpec, tell: Tell) -> None:
    """Run tasks on a model one by one, or only try them out if there is no model. tell: receives progress and results. Raises
    MissingResource if a task has no data here, InvalidSpec if a task is unknown or cannot run, ConfigMismatch if the model
    cannot be opened, and the errors of the machine (such as OutOfMemory).
    """
    if spec.job:
        os.environ["DISABLE_MULTIPROC"] = "1"  # lm-eval's resampling: a confined engine has no semaphores to share
    if spec.threads is not None:
        torch.set_num_threads(spec.threads)
    transformers.utils.logging.disable_progress_bar()
    manager = _manager_of(spec)
    if unknown := next((name for name in spec.tasks if not manager.match_tasks([name])), None):
        raise InvalidSpec(f"lm-eval {installed()} has no task {unknown!r:.100}")
    model = None if spec.folder is None else _InSlices(*_opened(Path(spec.folder), spec), spec.batch, tell)
    for task in spec.tasks:
        try:
            with _data_in(spec):
                loaded = _loaded(task, manager, spec)
                if model is None:
                    _try_out(loaded["tasks"], spec)
                    continue
                results = evaluate(model, loaded, limit=spec.limit, log_samples=False, bootstrap_iters=spec.resamples)
        except CompressionError:
            raise
        except Exception as problem:  # anything that lm-eval or a task's own code raises
            cause = f"{task} cannot be run: {str(problem)[:300] or type(problem).__name__}"
            raise failures.typed(problem) or InvalidSpec(cause) from problem
        tell(Found(figures=tuple(figures(results)), lm_eval=installed(), limit=spec.limit))


def _opened(folder: Path, spec: AskSpec) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """Open a model and its tokenizer; it tokenizes as tokenizer.json does, as for a job's own figures."""
    try:
        if spec.job:
            model = loading.open_whole(folder, heads.LANGUAGE)
            if spec.simulation is not None:
                insert_fake_quantization(model, simulation=spec.simulation)
        else:
            model = AutoModelForCausalLM.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
        tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
        if isinstance(tokenizer, PreTrainedTokenizerFast) and (folder / "tokenizer.json").is_file():
            loading.as_filed(tokenizer, folder)
    except Exception as problem:  # transformers raises many types
        cause = f"{folder} cannot be opened as a causal language model: {str(problem)[:300]}"
        raise failures.typed(problem) or ConfigMismatch(
            cause, param=str(folder), remedy="Name the folder of a downloaded transformers checkpoint of a language model."
        ) from problem
    return model.to(training_device()), tokenizer


def _loaded(task: str, manager: TaskManager, spec: AskSpec) -> Any:
    random.seed(spec.seed)
    np.random.seed(spec.seed)
    torch.manual_seed(spec.seed)
    try:
        found = manager.load([task])
    except OSError as problem:  # `datasets` raises it if the hub is unreachable or files are missing
        raise MissingResource(f"there is no data of {task} here: {str(problem)[:300]}") from problem
    for name, one in found["tasks"].items():
        if getattr(one, "UNSAFE_CODE", False) or getattr(one, "MULTIMODAL", False):
            raise InvalidSpec(f"{name} runs what models write, or shows them more than text")
        own = one.get_config("num_fewshot")
        if spec.few_shot is not None and own != 0:  # a task's own 0 is mandatory
            one.set_config(key="num_fewshot", value=spec.few_shot)
        elif own is None:
            one.set_config(key="num_fewshot", value=0)
        one.set_fewshot_seed(seed=spec.seed)
    return found


def _try_out(tasks: dict[str, Any], spec: AskSpec) -> None:
    """Build and discard each task's first request. Raises InvalidSpec if the model has too few positions."""
    for name, task in tasks.items():
        try:
            task.build_all_requests(limit=1, rank=0, world_size=1)
        except Exception as problem:  # anything that a task's own code raises
            raise InvalidSpec(f"lm-eval cannot make requests of {name}: {str(problem)[:300]}") from problem
        for request in task.instances:
            written = request.args[1].get("max_gen_toks", 256) if request.request_type == "generate_until" else 0
            if spec.positions is not None and written >= spec.positions:
                raise InvalidSpec(f"{name} lets the model write {written} tokens, and its limit is {spec.positions} in all")


@contextmanager
def _data_in(spec: AskSpec) -> Iterator[None]:
    """Load tasks' data from the spec's folder within this context; missing data is requested from the hub. `datasets` caches
    what it has read by its name, whatever the folder. So the cache is separate: the spec's, or a temporary one.
    """
    if spec.data is None:
        yield
        return
    with tempfile.TemporaryDirectory() as temporary, chdir(spec.data):
        before, datasets.config.HF_DATASETS_CACHE = datasets.config.HF_DATASETS_CACHE, Path(spec.cache or temporary)
        try:
            yield
        finally:
            datasets.config.HF_DATASETS_CACHE = before


_all_tasks = cache(TaskManager)  # indexes the package's thousands of tasks, which takes some seconds


def _manager_of(spec: AskSpec) -> TaskManager:
    """Return the task index: of the user's folder alone if it has all requested tasks."""
    if spec.include is None:
        return _all_tasks() if spec.cache is None else _of_job(Path(spec.cache) / f"tasks-{installed()}.json")
    own = TaskManager(include_path=spec.include, include_defaults=False)
    return own if all(own.match_tasks([name]) for name in spec.tasks) else TaskManager(include_path=spec.include)


def _of_job(kept: Path) -> TaskManager:
    """Return the index that a job keeps in a file, or build it and keep it: each stage's process needs one. It names a task's
    file, which lm-eval reads again when it builds the task.
    """
    if kept.is_file():
        return _Indexed(json.loads(kept.read_text("utf-8")))
    found = _all_tasks()
    index = found.task_index.items()
    told = [(name, one.kind.name, one.yaml_path and str(one.yaml_path), sorted(one.tags)) for name, one in index]
    kept.parent.mkdir(parents=True, exist_ok=True)
    durable_files.write_text(kept, json.dumps(told))
    return found


class _Indexed(TaskManager):  # type: ignore[misc]  # see above
    """lm-eval's task index, from what was kept of it."""

    def __init__(self, kept: list[tuple[str, str, str | None, list[str]]]) -> None:
        super().__init__(include_defaults=False)
        for name, kind, place, tags in kept:
            self._index[name] = Entry(name, Kind[kind], Path(place) if place else None, tags=set(tags))
        self._all_tasks = sorted(self._index)


def main(path: Path) -> int:
    """Run the spec at `path`; print steps, a `Found` per task, and on error one `Rejected`. Returns 0."""
    tell = child_process.telling()
    try:
        ask(AskSpec.model_validate_json(path.read_bytes()), tell)
    except Exception as problem:
        found = problem if isinstance(problem, CompressionError) else failures.typed(problem)
        if found is None:
            raise
        tell(Rejected(reasons=(found.as_dict(),)))
    return 0
