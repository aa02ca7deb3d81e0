"""Products of int8 matrices are exact, whichever way they are computed."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from compression.quantization.integer_products import EXACT_TERMS, exact_product, product_by_floats, product_by_integers

WAYS = (exact_product, product_by_floats, product_by_integers)


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
