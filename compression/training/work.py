"""One training as a whole: what is trained, on what and how; and the seam between it and the processes that do it.

One process is a group of its own (`Alone`); `sharded` has the group of several.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import Any, Protocol, TypedDict, TypeVar

import torch
from torch import Tensor, nn

from compression.evaluation.validate import Validation
from compression.modalities.base import AnyBatch, TrainingRows
from compression.training.budget import Budget
from compression.training.config import TrainingConfig
from compression.training.save import ResumableTraining

BeforeEpoch = Callable[[int], None]
BeforeStep = Callable[[int, int], None]
Found = TypeVar("Found")


def nothing(*_: int) -> None:
    """Do nothing before an epoch or a step."""


@dataclass(frozen=True)
class TrainingHooks:
    """What a stage adds to the plain loop.

    `before_epoch` may freeze parameters or exchange layers; it must also work if it is called in mid-epoch, after a resumption.
    `before_step` is called with (step, total steps) before each step. `extra` are parameters that are trained beside the
    model's and discarded afterwards. `head` are the parameters of the model that `plan.head_factor` applies to, `frozen` those
    that do not train. `asked` are frozen models that the loss asks. `inside`: the loss reads what layers make, so that a
    backward pass may begin within one. All of it, the loss and the rows can be pickled, so that
    further processes get them.
    """

    before_epoch: BeforeEpoch = nothing
    before_step: BeforeStep = nothing
    extra: Sequence[nn.Parameter] = ()
    head: Sequence[nn.Parameter] = ()
    frozen: Sequence[nn.Parameter] = ()
    asked: Sequence[nn.Module] = ()
    inside: bool = False


NO_HOOKS = TrainingHooks()


@dataclass(frozen=True)
class Work:
    """A training: all that each of its processes needs to know."""

    model: nn.Module
    plan: TrainingConfig
    rows: TrainingRows[Any]
    loss: Callable[[Any], Tensor]
    hooks: TrainingHooks
    budget: Budget


class Group(Protocol):
    """The processes that do one training. All of them call the same methods in the same order."""

    begins_anew: bool  #: whether a step that lacks memory may begin anew: not if others wait for this process in it
    gathers: bool  #: whether `whole` returns a copy in the host's memory: not if the process has all of it

    def parameters(self, given: Iterable[nn.Parameter]) -> list[nn.Parameter]:
        """Return the parameters that train in place of the given ones."""

    def piece(self, batch: AnyBatch) -> tuple[AnyBatch, float]:
        """Return this process's part of a micro-batch, and the units that its loss is a mean over: 0 if it has no part, and
        computes the loss of another's for nothing.
        """

    def loss(self, batch: Any) -> Tensor:
        """Return the loss of this process's part -> scalar."""

    def summed(self, value: Tensor) -> float:
        """Return the sum of a scalar over all processes."""

    def backward(self, value: Tensor) -> None:
        """Add the gradients of the sum of all processes' values."""

    def clip(self, parameters: Sequence[nn.Parameter], most: float) -> float:
        """Scale all gradients down to a norm of at most `most` together; return the norm before."""

    def agreed(self, wanted: bool) -> bool:
        """Return what the first process wants."""

    def shared(self, found: Found | None) -> Found | None:
        """Return the first process's object."""

    def judged(self, judge: Callable[[], Validation] | None) -> Validation:
        """Return what the first process's `judge` finds of the whole model. The others' is None."""

    def local(self, weight: Tensor) -> Tensor:
        """Return the part of a weight, or of a tensor like it, that this process holds: its own memory."""

    def whole(self, weight: Tensor, part: Tensor) -> Tensor:
        """Return a tensor like `weight` whose parts the processes hold; in others than the first it may be empty."""

    def part(self, weight: Tensor, whole: Tensor | None) -> Tensor:
        """Return this process's part of a tensor like `weight` that the first process has."""

    def average(self, buffers: Sequence[Tensor]) -> None:
        """Set running statistics to their mean over the processes."""

    def gather(self) -> None:
        """Tell the others that the first process saves, so that they take part in it."""

    def settle(self, gather: Callable[[], Mapping[str, Tensor]]) -> None:
        """End a step. In others than the first: take part in what the first process saves."""

    def discard(self) -> None:
        """Forget weights and gradients of a step that is not finished."""

    def finish(self) -> None:
        """End a training: the first process's model is whole once it has left the group."""

    def seed(self, seed: int) -> None:
        """Seed what is random in this process, as dropout: otherwise than in the others."""


class Alone:
    """One process."""

    begins_anew = True
    gathers = False

    def __init__(self, work: Work) -> None:
        self._loss = work.loss

    def parameters(self, given: Iterable[nn.Parameter]) -> list[nn.Parameter]:
        """Return the given ones."""
        return list(given)

    def piece(self, batch: AnyBatch) -> tuple[AnyBatch, float]:
        """Return the batch and its weight."""
        return batch, batch.weight

    def loss(self, batch: Any) -> Tensor:
        """Return the loss of a batch -> scalar."""
        return self._loss(batch)

    def summed(self, value: Tensor) -> float:
        """Return the value."""
        return value.item()

    def backward(self, value: Tensor) -> None:
        """Add the gradients of a value."""
        value.backward()  # type: ignore[no-untyped-call]

    def clip(self, parameters: Sequence[nn.Parameter], most: float) -> float:
        """Scale the gradients down to a norm; return the norm before."""
        return nn.utils.clip_grad_norm_(parameters, most).item()

    def agreed(self, wanted: bool) -> bool:
        """Return `wanted`."""
        return wanted

    def shared(self, found: Found | None) -> Found | None:
        """Return the object."""
        return found

    def judged(self, judge: Callable[[], Validation] | None) -> Validation:
        """Return what `judge` finds."""
        assert judge is not None, "the only process judges"  # noqa: S101
        return judge()

    def local(self, weight: Tensor) -> Tensor:
        """Return the weight."""
        return weight

    def whole(self, weight: Tensor, part: Tensor) -> Tensor:  # noqa: ARG002
        """Return the part, which is all."""
        return part

    def part(self, weight: Tensor, whole: Tensor | None) -> Tensor:  # noqa: ARG002
        """Return the tensor."""
        assert whole is not None, "the only process has it"  # noqa: S101
        return whole

    def average(self, buffers: Sequence[Tensor]) -> None:
        """Leave the running statistics."""

    def gather(self) -> None:
        """Tell nobody."""

    def settle(self, gather: Callable[[], Mapping[str, Tensor]]) -> None:
        """Do nothing."""

    def discard(self) -> None:
        """Do nothing: gradients are zeroed with the optimizer."""

    def finish(self) -> None:
        """Do nothing: the model is whole."""

    def seed(self, seed: int) -> None:
        """Seed torch's generators."""
        torch.manual_seed(seed)


class Processes(Protocol):
    """The processes that a job's trainings run in."""

    size: int

    def joined(self, work: Work) -> AbstractContextManager[Group]:
        """Do a training together within this context."""


class OneProcess:
    """This process alone."""

    size = 1

    @contextmanager
    def joined(self, work: Work) -> Iterator[Group]:
        """Do a training alone."""
        yield Alone(work)


ONE_PROCESS = OneProcess()


class Attempt(TypedDict, total=False):
    """What the trainings of a job's attempt share, and how one is resumed."""

    resumable: ResumableTraining | None
    """Saves, pauses and resumes this one."""
    budget: Budget | None
    """The job's limits on training."""
    processes: Processes
    """That train together."""
