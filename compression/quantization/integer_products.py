"""Exact products of int8 matrices, by the faster of two ways that give the same integers.

`torch._int_mm` is fast where the processor adds products of 8 bits by itself (VNNI, AMX). Elsewhere it loops over single
numbers, and float32 matrices are some thirty times as fast (docs/decisions/0008).
"""

import time
from collections.abc import Callable
from functools import cache

import torch
from torch import Tensor

EXACT_TERMS = 2**24 // 128**2
"""Of so many products of two int8, each sum, in any order, is an integer that float32 holds."""


def exact_product(left: Tensor, right: Tensor) -> Tensor:
    """Multiply int8 matrices. left: (m, k), right: (n, k) -> int32 (m, n), which must be able to hold the sums."""
    # Integer kernels of other devices reject small or odd shapes.
    by_integers = left.device.type == "cpu" and integers_are_faster()
    return product_by_integers(left, right) if by_integers else product_by_floats(left, right)


def product_by_integers(left: Tensor, right: Tensor) -> Tensor:
    """Multiply as `exact_product`, on a CPU."""
    # What torch._int_mm calls, whose name is exchanged in a process that scores (evaluation/runtimes/transformers.py).
    product: Tensor = torch.ops.aten._int_mm(left, right.t())
    return product


def product_by_floats(left: Tensor, right: Tensor) -> Tensor:
    """Multiply as `exact_product`, on any device: parts that float32 holds, which are added as integers."""
    parts = zip(torch.split(left, EXACT_TERMS, 1), torch.split(right, EXACT_TERMS, 1), strict=True)
    products = ((some.float() @ others.float().t()).to(torch.int32) for some, others in parts)
    total: Tensor = next(products)
    for product in products:
        total += product
    return total


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
