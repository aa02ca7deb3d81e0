"""A stock model's layers, compiled by torch (inductor) for the steps of a training."""

import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from shutil import which

import torch
from torch import nn

from compression.quantization.fake_quantize import is_simulated
from compression.schema.events import Log
from compression.training.config import TrainingConfig
from compression.training.gradient_checkpointing import layers_of
from compression.training.save import TrainerState

LONG_STEPS = 1000
"""Optimizer steps from which on a training on a GPU is compiled unasked: compiling takes a minute or more."""
GRAPHS = 4
"""That a layer may need: in training and in evaluation mode, each for several rows and for one, which torch compiles apart."""
COMPILERS = ("gcc", "clang")
"""Those that Triton looks for if CC names none."""


def can_compile(model: nn.Module) -> bool:
    """Return whether a model is on a GPU, and there is a C compiler, which Triton needs for the code that launches kernels."""
    named = os.environ.get("CC")
    return next(model.parameters()).device.type == "cuda" and any(map(which, [named] if named else COMPILERS))


def allow_graphs(count: int) -> None:
    """Let torch compile one function so many times more than before in this process.

    All layers of a class are one function to torch. Pruned layers have widths of their own, and what was compiled for earlier
    trainings counts too; beyond torch's limits layers run uncompiled from then on, and nothing says so.
    """
    limits = torch._dynamo.config
    limits.recompile_limit += count
    limits.accumulated_recompile_limit += count


class CompiledLayers:
    """The compiled forward passes of a model's layers, which are in place for the time of a step only.

    All else, validation and export among it, runs the model as it is. Layers that simulate integers are never compiled: a
    compiler may round otherwise than the artifact.
    """

    def __init__(self, model: nn.Module, plan: TrainingConfig) -> None:
        self.model, self.plan, self.begun = model, plan, False
        self.forwards: dict[nn.Module, Callable[..., object]] = {}

    def begin(self, where: TrainerState, steps: int, attempt: Callable[[], object]) -> Iterator[Log]:
        """Compile the layers if the plan asks for it, and try them once; if that fails, train without and say so.

        steps: expected of the training; attempt: a small step, which compiles its kernels.
        """
        asked = self.plan.compile
        if asked != "on" and (asked == "off" or steps < LONG_STEPS or not can_compile(self.model)):
            return
        layers, simulated = layers_of(self.model), is_simulated(self.model)
        if simulated or not layers:
            why = "while it simulates integers" if simulated else "since the model has no layers that can be compiled alone"
            remark = f"{self.plan.name} runs without torch.compile {why}."
            if asked == "on" and remark not in where.remarks:
                where.remarks.append(remark)
            return
        if self.begun:
            return
        self.begun, start = True, time.monotonic()
        torch._inductor.config.compile_threads = 1  # in this process: an engine may not have many
        allow_graphs(GRAPHS * len(layers))
        self.forwards = {layer: torch.compile(layer.forward, dynamic=True) for layer in layers}
        try:
            attempt()
        except Exception as problem:
            self.forwards = {}
            told = " ".join(str(problem).split())[:200]
            remark = f"{self.plan.name} runs without torch.compile, which failed ({type(problem).__name__}: {told})."
            if remark not in where.remarks:
                where.remarks.append(remark)
            yield Log(level="warning", message=remark)
            return
        torch._dynamo.config.suppress_errors = True  # what fails later, for another shape, runs uncompiled
        yield Log(message=f"{self.plan.name} runs {len(layers)} layers compiled; that took {time.monotonic() - start:.0f} s.")

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """Run the layers compiled within this context, if they are and simulate nothing now."""
        forwards = {} if is_simulated(self.model) else self.forwards
        for layer, forward in forwards.items():
            layer.forward = forward
        try:
            yield
        finally:
            for layer in forwards:
                del layer.forward
