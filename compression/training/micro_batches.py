"""Micro-batches: a batch goes through the model in as many parts as the device's memory asks for."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from heapq import nlargest
from typing import TypeVar

import torch
from torch import Tensor, nn

from compression.modalities.base import AnyBatch, TrainingRows
from compression.planning.memory import moment_bytes
from compression.schema.errors import OutOfMemory
from compression.schema.events import Log
from compression.system.device import release_device_memory
from compression.system.failures import typed
from compression.training.config import TrainingConfig
from compression.training.save import TrainerState, random_state, set_random_state

Result = TypeVar("Result")
Gradients = Callable[[list[AnyBatch], int], bool]
"""Adds up the gradients of batches, in a number of micro-batches each; returns whether the loss was finite."""
FEW_ROWS = 2


def in_parts(attempt: Callable[[int], Result], parts: int, most: int, undo: Callable[[], None]) -> tuple[Result, int]:
    """Call `attempt` with a number of micro-batches, twice as many after each time that memory did not suffice.

    Returns its result and the number. most: the number beyond which more do not help, the rows of a batch. undo: called after
    each failure, to forget what was begun and to free its memory. Raises the last failure, and what has other causes.
    """
    while True:
        try:
            return attempt(parts), parts
        except (RuntimeError, MemoryError) as problem:
            if parts >= most or not isinstance(typed(problem), OutOfMemory):
                raise
        undo()  # not above: until there, the failure's own frames hold the activations
        parts = min(2 * parts, most)


def longest_batch(rows: TrainingRows[AnyBatch], size: int) -> AnyBatch:
    """Return the batch of `size` rows that takes most memory: the longest rows; of rows that vary, a batch of their views."""
    if rows.varies:
        return next(rows.shuffled(size, 0))
    lengths = rows.lengths
    return rows.batch(nlargest(size, range(len(rows)), key=lengths.__getitem__))


def parts_of(batch: int, rows: int) -> int:
    """Return how many micro-batches of at most `rows` rows a batch has."""
    return -(-batch // rows)


class MicroBatches:
    """The number of micro-batches of one training, which grows when memory does not suffice (`TrainerState.parts`)."""

    def __init__(
        self, plan: TrainingConfig, parameters: Sequence[nn.Parameter], buffers: Sequence[Tensor], *, begins_anew: bool = True
    ) -> None:
        """parameters, buffers: what a step gives gradients to, and what it changes besides. begins_anew: whether a step may be
        tried, and begin anew; if not, the planned number stays.
        """
        self.plan, self.parameters, self.buffers, self.begins_anew = plan, parameters, buffers, begins_anew

    def choose(self, where: TrainerState, rows: TrainingRows[AnyBatch], gradients: Gradients[AnyBatch]) -> Iterator[Log]:
        """Choose the number before the first step. On a device beside the CPU, `auto` finds the fewest that fit: it computes
        the gradients of the longest rows, beside room for the moments that the optimizer has from its first step on.

        Nothing of what is computed for it stays.
        """
        plan, device = self.plan, self.parameters[0].device
        if where.parts:  # chosen by the attempt that this one goes on from, which may have failed for want of memory
            where.parts = max(where.parts, plan.parts)
            return
        where.parts = max(plan.parts, 1 if plan.micro_batch == "auto" else parts_of(plan.batch, plan.micro_batch))
        if plan.micro_batch != "auto" or device.type == "cpu" or not self.begins_anew:
            return
        batches = [longest_batch(rows, plan.batch)] * min(plan.accumulate, 2)  # gradients stay beside the second one's step
        with self._without_trace(where):
            attempt = partial(self._beside_moments, gradients, batches)
            _, where.parts = in_parts(attempt, where.parts, plan.batch, self._undo())
        found = f"{plan.name} computes batches of {plan.batch} rows in micro-batches of {parts_of(plan.batch, where.parts)}"
        if where.parts > plan.parts:
            where.remarks.append(f"{found}: more did not fit the device's memory.")
        yield Log(message=f"{found}.")

    def try_few(self, where: TrainerState, rows: TrainingRows[AnyBatch], gradients: Gradients[AnyBatch]) -> None:
        """Compute the gradients of a few rows. Nothing of it stays."""
        with self._without_trace(where):
            gradients([longest_batch(rows, min(FEW_ROWS, self.plan.batch))], 1)

    def compute(self, where: TrainerState, gradients: Callable[[int], bool]) -> bool:
        """Compute a step's gradients in the chosen number of micro-batches; return what `gradients` returns.

        If memory does not suffice, the step begins anew with twice as many if it may, and later steps have as many.
        """
        plan, before = self.plan, where.parts or self.plan.parts
        most = plan.batch if self.begins_anew else before
        finite, where.parts = in_parts(gradients, before, most, self._undo())
        if where.parts > before:
            where.remarks.append(
                f"Memory did not suffice in step {where.step + 1} of {plan.name}: from there on, batches of {plan.batch} rows "
                f"are computed in micro-batches of {parts_of(plan.batch, where.parts)}."
            )
        return finite

    def _beside_moments(self, gradients: Callable[[list[AnyBatch], int], bool], batches: list[AnyBatch], parts: int) -> None:
        trained = [parameter for parameter in self.parameters if parameter.requires_grad]
        sizes = (moment_bytes(self.plan.optimizer, parameter.numel()) for parameter in trained)
        room = [torch.empty(size, dtype=torch.uint8, device=self.parameters[0].device) for size in sizes]
        gradients(batches, parts)
        del room

    @contextmanager
    def _without_trace(self, where: TrainerState) -> Iterator[None]:
        """Forget gradients, running statistics, random numbers and the loss of what is computed within this context."""
        undo, random, loss = self._undo(), random_state(), where.last_loss
        try:
            yield
        finally:
            undo()
            set_random_state(random)
            where.last_loss = loss

    def _undo(self) -> Callable[[], None]:
        """Return what forgets the gradients and running statistics of a step that begins anew, and frees its memory."""
        before = [buffer.clone() for buffer in self.buffers]

        def undo() -> None:
            for parameter in self.parameters:
                parameter.grad = None
            with torch.no_grad():
                for own, value in zip(self.buffers, before, strict=True):
                    own.copy_(value)
            release_device_memory()

        return undo
