"""A second device without a card: tensors that say `meta`, hold their values on the host, and refuse to meet the host's.

It proves where tensors are, not what a card computes. Within `second_device()`, `model.to(DEVICE)` and `batch.to(DEVICE)` are
transfers as to a card, and an operator that gets tensors of both sides raises Misplaced. As on a card these are allowed: a
number (0 dimensions) of the host among the device's tensors, indices of the host into one of the device's, and `copy_`.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils import _foreach_utils
from torch.utils._python_dispatch import TorchDispatchMode

DEVICE, HOST = torch.device("meta"), torch.device("cpu")
aten = torch.ops.aten
INDEXED = (aten.index, aten.index_put, aten.index_put_, aten._index_put_impl_, aten._unsafe_index, aten._unsafe_index_put)
TOGETHER = (aten.cat, aten.stack)
"""Operators that take no number of the host among the device's tensors."""


class Misplaced(RuntimeError):
    """An operator got tensors of both devices, or a generator of the wrong one."""


class DeviceTensor(Tensor):
    """A tensor of the second device. `elem`: its values, on the host, which no operator of the host is given."""

    elem: Tensor
    __torch_function__ = torch._C._disabled_torch_function_impl

    @staticmethod
    def __new__(cls, elem: Tensor) -> "DeviceTensor":
        layout = {"strides": elem.stride(), "storage_offset": elem.storage_offset()}
        made = Tensor._make_wrapper_subclass(cls, elem.size(), **layout, dtype=elem.dtype, layout=elem.layout, device=DEVICE)
        made.elem = elem
        return made

    def __repr__(self) -> str:
        return f"DeviceTensor({self.elem})"

    def tolist(self) -> Any:
        return self.elem.tolist()

    def __deepcopy__(self, memo: dict[int, Any]) -> "DeviceTensor":
        if id(self) not in memo:
            made = DeviceTensor(self.elem.detach().clone())
            made.__dict__.update({key: value for key, value in self.__dict__.items() if key != "elem"})
            memo[id(self)] = made.requires_grad_(self.requires_grad)
        return memo[id(self)]

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return placed(func, args, kwargs or {})


