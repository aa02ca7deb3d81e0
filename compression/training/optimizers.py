"""AdamW in float32, or with moments of 8 bits, and its groups of parameters."""

from collections.abc import Collection, Iterable, Mapping
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn

from compression.models.tensors import Tensors
from compression.planning.memory import CHUNK, MOMENT_BLOCK, SMALLEST_ROUNDED
from compression.training.config import TrainingConfig
from compression.training.work import Group

MOMENTS = {"exp_avg": True, "exp_avg_sq": False}
"""AdamW's moments, by torch's names, and whether they have signs."""
STATE = ("step", *MOMENTS, *(f"{name}_scale" for name in MOMENTS))
"""What an optimizer may keep of a parameter, by the names in a save."""


class AdamW8bit(torch.optim.Optimizer):
    """AdamW with both moments of a parameter in 8 bits and a float32 scale for each block of 256 (Dettmers et al. 2022).

    Rounding is torchao's. Its own `torchao.optim.AdamW8bit` compiles a kernel for each shape, which needs a compiler beside
    the engine; here the same steps run as they are, some million values at a time, so that their temporary tensors stay small.
    Parameters of fewer than 4,096 values, or of no whole number of blocks, keep moments in float32. The state is plain tensors.
    """

    def __init__(self, groups: Iterable[dict[str, Any]], lr: float) -> None:
        super().__init__(groups, {"lr": lr, "betas": (0.9, 0.999), "eps": 1e-8, "weight_decay": 0.01})

    @torch.no_grad()
    def step(self) -> None:  # type: ignore[override]  # no closure is called
        """Step all parameters that have gradients."""
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    self._step(parameter, group)

    def _step(self, parameter: Tensor, group: dict[str, Any]) -> None:
        state = self.state[parameter]
        if not state:
            state.update(_no_moments(parameter))
        state["step"] += 1
        assert parameter.grad is not None, "the caller has looked"  # noqa: S101
        values, gradient = (tensor.detach().contiguous().view(-1) for tensor in (parameter, parameter.grad))
        for start in range(0, len(values), CHUNK):
            _update(values, gradient, state, group, slice(start, start + CHUNK))
        if not parameter.is_contiguous():
            parameter.copy_(values.view(parameter.shape))


