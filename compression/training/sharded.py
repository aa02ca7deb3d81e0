"""One training by several processes: weights, gradients and optimizer in shards (FSDP2; Zhao et al. 2023), rows in parts.

Each layer is a unit of its own, and what belongs to no layer is another: a unit's weights are gathered for its forward pass
and for its backward pass, and its gradients are summed and sharded right after it. Frozen models that the loss asks are sharded
by layer, too. What the first process alone does (validation, saving) it does with the whole model.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, cast

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed._composable_state import _module_state_mapping
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.distributed.tensor import DTensor, Shard

from compression.evaluation.validate import Validation
from compression.modalities.base import AnyBatch
from compression.training.gradient_checkpointing import layers_of
from compression.training.work import Found, Work

HOST = torch.device("cpu")
GO_ON, SAVE = 0.0, 1.0
CAPTURES = "_output_capturing_hooks_installed"
"""The mark of a model whose hidden states transformers captures by hooks, which are of one form."""


@contextmanager
def threads(count: int) -> Iterator[None]:
    """Let this process compute with so many threads within this context."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


class _Step(nn.Module):
    """A model with its loss: the outermost unit, so that a loss may call any part of the model."""

    def __init__(self, model: nn.Module, loss: Callable[[Any], Tensor]) -> None:
        super().__init__()
        self.model = model
        self.value = loss

    def forward(self, batch: Any) -> Tensor:
        """Return the loss of a batch -> scalar."""
        return self.value(batch).clone()  # of a view its backward hook could be lost


@dataclass
class _Form:
    """What a module has in its plain or its sharded form: class, parameters and hooks."""

    kind: type[nn.Module]
    own: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def of(cls, module: nn.Module) -> "_Form":
        own = vars(module).items()
        kept = {key: value.copy() for key, value in own if isinstance(value, dict) and (key == "_parameters" or "hooks" in key)}
        marks = {key: value for key, value in own if key == CAPTURES or key.startswith("__composable")}
        return cls(type(module), kept | marks)

    def give(self, module: nn.Module) -> None:
        """Give a module this form."""
        if isinstance(module, FSDPModule) or issubclass(self.kind, FSDPModule):
            module.__class__ = self.kind
        vars(module).pop(CAPTURES, None)
        vars(module).update({key: value.copy() if isinstance(value, dict) else value for key, value in self.own.items()})