def placed(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Compute an operator on the values of its tensors; its answer is on the device that they or its arguments name."""
    tensors, named = list[Tensor](), list[torch.device]()
    given_args = [_value(one, tensors, named) for one in args]
    given_kwargs = {name: _value(one, tensors, named) for name, one in kwargs.items()}
    ours = any(isinstance(one, DeviceTensor) for one in tensors)
    _check(func, args, tensors, ours, kwargs.get("generator"))
    if func.overloadpacket in (aten.type_as, aten.to) and len(tensors) > 1:
        named = [tensors[1].device]  # it takes the place of the other
    there = ours if not named else named[0] == DEVICE
    moved = bool(named) and bool(tensors) and there != isinstance(tensors[0], DeviceTensor)
    if func.overloadpacket is aten.histc and not given_args[0].is_floating_point():  # a card's kernel, not a CPU's
        found = func(given_args[0].float(), *given_args[1:], **given_kwargs).to(given_args[0].dtype)
    else:
        found = func(*given_args, **given_kwargs)
    if not there and not moved:
        return found
    return _out(found, {id(one.elem if isinstance(one, DeviceTensor) else one): one for one in tensors}, there, moved)


def _value(one: Any, tensors: list[Tensor], named: list[torch.device]) -> Any:
    """Return an argument with the host's values; add what it has of tensors and devices."""
    if isinstance(one, Tensor):
        tensors.append(one)
        return one.elem if isinstance(one, DeviceTensor) else one
    if isinstance(one, torch.device):
        named.append(one)
        return HOST if one == DEVICE else one
    return type(one)([_value(each, tensors, named) for each in one]) if type(one) in (list, tuple) else one


def _out(found: Any, known: dict[int, Tensor], there: bool, moved: bool) -> Any:
    """Return an answer where it belongs. known: the operator's own tensors, by the number of their values."""
    if not isinstance(found, Tensor):
        return type(found)([_out(one, known, there, moved) for one in found]) if type(found) in (list, tuple) else found
    if id(found) in known and not moved:
        return known[id(found)]  # in place, or nothing to do
    own = found.clone() if id(found) in known else found  # a transfer never shares memory
    return DeviceTensor(own) if there else own


def _check(func: Any, args: tuple[Any, ...], tensors: list[Tensor], ours: bool, generator: Any) -> None:
    packet = func.overloadpacket
    theirs = [one for one in tensors if not isinstance(one, DeviceTensor)]
    if any(one.is_meta for one in theirs):
        raise Misplaced(f"{func}: a tensor of the device has no values: it was not made within second_device()")
    if ours and generator is not None:
        raise Misplaced(f"{func}: a generator of the host draws for the device")
    if not ours or not theirs or packet in (aten.copy_, aten._copy_from, aten.type_as, aten.to):
        return
    if packet in INDEXED and isinstance(args[0], DeviceTensor):
        theirs = [one for one in args[2:] if isinstance(one, Tensor) and not isinstance(one, DeviceTensor)]
    written = func._schema.is_mutable and args and isinstance(args[0], Tensor) and not isinstance(args[0], DeviceTensor)
    if written or any(one.ndim or packet in TOGETHER for one in theirs):
        shapes = ", ".join(f"{'device' if isinstance(one, DeviceTensor) else 'host'} {tuple(one.shape)}" for one in tensors)
        raise Misplaced(f"{func}: tensors of both devices: {shapes}")


class _Operators(TorchDispatchMode):
    """Sends the operators that are given no tensor of the device, such as transfers to it, through `placed`."""

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        """Nothing is compiled within the device, and torch's guard against that costs a sixth of an operator."""
        return False

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        if kwargs.get("generator") is not None and kwargs.get("device") == DEVICE:
            raise Misplaced(f"{func}: a generator of the host draws for the device")
        return placed(func, args, kwargs)


def _indices(given: Any) -> Any:
    if isinstance(given, tuple):
        return tuple(map(_indices, given))
    return torch.tensor(given, dtype=None if given else torch.long) if isinstance(given, list) else given


class _Values(TorchFunctionMode):
    """Makes tensors of Python's numbers on the host first: below, torch makes them where no operator is seen."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        if func in (torch.tensor, torch.as_tensor) and kwargs.get("device") is not None:
            place = torch.device(kwargs.pop("device"))
            if place == DEVICE:
                return func(*args, **kwargs).to(DEVICE)
            kwargs["device"] = place
        if func is Tensor.__getitem__ and isinstance(args[0], DeviceTensor):
            args = (args[0], _indices(args[1]))
        return func(*args, **kwargs)


def _without_gradients(mode: Any) -> None:
    mode.before = torch.is_grad_enabled()
    torch.set_grad_enabled(False)


def _with_gradients(mode: Any, *_: Any) -> None:
    torch.set_grad_enabled(mode.before)


@contextmanager
def second_device() -> Iterator[torch.device]:
    """Yield the device. Parameters keep their identity when a module moves, as on a card."""
    usual = _foreach_utils._get_fused_kernels_supported_devices
    before = torch.__future__.get_swap_module_params_on_conversion()
    torch.__future__.set_swap_module_params_on_conversion(True)
    try:
        with (
            patch("torch.optim.optimizer._get_fused_kernels_supported_devices", lambda: [*usual(), DEVICE.type]),
            # A subclass makes no views in inference mode. What that refuses besides is the same on all devices.
            patch.object(torch.inference_mode, "__enter__", _without_gradients),
            patch.object(torch.inference_mode, "__exit__", _with_gradients),
            _Values(),
            _Operators(),
        ):
            yield DEVICE
    finally:
        torch.__future__.set_swap_module_params_on_conversion(before)
