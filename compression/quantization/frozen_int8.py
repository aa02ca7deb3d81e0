"""Weights that are only read, held in 8 bits: one scale a row, made float again layer by layer as they are multiplied.

Not a scheme of what is shipped: a teacher is held so where the memory for it in float32 is not there. What its answers lose
is what `integers` rounds, of weights alone.
"""

from collections.abc import Callable, Iterator
from typing import Any

from torch import Tensor, nn
from torch.nn.utils import parametrize
from transformers import PreTrainedModel

from compression.models.linear_layers import is_linear, is_transposed
from compression.quantization.dynamic_int8 import integer_rows
from compression.quantization.moe_layers import WEIGHTS, SimulatedExperts, fused_expert_modules


class _Rows(nn.Module):
    """A weight as int8 and scales, for torch's parametrizations. turned: whether it lies as (inputs, outputs)."""

    def __init__(self, *, turned: bool) -> None:
        super().__init__()
        self.turned = turned

    def forward(self, whole: Tensor, scale: Tensor) -> Tensor:
        """Make it float again. whole: (outputs, inputs), int8; scale: (outputs, 1) -> as it lies."""
        weight = whole.to(scale.dtype) * scale
        return weight.t() if self.turned else weight

    def right_inverse(self, weight: Tensor) -> tuple[Tensor, Tensor]:
        """Round it. weight: as it lies."""
        return integer_rows(weight.t() if self.turned else weight)


class FrozenInt8Experts(SimulatedExperts):
    """Fused experts that keep their matrices in 8 bits."""

    def matrices(self, name: str) -> Callable[[int], Tensor]:
        """Return what makes an expert's matrix float when it is asked for, (out, in)."""
        whole, scale = self.get_parameter(name), self.get_buffer(f"{name}_scale")
        return lambda number: whole[number].to(scale.dtype) * scale[number]

    def product(self, x: Tensor, weight: Tensor) -> Tensor:
        """Multiply in floating point. x: (tokens, in), weight: (out, in) -> (tokens, out)."""
        return nn.functional.linear(x, weight)


def freeze_int8(model: PreTrainedModel) -> int:
    """Round the weights of all linear layers and experts of a frozen model to 8 bits, in place; return how many elements.

    Tables stay, and so does a language model's output layer, whether it is one of them or not: what is kept of a teacher are
    its last states, of which this layer makes the answers, a few tokens at a time, and would be made float again for each few.
    Raises ValueError of a model that is trained: integers have no gradients.
    """
    if any(parameter.requires_grad for parameter in model.parameters()):
        raise ValueError("a model that is trained cannot be held in integers")
    done = 0
    for _, experts in list(fused_expert_modules(model)):
        done += _hold_experts(experts)
    for _, module in list(_layers(model)):
        done += module.weight.numel()  # type: ignore[operator]
        # Unsafe: what is kept is of another type than what is made of it, which is the purpose.
        parametrize.register_parametrization(module, "weight", _Rows(turned=is_transposed(module)), unsafe=True)
    return done


def layers_to_freeze(model: PreTrainedModel) -> dict[str, nn.Parameter]:
    """Return the weights that `hold` would round, by the names of their parameters."""
    found = {f"{name}.{key}": experts.get_parameter(key) for name, experts in fused_expert_modules(model) for key in WEIGHTS}
    return found | {f"{name}.weight": module.get_parameter("weight") for name, module in _layers(model)}


def unfreeze(model: PreTrainedModel, weights: Callable[[str], Tensor]) -> None:
    """Undo `hold`, in place. weights: gives by its name each of what `to_hold` returned before, one at a time."""
    for name, module in list(model.named_modules()):
        if isinstance(module, FrozenInt8Experts):
            for key in WEIGHTS:
                _put_back(module, key, weights(f"{name}.{key}"))
                delattr(module, f"{key}_scale")
            module.__class__ = module.stock  # type: ignore[assignment]  # as it was before `hold`
        elif parametrize.is_parametrized(module, "weight") and isinstance(module.parametrizations.weight[0], _Rows):
            parametrize.remove_parametrizations(module, "weight")
            _put_back(module, "weight", weights(f"{name}.weight"))


def _layers(model: PreTrainedModel) -> Iterator[tuple[str, nn.Module]]:
    stay = {id(module.weight) for module in model.modules() if isinstance(module, nn.Embedding)}
    if (head := model.get_output_embeddings()) is not None:
        stay.add(id(head.weight))
    for name, module in model.named_modules():
        if is_linear(module) and id(module.weight) not in stay and not parametrize.is_parametrized(module):
            yield name, module


def _put_back(module: nn.Module, key: str, weight: Tensor) -> None:
    device = getattr(module, key).device
    delattr(module, key)
    module.register_parameter(key, nn.Parameter(weight.to(device), requires_grad=False))


def _hold_experts(experts: Any) -> int:
    done = 0
    for name in WEIGHTS:
        whole, scale = integer_rows(getattr(experts, name))
        done += whole.numel()
        setattr(experts, name, nn.Parameter(whole, requires_grad=False))
        experts.register_buffer(f"{name}_scale", scale)
    experts.stock, experts.__class__ = type(experts), FrozenInt8Experts
    return done