class Sharded:
    """This process's part of a training. The process group must be there. device: of this process; threads: of all processes,
    which the first judges with.

    The first process's model is plain outside of the training's steps (`plain`), with empty weights in between.
    """

    begins_anew = False
    gathers = True

    def __init__(self, work: Work, device: torch.device, threads: int) -> None:
        self._threads = threads
        self.rank, self.size, self.device = dist.get_rank(), dist.get_world_size(), device
        self.mesh = init_device_mesh(device.type, (self.size,))
        self._extra = list(work.hooks.extra)
        self._modules = list(dict.fromkeys(m for one in (work.model, *work.hooks.asked) for m in one.modules()))
        self._step = _Step(work.model, work.loss)
        before = [_Form.of(module) for module in self._modules]
        originals = dict(self._named())
        for parameter in originals.values():
            parameter.data = parameter.data.contiguous()  # FSDP takes no other memory layout
        for layer in self._layers(work.hooks.asked):
            fully_shard(layer, mesh=self.mesh, reshard_after_forward=True)
        for layer in self._layers([work.model]):
            # A backward pass that begins within a layer would find its weights gone.
            fully_shard(layer, mesh=self.mesh, reshard_after_forward=not work.hooks.inside)
        fully_shard(self._step, mesh=self.mesh, reshard_after_forward=False)
        cast(FSDPModule, self._step)._get_fsdp_state()._lazy_init()  # before its form is kept, for it adds hooks
        self._plain, self._shards = before, [_Form.of(module) for module in self._modules]
        after = dict(self._named())
        self._of = {id(p): after[name] for name, p in originals.items()}
        self._pairs = [(p, after[name]) for name, p in originals.items() if isinstance(after[name], DTensor)]
        self._drop()

    def _named(self) -> Iterator[tuple[tuple[int, str], nn.Parameter]]:
        for number, module in enumerate(self._modules):
            for name, parameter in module.named_parameters(recurse=False):
                yield (number, name), parameter

    def _layers(self, models: Iterable[nn.Module]) -> Iterator[nn.Module]:
        for layer in dict.fromkeys(layer for model in models for layer in layers_of(model)):
            # Without parameters there is nothing to shard; what teachers have on the host beside a card is not asked.
            if any(parameter.device.type == self.device.type for parameter in layer.parameters()):
                yield layer

    def _drop(self) -> None:
        """Free the plain weights: what is sharded holds them."""
        for plain, shard in self._pairs:
            plain.data = torch.empty(0, dtype=shard.dtype, device=self.device)

    def parameters(self, given: Iterable[nn.Parameter]) -> list[nn.Parameter]:
        """Return the sharded parameters in place of the plain ones."""
        return [self._of.get(id(parameter), parameter) for parameter in given]

    def piece(self, batch: AnyBatch) -> tuple[AnyBatch, float]:
        """Return one of as many parts as there are processes; if there are fewer, the first part with the weight 0: all
        processes gather weights together.
        """
        parts = batch.split(self.size)
        return (parts[self.rank], parts[self.rank].weight) if self.rank < len(parts) else (parts[0], 0)

    def loss(self, batch: Any) -> Tensor:
        """Return the loss of this process's part -> scalar."""
        return cast(Tensor, self._step(batch))

    def summed(self, value: Tensor) -> float:
        """Return the sum of a scalar over all processes."""
        total = value.detach().to(HOST, torch.float64)
        dist.all_reduce(total)
        return total.item()

    def backward(self, value: Tensor) -> None:
        """Add the gradients of the sum of all values. FSDP divides by the number of processes."""
        (value * self.size).backward()  # type: ignore[no-untyped-call]

    def clip(self, parameters: Sequence[nn.Parameter], most: float) -> float:
        """Sum the gradients of the extra parameters; scale all down to a norm of at most `most` together."""
        has = torch.tensor([extra.grad is not None for extra in self._extra], dtype=torch.int32)
        dist.all_reduce(has)
        for extra, wanted in zip(self._extra, has.tolist(), strict=True):
            if wanted:
                extra.grad = torch.zeros_like(extra) if extra.grad is None else extra.grad
                dist.all_reduce(extra.grad)
                extra.grad /= self.size
        grads = [parameter.grad for parameter in parameters if parameter.grad is not None]
        squares = torch.zeros((), dtype=torch.float64)
        for grad in grads:
            if isinstance(grad, DTensor):
                squares += grad.to_local().double().square().sum().to(HOST)
        dist.all_reduce(squares)
        squares += sum(grad.double().square().sum().item() for grad in grads if not isinstance(grad, DTensor))
        norm = squares.sqrt().item()
        scale = min(most / (norm + 1e-6), 1.0)
        for grad in grads:
            self.local(grad).mul_(scale)
        return norm

    def agreed(self, wanted: bool) -> bool:
        """Return what the first process wants."""
        return self._told(float(wanted)) != 0.0

    def shared(self, found: Found | None) -> Found | None:
        """Return the first process's object."""
        both = [found]
        dist.broadcast_object_list(both, device=HOST)
        return both[0]

    def judged(self, judge: Callable[[], Validation] | None) -> Validation:
        """Return what the first process finds of the whole model; the others wait."""
        found = None
        with self.plain():
            if judge is not None:
                with threads(self._threads):
                    found = judge()
        result = self.shared(found)
        assert result is not None, "the first process judges"  # noqa: S101
        return result

    @contextmanager
    def plain(self) -> Iterator[None]:
        """Make the first process's models whole and plain within this context."""
        self._fill()
        if self.rank == 0:
            self._give(self._plain)
        try:
            yield
        finally:
            if self.rank == 0:
                self._give(self._shards)
                self._drop()

    @torch.no_grad()
    def _fill(self) -> None:
        for plain, shard in self._pairs:
            whole = cast(DTensor, shard).full_tensor()
            if self.rank == 0:
                plain.data = whole.detach()
                plain.requires_grad_(shard.requires_grad)

    def _give(self, forms: Sequence[_Form]) -> None:
        for module, form in zip(self._modules, forms, strict=True):
            form.give(module)

    def local(self, weight: Tensor) -> Tensor:
        """Return the part of a weight, or of a tensor like it, that this process holds: its own memory."""
        return weight.to_local().detach() if isinstance(weight, DTensor) else weight

    def whole(self, weight: Tensor, part: Tensor) -> Tensor:
        """Return a copy of a tensor like `weight` whose parts the processes hold, in the host's memory: an empty one in others
        than the first, which saves it.
        """
        if not isinstance(weight, DTensor):  # each holds all of it
            return part.detach().to(HOST, copy=True) if self.rank == 0 else torch.empty(0, dtype=part.dtype)
        mine = part.detach().to(self.device)
        shape, stride = weight.shape, weight.stride()
        sharded = DTensor.from_local(mine, self.mesh, weight.placements, run_check=False, shape=shape, stride=stride)
        whole = sharded.full_tensor()  # all gather it, and only the first keeps it
        return whole.to(HOST) if self.rank == 0 else torch.empty(0, dtype=whole.dtype)

    def part(self, weight: Tensor, whole: Tensor | None) -> Tensor:
        """Return this process's part of a tensor like `weight` that the first process has."""
        sent = torch.empty(weight.shape, dtype=weight.dtype) if whole is None else whole.to(HOST, weight.dtype).contiguous()
        dist.broadcast(sent, 0)
        if not isinstance(weight, DTensor):
            return sent
        placement = cast(Shard, weight.placements[0])
        parts = sent.chunk(self.size, placement.dim)
        return parts[self.rank] if self.rank < len(parts) else sent.narrow(placement.dim, 0, 0)

    def average(self, buffers: Sequence[Tensor]) -> None:
        """Set running statistics to their mean over the processes; counts are the same in all."""
        for buffer in buffers:
            if buffer.is_floating_point():
                dist.all_reduce(buffer)
                buffer /= self.size

    def gather(self) -> None:
        """Tell the others that the first process saves."""
        if self.rank == 0:
            self._told(SAVE)

    def settle(self, gather: Callable[[], Mapping[str, Tensor]]) -> None:
        """End a step; take part in what the first process saves until it goes on."""
        while self._told(GO_ON) == SAVE:
            gather()

    def _told(self, value: float) -> float:
        word = torch.tensor(value, dtype=torch.float64)
        dist.broadcast(word, 0)
        return word.item()

    def discard(self) -> None:
        """Forget gathered weights and gradients of a step that is not finished."""
        cast(FSDPModule, self._step).reset_iter_state()

    def finish(self) -> None:
        """Give the first process's models their weights; `leave` makes them plain."""
        self._fill()

    def leave(self) -> None:
        """Leave the models plain. Unless `finish` filled them, weights that were sharded are undefined."""
        self._give(self._plain)
        for module in (self._step, *self._modules):
            _module_state_mapping.pop(module, None)
            for key in [key for key in vars(module) if key.startswith("__composable")]:
                delattr(module, key)
        for plain, shard in self._pairs:
            if plain.shape != shard.shape:
                plain.data = torch.zeros(shard.shape, dtype=shard.dtype, device=self.device)

    def seed(self, seed: int) -> None:
        """Seed torch's generators: in the first process as if it were alone."""
        torch.manual_seed(seed + 1_000_000_007 * self.rank)
