"""Warm engines: a worker forks the engine of a job, and the engine what it measures with, in place of fresh interpreters."""

import os
import signal
import sys
import tempfile
import traceback
from collections.abc import Mapping
from pathlib import Path
from typing import IO, NoReturn

import torch
from transformers import AutoModelForSequenceClassification

import compression.engine.commands.run  # noqa: F401 (what an engine imports)
from compression.engine import shipping
from compression.engine.pipeline import compress
from compression.evaluation.measure import Measured
from compression.schema.job_spec import Spec
from compression.schema.report.measurements import NotMeasured
from compression.system import child_process
from tests.support import tracing, warm_children
from tests.support.examples import TINY_RECIPE, tiny_model, tiny_splits
from tests.support.measuring import briefly_apart, of
from tests.support.warm import become, leave
from tests.support.warm_children import run_engine


def prepare() -> None:
    """Import the engine and rehearse a job; have workers fork their engines where Landlock confines them."""
    torch.set_num_threads(1)
    tracing.keep()
    rehearse()
    shipping.measure_artifact = briefly_apart
    child_process.start = Child
    warm_children.fork("run")


def rehearse() -> None:
    """Export what a job on the tiny model does, but train and measure nothing.

    What is imported at an export is there from then on, and so are the graphs of the tiny model's shapes.
    """
    nothing, measured = NotMeasured(not_measured="It is rehearsed."), shipping.measure_artifact
    shipping.measure_artifact = lambda *_, **__: of(Measured(latency=nothing, score=nothing, peak_memory_bytes=nothing))
    with tempfile.TemporaryDirectory() as made:
        place = Path(made)
        folder = tiny_model(place / "model")
        labels = {"id2label": {0: "negative", 1: "positive"}, "label2id": {"negative": 0, "positive": 1}}
        AutoModelForSequenceClassification.from_pretrained(folder, **labels).save_pretrained(folder)
        for name, rows in tiny_splits(96).items():
            (place / name).write_bytes(rows)
        splits = {name: [f"{name}.jsonl"] for name in ("train", "validation", "test")}
        recipe = {**TINY_RECIPE, "prepare": {"epochs": 0}, "distill": None}
        data = {"format": "jsonl", "splits": splits}
        job = {"model": "model", "data": data, "recipe": recipe, "output": "out", "threads": 1}
        for _ in compress(Spec.model_validate(job), place):
            pass
    shipping.measure_artifact = measured


class Child:
    """A measuring process, forked from its engine; by the part of subprocess.Popen's interface that child_process needs."""

    def __init__(self, arguments: list[str], env: dict[str, str], errors: IO[bytes]) -> None:
        reader, writer = os.pipe()
        self.returncode: int | None = None
        self.pid = os.fork()
        if self.pid == 0:
            run_measuring([sys.executable, "-P", "-m", "compression", *arguments], env, (writer, errors.fileno()))
        os.close(writer)
        self.stdout = os.fdopen(reader, "rb", buffering=0)

    def wait(self, timeout: float | None = None) -> int:
        """Wait for the end of a process that has closed its output or was killed."""
        if self.returncode is None:
            self.returncode = os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])
        return self.returncode

    def kill(self) -> None:
        if self.returncode is None:
            os.kill(self.pid, signal.SIGKILL)


def run_measuring(command: list[str], env: Mapping[str, str], outputs: tuple[int, int]) -> NoReturn:
    """Be the child that an engine measures with, without the engine's heartbeat."""
    try:
        torch.nn.modules.module._global_forward_pre_hooks.clear()
        become(command, env, Path.cwd(), (os.open(os.devnull, os.O_RDONLY), *outputs))
    except BaseException:
        traceback.print_exc()
        leave(1)
    run_engine(sys.executable, command)
