"""Products of int8 matrices are exact, whichever way they are computed."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from compression.quantization import dynamic_int8, integer_products
from compression.quantization.integer_products import (
    EXACT_TERMS,
    exact_product,
    product_by_floats,
    product_by_integers,
    product_in_shape,
)
from compression.quantization.precision import fast_float32, full_float32, gradient_precision, half_products

WAYS = (exact_product, product_by_floats, product_by_integers, product_in_shape)


class Products(TorchDispatchMode):
    """Writes down of each integer product whether its left matrix and its right one, transposed back, are contiguous."""

    def __init__(self) -> None:
        super().__init__()
        self.contiguous: list[tuple[bool, bool]] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func.overloadpacket is torch.ops.aten._int_mm:
            left, right = args
            self.contiguous.append((left.is_contiguous(), right.t().is_contiguous()))
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("terms", [1, 7, EXACT_TERMS, EXACT_TERMS + 1, 3 * EXACT_TERMS + 5])
def test_a_product_is_that_of_whole_numbers(way: Callable[[Tensor, Tensor], Tensor], terms: int) -> None:
    drawn = torch.Generator().manual_seed(terms)
    left, right = (torch.randint(-128, 128, (rows, terms), generator=drawn, dtype=torch.int8) for rows in (5, 3))
    found = way(left, right)
    assert found.dtype == torch.int32
    assert found.tolist() == (left.long() @ right.long().t()).tolist()


@pytest.mark.parametrize("way", WAYS)
def test_the_largest_sums_are_exact(way: Callable[[Tensor, Tensor], Tensor]) -> None:
    left = torch.full((1, 2 * EXACT_TERMS + 1), -128, dtype=torch.int8)
    right = torch.cat([left, left.clone().index_fill_(1, torch.tensor([3]), 127)])
    assert way(left, right).tolist() == [[128 * 128 * left.shape[1], 128 * 128 * (left.shape[1] - 1) - 128 * 127]]


@pytest.mark.parametrize(("rows", "terms", "columns"), [(1, 1, 1), (16, 9, 7), (17, 16, 8), (40, 24, 33)])
def test_shapes_are_filled_up_to_those_that_a_card_takes(
    rows: int, terms: int, columns: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    shapes: list[tuple[int, ...]] = []

    def seen(left: Tensor, right: Tensor) -> Tensor:
        shapes.append((*left.shape, *right.shape))
        return product_by_integers(left, right)

    monkeypatch.setattr(integer_products, "product_by_integers", seen)
    left, right = torch.full((rows, terms), -128, dtype=torch.int8), torch.full((columns, terms), 127, dtype=torch.int8)
    assert product_in_shape(left, right).tolist() == [[-128 * 127 * terms] * columns] * rows
    ((m, k, n, also),) = shapes
    assert m > 16
    assert k == also
    assert k % 8 == n % 8 == 0


@pytest.mark.parametrize(("rows", "terms", "columns"), [(5, 7, 3), (24, 16, 8), (40, 24, 16), (64, 24, 33)])
@pytest.mark.parametrize("turned", [(False, False), (False, True), (True, True)])
def test_a_card_gets_rows_and_transposed_rows_whatever_the_strides(
    turned: tuple[bool, bool], rows: int, terms: int, columns: int
) -> None:
    drawn = torch.Generator().manual_seed(terms)
    left, right = (torch.randint(-128, 128, (n, terms), generator=drawn, dtype=torch.int8) for n in (rows, columns))
    given = [each.t().contiguous().t() if is_turned else each for each, is_turned in zip((left, right), turned, strict=True)]
    with Products() as seen:
        assert product_in_shape(*given).tolist() == (left.long() @ right.long().t()).tolist()
    assert seen.contiguous == [(True, True)]


def test_a_layer_whose_weight_is_transposed_hands_over_the_same_layout(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dynamic_int8, "exact_product", product_in_shape)
    drawn = torch.Generator().manual_seed(0)
    x, weight = torch.randn(40, 16, generator=drawn), torch.randn(16, 24, generator=drawn)  # of a Conv1D: (inputs, outputs)
    with Products() as seen:
        found = dynamic_int8.integer_linear(x, weight.t())
    assert seen.contiguous == [(True, True)]
    assert found.equal(dynamic_int8.integer_linear(x, weight.t().contiguous()))


@pytest.mark.parametrize(
    ("precision", "device", "expected"),
    [("auto", "cuda", "high"), ("bfloat16", "cuda", "high"), ("float32", "cuda", "highest"), ("auto", "cpu", "highest")],
)
def test_tf32_is_for_training_on_a_card_and_never_for_integers(precision: Any, device: str, expected: str) -> None:
    place, rounds = torch.device(device), torch.backends.cudnn.allow_tf32
    with gradient_precision(precision), fast_float32(place):
        assert torch.get_float32_matmul_precision() == expected
        with full_float32(place):
            assert torch.get_float32_matmul_precision() == "highest"
            assert torch.backends.cudnn.allow_tf32 == (rounds and device == "cpu")
        assert torch.get_float32_matmul_precision() == expected
    assert torch.get_float32_matmul_precision() == "highest"
    assert torch.backends.cudnn.allow_tf32 == rounds


def test_float32_that_is_wanted_within_bfloat16_is_float32() -> None:
    """As a language model's teacher asks for it, whose states are computed within a step of its student."""
    one = torch.ones(2, 2)
    with torch.autocast("cpu", torch.bfloat16):
        with half_products(one.device, wanted=False):
            assert (one @ one).dtype == torch.float32
        assert (one @ one).dtype == torch.bfloat16
    with half_products(torch.device("meta"), wanted=False):  # which has no autocast
        assert (one @ one).dtype == torch.float32
