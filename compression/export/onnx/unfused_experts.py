"""Replaces fused experts by separate linear layers for tracing: a traced graph cannot select rows by their values. Each expert
computes every row, weighted by the row's share, mostly 0: the same function, in products that ONNX can compute in integers.
"""

from typing import Any

import torch
from torch import Tensor, nn

from compression.quantization.moe_layers import fused_expert_modules


class _Expert(nn.Module):
    def __init__(self, gate_up: Tensor, down: Tensor, act_fn: Any) -> None:
        super().__init__()
        self.gate_up, self.down = _linear(gate_up), _linear(down)
        self.act_fn = act_fn

    def forward(self, x: Tensor) -> Tensor:
        gates, values = self.gate_up(x).chunk(2, dim=-1)
        output: Tensor = self.down(self.act_fn(gates) * values)
        return output


class _Apart(nn.Module):
    def __init__(self, experts: Any) -> None:
        super().__init__()
        pairs = zip(experts.gate_up_proj, experts.down_proj, strict=True)
        self.each = nn.ModuleList(_Expert(gate_up, down, experts.act_fn) for gate_up, down in pairs)

    def forward(self, hidden_states: Tensor, top_k_index: Tensor, top_k_weights: Tensor) -> Tensor:
        """Compute the stock module's forward pass: (rows, hidden), twice (rows, chosen) -> (rows, hidden)."""
        nothing = hidden_states.new_zeros(hidden_states.shape[0], len(self.each))
        shares = nothing.scatter(1, top_k_index, top_k_weights.to(nothing.dtype))
        out = torch.zeros_like(hidden_states)
        for number, expert in enumerate(self.each):
            out = out + expert(hidden_states) * shares[:, number : number + 1]
        return out


def _linear(weight: Tensor) -> nn.Linear:
    layer = nn.Linear(weight.shape[1], weight.shape[0], bias=False, device="meta")
    layer.weight = nn.Parameter(weight.detach().clone())
    return layer


def unfuse_experts(model: nn.Module) -> list[str]:
    """Replace fused experts by linear layers in place, in a copy that the caller owns; return the replaced names."""
    found = list(fused_expert_modules(model))
    for name, module in found:
        path, _, leaf = name.rpartition(".")
        setattr(model.get_submodule(path), leaf, _Apart(module))
    return [name for name, _ in found]
