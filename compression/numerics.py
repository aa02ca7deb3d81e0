"""dynamic-int8: one definition of the integers, simulated in training exactly as the shipped artifact computes them.

Weights are int8, symmetric, one scale per output channel; activations 8-bit, symmetric, one scale per token (row), computed
on the fly; embeddings int8, one scale per row. All scales are max|·| / 127, so ±127 is the range. Rounding is half to even
(torch.round, ONNX Round). Gradients pass straight through (Bengio et al. 2013). Nothing here has state: scales are
recomputed in each forward, so pruning may slice the weights and the scales follow.
"""

from collections.abc import Callable, Iterator

import torch
from torch import Tensor, nn
from torch.nn import functional

LEVELS = 127.0
SMALLEST_SCALE = 1e-12
"""Keeps an all-zero row from dividing by zero; the exporters use the same constant."""


def row_scales(x: Tensor) -> Tensor:
    """Return one scale per row. x: (..., features) -> (..., 1)."""
    return (x.detach().abs().amax(dim=-1, keepdim=True) / LEVELS).clamp_min(SMALLEST_SCALE)


def integers(x: Tensor) -> tuple[Tensor, Tensor]:
    """Quantize each row. x: (..., features) -> (int8 of x's shape, float32 scales (..., 1))."""
    scale = row_scales(x)
    return torch.round(x.detach() / scale).clamp(-LEVELS, LEVELS).to(torch.int8), scale


class _RoundRows(torch.autograd.Function):
    @staticmethod
    def forward(x: Tensor) -> Tensor:
        scale = row_scales(x)
        return torch.round(x / scale).clamp_(-LEVELS, LEVELS) * scale

    @staticmethod
    def setup_context(ctx: object, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        pass

    @staticmethod
    def backward(ctx: object, *grads: Tensor) -> Tensor:  # noqa: ARG004 (autograd calls it so)
        return grads[0]


def fake_quantize_rows(x: Tensor) -> Tensor:
    """Round each row to its 255 levels and back; the gradient is the identity. x: (..., features) -> same shape."""
    rounded: Tensor = _RoundRows.apply(x)  # type: ignore[no-untyped-call]
    return rounded


class FakeQuantLinear(nn.Linear):
    """nn.Linear that computes as the int8 artifact will. Same state dict, no state of its own."""

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002 (the name is nn.Linear's)
        """(..., in) -> (..., out)."""
        return functional.linear(fake_quantize_rows(input), fake_quantize_rows(self.weight), self.bias)


class FakeQuantEmbedding(nn.Embedding):
    """nn.Embedding whose rows are int8. Only the rows that are asked for are rounded."""

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002
        """(...) of ids -> (..., features)."""
        return fake_quantize_rows(super().forward(input))


_FAKE: dict[type[nn.Module], type[nn.Module]] = {nn.Linear: FakeQuantLinear, nn.Embedding: FakeQuantEmbedding}
_REAL: dict[type[nn.Module], type[nn.Module]] = {fake: real for real, fake in _FAKE.items()}


def quantizable(model: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """Yield (name, module) of everything that dynamic-int8 turns to integers, quantized already or not, in model order."""
    for name, module in model.named_modules():
        if type(module) in _FAKE or type(module) in _REAL:
            yield name, module


def insert(model: nn.Module, only: Callable[[str], bool] = lambda _name: True) -> list[str]:
    """Simulate int8 in the modules whose name `only` accepts; return their names. Parameters and keys stay as they are.

    The class of the module is exchanged in place, because replacing the module would lose ties, hooks and optimizers.
    """
    names = []
    for name, module in quantizable(model):
        if only(name):
            module.__class__ = _FAKE.get(type(module), type(module))
            names.append(name)
    return names


def remove(model: nn.Module) -> None:
    """Undo `insert`."""
    for _, module in quantizable(model):
        module.__class__ = _REAL.get(type(module), type(module))
