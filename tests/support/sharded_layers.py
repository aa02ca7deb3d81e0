"""Looks at whose layers are sharded when a batch is computed."""

import pytest
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule
from torch.distributed.tensor import DTensor

from compression.training.gradient_checkpointing import layers_of
from compression.training.sharded import Sharded


def is_sharded(layer: nn.Module) -> bool:
    """Whether a layer gathers its own weights, of which this process now has its part."""
    return isinstance(layer, FSDPModule) and all(isinstance(weight, DTensor) for weight in layer.parameters())


def seen(monkeypatch: pytest.MonkeyPatch) -> list[list[bool]]:
    """Return what is found from now on: at each batch, whether all layers are, of the student and of each teacher asked."""
    found, works = list[list[bool]](), dict[Sharded, list[nn.Module]]()
    begin, loss = Sharded.__init__, Sharded.loss

    def begun(self: Sharded, work: object, *more: object) -> None:
        works[self] = [work.model, *work.hooks.asked]  # type: ignore[attr-defined]
        begin(self, work, *more)  # type: ignore[arg-type]

    def looked(self: Sharded, batch: object) -> Tensor:
        found.append([all(map(is_sharded, layers_of(model))) and bool(layers_of(model)) for model in works[self]])
        return loss(self, batch)

    monkeypatch.setattr(Sharded, "__init__", begun)
    monkeypatch.setattr(Sharded, "loss", looked)
    return found
