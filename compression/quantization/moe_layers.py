"""Fused experts in 3-D tensors: each expert's matrices are quantized like separate linear layers.

In static-int8 they use dynamic-int8: an expert receives different tokens in every batch, so a range of its own would rest on
few tokens.
"""

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from compression.quantization.dynamic_int8 import LEVELS, integer_linear
from compression.quantization.weight_only import fake_quantized_weights
from compression.schema.schemes import SCHEMES, Scheme

WEIGHTS = ("gate_up_proj", "down_proj")


def fused_expert_modules(model: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """Yield (name, module) of all fused experts, simulated or not, in model order."""
    for name, module in model.named_modules():
        if all(isinstance(found := getattr(module, key, None), nn.Parameter) and found.ndim == 3 for key in WEIGHTS):
            yield name, module


class SimulatedExperts(nn.Module):
    """Fused experts that compute with integers.

    The stock module only changes its class, so parameters and keys stay.
    stock: the module's original class; scheme, group_size, levels: as in a linear layer.
    """

    stock: type[nn.Module]
    scheme: Scheme
    group_size: int | None
    levels: float = LEVELS
    gate_up_proj: nn.Parameter
    down_proj: nn.Parameter
    act_fn: Any

    def forward(self, hidden_states: Tensor, top_k_index: Tensor, top_k_weights: Tensor) -> Tensor:
        """Compute each expert on the tokens that are routed to it.

        hidden_states: (tokens, hidden); top_k_index, top_k_weights: (tokens, chosen) -> (tokens, hidden).
        """
        out = torch.zeros_like(hidden_states)
        up, down = self.matrices("gate_up_proj"), self.matrices("down_proj")
        for number in sorted(set(top_k_index.flatten().tolist())):
            tokens, places = torch.where(top_k_index == number)
            gates, values = self.product(hidden_states[tokens], up(number)).chunk(2, dim=-1)
            said = self.product(self.act_fn(gates) * values, down(number)) * top_k_weights[tokens, places, None]
            out = out.index_add(0, tokens, said.to(out.dtype))
        return out

    def matrices(self, name: str) -> Callable[[int], Tensor]:
        """Return a function that gives one expert's matrix by its number, (out, in)."""
        # Unbind once: indexing one expert would give a gradient as large as that of all experts.
        return self.get_parameter(name).unbind(0).__getitem__

    def product(self, x: Tensor, weight: Tensor) -> Tensor:
        """Multiply as a linear layer of the scheme does. x: (tokens, in), weight: (out, in) -> (tokens, out)."""
        if SCHEMES[self.scheme].rounds_activations:
            return integer_linear(x, weight, levels=self.levels)
        return functional.linear(x, fake_quantized_weights(weight, self.group_size))


def insert_experts(module: Any, scheme: Scheme, group_size: int | None, levels: float = LEVELS) -> None:
    """Make fused experts compute with the integers of a scheme, in place."""
    if not isinstance(module, SimulatedExperts):
        stock = type(module)
        module.__class__ = SimulatedExperts
        module.stock = stock
    module.scheme, module.group_size, module.levels = scheme, group_size, levels


def remove_experts(module: Any) -> None:
    """Restore the stock class of fused experts."""
    if isinstance(module, SimulatedExperts):
        module.__class__ = module.stock  # type: ignore[assignment]  # the class before `insert_experts`
