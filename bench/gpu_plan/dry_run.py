"""A training step on fake tensors, whose memory PyTorch's tracker counts: no card, no weights, hardly any memory."""

from itertools import cycle
from typing import Any
from unittest.mock import patch

import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.distributed._tools.mem_tracker import MemTracker
from torch.utils._python_dispatch import TorchDispatchMode

from bench.gpu_plan.step import Case, models_of, run
from compression.quantization import integer_products

aten = torch.ops.aten


class PeakTracker(MemTracker):  # type: ignore[no-untyped-call]
    """The tracker without statistics by module, which refuse a head that is called for one chunk of tokens after another."""

    def _pre_fw_hook(self, module: nn.Module, inputs: Any) -> None:
        pass

    def _post_fw_hook(self, module: nn.Module, inputs: Any, outputs: Any) -> None:
        pass

    def _pre_bw_hook(self, module: nn.Module, args: Any) -> None:
        pass

    def _post_bw_hook(self, module: nn.Module, args: Any) -> None:
        pass


class KnownValues(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Answers what fake tensors cannot: numbers that are read from them, and how many places a mask chooses.

    Losses are 1; a row of texts has several documents; masks of positions choose all; of `experts`, each is sent as many
    tokens as the others.
    """

    def __init__(self, experts: int) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.experts, self.numbers = experts, cycle(range(experts))

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Answer, or let the fake tensors do so."""
        if func is aten._local_scalar_dense.default:
            kind = args[0].dtype
            return False if kind == torch.bool else 1.0 if kind.is_floating_point else next(self.numbers)
        if func is aten.nonzero.default:
            return torch.empty((args[0].numel() // self.experts, args[0].ndim), dtype=torch.long)
        if func is aten.index.Tensor and len(args[1]) == 1 and args[1][0].dtype == torch.bool:
            values, mask = args[0], args[1][0]
            return values.reshape(mask.numel(), *values.shape[mask.ndim :]).clone()
        if func is aten._grouped_mm.default and args[0].dtype != torch.bfloat16:  # known to work, but not by its fake
            left, right, groups = args[0], args[1], args[2].numel()
            shape = (left.shape[0], right.shape[-1]) if right.ndim == 3 else (groups, left.shape[0], right.shape[1])
            return left.new_empty(shape)
        return func(*args, **(kwargs or {}))


def dry_run(case: Case) -> dict[str, int]:
    """Return the bytes at the peak of a case's training by the tracker's kinds, and their `Total`."""
    experts = case.published.config.get("n_routed_experts", 1)
    # As on a card, whose integers are multiplied as floats.
    with patch.object(integer_products, "integers_are_faster", lambda: False), FakeTensorMode(allow_non_fake_inputs=True):
        student, teacher = models_of(case)
        tracker = PeakTracker()
        tracker.track_external(student, *([teacher] if teacher is not None else []))
        with tracker, KnownValues(experts):
            run(case, student, teacher)
        (found,) = tracker.get_tracker_snapshot("peak").values()
    return {str(getattr(kind, "value", kind)): int(size) for kind, size in found.items()}
