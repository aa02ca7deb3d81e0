"""Frozen weights in int8 with one scale per row, dequantized when a layer multiplies them.

This is no export scheme: a teacher is stored in this form if memory does not suffice for float32. Only its weights are rounded.
"""

from collections.abc import Callable, Iterator

from torch import Tensor, nn
from torch.nn.utils import parametrize
from transformers import PreTrainedModel

from compression.models.linear_layers import is_linear, is_transposed
from compression.quantization.dynamic_int8 import integer_rows
from compression.quantization.moe_layers import WEIGHTS, SimulatedExperts, fused_expert_modules


class _Rows(nn.Module):
    """A weight as int8 and scales, a torch parametrization. turned: whether it is (inputs, outputs)."""

    def __init__(self, *, turned: bool) -> None:
        super().__init__()
        self.turned = turned

    def forward(self, whole: Tensor, scale: Tensor) -> Tensor:
        """Dequantize. whole: (outputs, inputs), int8; scale: (outputs, 1) -> the module's own layout."""
        weight = whole.to(scale.dtype) * scale
        return weight.t() if self.turned else weight

    def right_inverse(self, weight: Tensor) -> tuple[Tensor, Tensor]:
        """Quantize. weight: in the module's own layout -> int8 (outputs, inputs), scales (outputs, 1)."""
        return integer_rows(weight.t() if self.turned else weight)


class FrozenInt8Experts(SimulatedExperts):
    """Fused experts that store their matrices in int8."""

    def matrices(self, name: str) -> Callable[[int], Tensor]:
        """Return a function that dequantizes one expert's matrix by its number, (out, in)."""
        whole, scale = self.get_parameter(name), self.get_buffer(f"{name}_scale")
        return lambda number: whole[number].to(scale.dtype) * scale[number]

    def product(self, x: Tensor, weight: Tensor) -> Tensor:
        """Multiply in floating point. x: (tokens, in), weight: (out, in) -> (tokens, out)."""
        return nn.functional.linear(x, weight)


def freeze_int8(model: PreTrainedModel) -> int:
    """Quantize a frozen model's linear layers and experts to int8 in place; return the element count.

    Embedding tables stay in floating point, and so does a language model's output layer, tied or not: it computes logits a few
    tokens at a time, and would be dequantized each time. Raises ValueError if the model is trained: integers have no gradients.
    """
    if any(parameter.requires_grad for parameter in model.parameters()):
        raise ValueError("a model that is trained cannot be frozen in integers")
    done = 0
    for _, experts in list(fused_expert_modules(model)):
        for key in WEIGHTS:
            whole, scale = integer_rows(experts.get_parameter(key))
            done += whole.numel()
            setattr(experts, key, nn.Parameter(whole, requires_grad=False))
            experts.register_buffer(f"{key}_scale", scale)
        experts.stock, experts.__class__ = type(experts), FrozenInt8Experts  # type: ignore[assignment]
    for _, module in list(_layers(model)):
        done += module.weight.numel()  # type: ignore[operator]
        # Unsafe: the stored tensors have another dtype than the weight, which is the purpose.
        parametrize.register_parametrization(module, "weight", _Rows(turned=is_transposed(module)), unsafe=True)
    return done


def layers_to_freeze(model: PreTrainedModel) -> dict[str, nn.Parameter]:
    """Return the weights that `freeze_int8` would quantize, by parameter name."""
    found = {f"{name}.{key}": experts.get_parameter(key) for name, experts in fused_expert_modules(model) for key in WEIGHTS}
    return found | {f"{name}.weight": module.get_parameter("weight") for name, module in _layers(model)}


def unfreeze(model: PreTrainedModel, weights: Callable[[str], Tensor]) -> None:
    """Undo `freeze_int8` in place. weights: returns one weight by its name in `layers_to_freeze`."""
    for name, module in list(model.named_modules()):
        if isinstance(module, FrozenInt8Experts):
            for key in WEIGHTS:
                _put_back(module, key, weights(f"{name}.{key}"))
                delattr(module, f"{key}_scale")
            module.__class__ = module.stock  # type: ignore[assignment]  # the class before `freeze_int8`
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
