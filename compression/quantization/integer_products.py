"""Exact products of int8 matrices, by the faster of two ways that give the same integers.

`torch._int_mm` adds in int32, which holds every sum of fewer than 2**17 products of two int8. It is fast where the processor
adds products of 8 bits by itself (VNNI, AMX), and on CUDA devices that multiply them (compute capability 7.5 and later).
Elsewhere on a CPU it loops over single numbers, and float32 matrices are some thirty times as fast (docs/decisions/0008).
"""

import time
from collections.abc import Callable
from functools import cache

import torch
from torch import Tensor
from torch.nn import functional

from compression.quantization.precision import full_float32

EXACT_TERMS = 2**24 // 128**2
"""Of so many products of two int8, each sum, in any order, is an integer that float32 holds."""
CAPABILITY, FEWEST_ROWS, MULTIPLE = (7, 5), 24, 8  #: of CUDA's integer kernel


def exact_product(left: Tensor, right: Tensor) -> Tensor:
    """Multiply int8 matrices. left: (m, k), right: (n, k) -> int32 (m, n), which must be able to hold the sums."""
    if left.device.type == "cuda":
        return product_in_shape(left, right) if multiplies_integers(left.device) else product_by_floats(left, right)
    by_integers = left.device.type == "cpu" and integers_are_faster()
    return product_by_integers(left, right) if by_integers else product_by_floats(left, right)


def product_by_integers(left: Tensor, right: Tensor) -> Tensor:
    """Multiply as `exact_product`, on a CPU; on a CUDA device in the shapes that `product_in_shape` makes."""
    if left.shape[1] == 1:  # a CPU's kernel leaves most of such a product unwritten (torch 2.13)
        left, right = functional.pad(left, (0, 1)), functional.pad(right, (0, 1))
    # What torch._int_mm calls, whose name is exchanged in a process that scores (evaluation/runtimes/transformers.py).
    product: Tensor = torch.ops.aten._int_mm(left, right.t())
    return product


def product_in_shape(left: Tensor, right: Tensor) -> Tensor:
    """Multiply as `exact_product`, filled up with zeros: CUDA's kernel takes more than 16 rows, and multiples of 8 else.

    Rows lie one after another, also where `right` is a view of a transposed weight (GPT-2's Conv1D), whose strides a padding by
    nothing keeps. cuBLAS has a kernel for two matrices that are not transposed on some cards alone (PyTorch's issue 169956).
    """
    (m, k), n = left.shape, len(right)
    wide = functional.pad(left, (0, -k % MULTIPLE, 0, max(FEWEST_ROWS - m, 0))).contiguous()
    tall = functional.pad(right, (0, -k % MULTIPLE, 0, -n % MULTIPLE)).contiguous()
    return product_by_integers(wide, tall)[:m, :n]


def product_by_floats(left: Tensor, right: Tensor) -> Tensor:
    """Multiply as `exact_product`, on any device: parts that float32 holds, which are added as integers."""
    parts = zip(torch.split(left, EXACT_TERMS, 1), torch.split(right, EXACT_TERMS, 1), strict=True)
    with full_float32(left.device):
        products = ((some.float() @ others.float().t()).to(torch.int32) for some, others in parts)
        total: Tensor = next(products)
        for product in products:
            total += product
    return total


@cache
def multiplies_integers(device: torch.device) -> bool:
    """Return whether a CUDA device multiplies int8 by itself."""
    return torch.version.hip is None and torch.cuda.get_device_capability(device) >= CAPABILITY


@cache
def integers_are_faster() -> bool:
    """Return which way is faster on this machine's CPU, by a trial of some milliseconds."""
    left, right = torch.ones(128, 512, dtype=torch.int8), torch.ones(256, 512, dtype=torch.int8)

    def seconds(product: Callable[[Tensor, Tensor], Tensor]) -> float:
        started = time.perf_counter()
        product(left, right)
        return time.perf_counter() - started

    took = {product: min(seconds(product) for _ in range(3)) for product in (product_by_integers, product_by_floats)}
    return took[product_by_integers] < took[product_by_floats]