def _no_moments(parameter: Tensor) -> dict[str, Tensor]:
    """Return a parameter's state before its first step."""
    count, device = parameter.numel(), parameter.device
    state = {"step": torch.zeros((), device=device)}
    for name in MOMENTS:
        if count < SMALLEST_ROUNDED or count % MOMENT_BLOCK:
            state[name] = torch.zeros(count, device=device)
        else:  # code 0 is the least number of a map, and what it stands for does not matter while the scale is 0
            state[name] = torch.zeros(count, dtype=torch.uint8, device=device)
            state[f"{name}_scale"] = torch.zeros(count // MOMENT_BLOCK, device=device)
    return state


def _update(values: Tensor, gradient: Tensor, state: dict[str, Tensor], group: dict[str, Any], where: slice) -> None:
    """Step some values of a parameter in place, by AdamW's rule as torchao has it. values, gradient: (values,)."""
    from torchao.optim.quant_utils import scale_tensor  # here: only jobs that ask for it wait for its import

    own, slope, (beta1, beta2) = values[where], gradient[where].float(), group["betas"]
    step, rate = state["step"], torch.tensor(group["lr"])
    blocks = slice(where.start // MOMENT_BLOCK, where.stop // MOMENT_BLOCK)
    found = dict[str, Tensor]()
    for name, signed in MOMENTS.items():
        if (scale := state.get(f"{name}_scale")) is None:
            found[name] = state[name][where]
        else:
            known = _map(signed, own.device).index_select(0, state[name][where].int())
            found[name] = (known.view(-1, MOMENT_BLOCK) * scale[blocks, None]).view(-1)
    mean = found["exp_avg"].lerp(slope, 1 - beta1)
    square = found["exp_avg_sq"].lerp(slope.square(), 1 - beta2)
    for (name, signed), moment in zip(MOMENTS.items(), (mean, square), strict=True):
        if (scale := state.get(f"{name}_scale")) is None:
            state[name][where] = moment
        else:
            scaled, scale[blocks] = scale_tensor(moment, MOMENT_BLOCK)
            state[name][where] = _nearest(scaled, _map(signed, own.device))
    fresh = own.float() - rate * group["weight_decay"] * own.float()
    size = square.sqrt() / (1 - beta2**step).sqrt() + group["eps"]
    own.copy_(fresh - rate * (mean / (1 - beta1**step)) / size)


def _nearest(scaled: Tensor, numbers: Tensor) -> Tensor:
    """Return the code of the nearest number for each value from -1 to 1, (values,), as torchao's search by halves finds it."""
    below = (torch.bucketize(scaled, numbers, out_int32=True, right=True) - 1).clamp_(min=0)
    above = (below + 1).clamp_(max=len(numbers) - 1)
    low, high = numbers.index_select(0, below), numbers.index_select(0, above)
    return torch.where(scaled - low >= (high - low) * 0.5, above, below).to(torch.uint8)


@cache
def _map(signed: bool, device: torch.device) -> Tensor:
    """Return the number that each of 256 codes stands for, ascending: (256,)."""
    from torchao.optim.quant_utils import create_dynamic_map

    return torch.tensor(create_dynamic_map(signed=signed)).to(device)


def like(weight: Tensor, values: Tensor, device: torch.device | None = None) -> Tensor:
    """Return a copy of values in the weight's own memory layout: fused AdamW walks both tensors in memory order."""
    return torch.empty_like(weight, device=device, requires_grad=False).copy_(values)


def saved_state(
    parameter: Tensor, number: int, shapes: Mapping[str, tuple[int, ...]], tensors: Tensors, group: Group
) -> dict[str, Tensor]:
    """Return what a save holds of a parameter's optimizer state, on its device; nothing of one that was always frozen.

    number: of the parameter. shapes: of all tensors in the save. tensors: the save; empty in others than the first process.
    """
    state: dict[str, Tensor] = {}
    for name, key in ((name, f"{name}.{number}") for name in STATE if f"{name}.{number}" in shapes):
        if shapes[key] == tuple(parameter.shape):
            state[name] = torch.empty_like(parameter, requires_grad=False)  # in its memory layout, as in `like`
            group.local(state[name]).copy_(group.part(parameter, tensors.get(key)))
        else:
            found = group.shared(tensors.get(key))
            assert found is not None, "the first process has it"  # noqa: S101
            state[name] = found.to(parameter.device, copy=True)
    return state


def make_optimizer(
    plan: TrainingConfig, model: nn.Module, parameters: Iterable[nn.Parameter], head: Collection[int], decay: float
) -> torch.optim.Optimizer:
    """Return the optimizer that a training asks for. head: ids of the parameters that `plan.head_factor` applies to.

    Biases, norms and tables have no weight decay, and so have modules that say so (`decays`): a table's row that no text uses
    must keep its pre-trained values. torch's own AdamW is fused on all devices: one kernel walks weight, gradient and moments
    together.
    """
    still = (m for m in model.modules() if isinstance(m, nn.Embedding) or not getattr(m, "decays", True))
    tables = {id(p) for m in still for p in m.parameters()}
    groups: list[dict[str, Any]] = []
    everything = list(parameters)
    for of_head, factor in ((False, 1.0), (True, plan.head_factor)):
        for kind in {type(p): None for p in everything}:  # the fused kernel takes no sharded tensors beside others
            own = [p for p in everything if (id(p) in head) == of_head and type(p) is kind]
            plain = [p for p in own if p.ndim < 2 or id(p) in tables]
            decayed = [p for p in own if p.ndim >= 2 and id(p) not in tables]
            groups.append({"params": decayed, "weight_decay": decay, "decays": True, "factor": factor})
            groups.append({"params": plain, "weight_decay": 0.0, "decays": False, "factor": factor})
    groups = [group for group in groups if group["params"]]
    return AdamW8bit(groups, plan.rate) if plan.optimizer == "adamw-8bit" else torch.optim.AdamW(groups, plan.rate, fused=True)
