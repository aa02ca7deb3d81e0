"""A stock model's layers, compiled by torch (inductor) for the steps of a training."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import nn
from transformers.modeling_layers import GradientCheckpointingLayer

from compression.quantization.fake_quantize import is_simulated
from compression.schema.events import Log
from compression.training.config import TrainingConfig
from compression.training.save import TrainerState

LONG_STEPS = 1000
"""Optimizer steps from which on a training on a GPU is compiled unasked: compiling takes a minute or more."""


def on_gpu(model: nn.Module) -> bool:
    """Return whether a model is on a GPU."""
    return next(model.parameters()).device.type == "cuda"


class CompiledLayers:
    """The compiled forward passes of a model's layers, which are in place for the time of a step only.

    All else, validation and export among it, runs the model as it is. Layers that simulate integers are never compiled: a
    compiler may round otherwise than the artifact.
    """

    def __init__(self, model: nn.Module, plan: TrainingConfig) -> None:
        self.model, self.plan, self.begun = model, plan, False
        self.forwards: dict[nn.Module, Callable[..., object]] = {}

    def begin(self, where: TrainerState, attempt: Callable[[], object]) -> Iterator[Log]:
        """Compile the layers if the plan asks for it, and try them once; if that fails, train without and say so.

        attempt: a small step, which compiles its kernels.
        """
        asked = self.plan.compile
        wanted = asked == "on" or (asked == "auto" and where.total >= LONG_STEPS and on_gpu(self.model))
        if wanted and is_simulated(self.model):
            remark = f"{self.plan.name} runs without torch.compile while it simulates integers."
            if asked == "on" and remark not in where.remarks:
                where.remarks.append(remark)
            return
        if self.begun or not wanted:
            return
        self.begun, start = True, time.monotonic()
        torch._inductor.config.compile_threads = 1  # in this process: an engine may not have many
        layers = [module for module in self.model.modules() if isinstance(module, GradientCheckpointingLayer)]
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
