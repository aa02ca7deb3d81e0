"""Units go with an update of what stays: each error is the output's measured change, and no other weights lose less."""

import pytest
import torch
from torch import Tensor

from compression.pruning.unit_removal import Inputs, Reader, damped, remove_units, updated, widths_of


def inputs_of(values: Tensor) -> Inputs:
    return Inputs(values.t() @ values / len(values), values.mean(dim=0))


def correlated(positions: int, columns: int, seed: int = 0) -> Tensor:
    draw = torch.Generator().manual_seed(seed)
    mixed = torch.randn(positions, columns, generator=draw) @ torch.randn(columns, columns, generator=draw)
    return (mixed + 0.3).double()


def test_what_is_removed_one_by_one_is_what_the_closed_form_says() -> None:
    values, weight = correlated(400, 12), torch.randn(5, 12, generator=torch.Generator().manual_seed(1)).double()
    moments = inputs_of(values).moments(biased=False)
    reader = Reader(weight, moments, torch.arange(12).view(6, 2))
    for gone in (2, 5, 0):
        reader.remove(torch.tensor([gone]))
    kept = torch.ones(6, dtype=torch.bool)
    kept[torch.tensor([2, 5, 0])] = False
    expected = updated(weight, moments, kept.repeat_interleave(2))
    assert torch.allclose(reader.weight, expected, atol=1e-9)
    assert reader.error() == pytest.approx(((values @ (weight - expected).t()) ** 2).mean(dim=0).sum().item())


def test_the_cheapest_unit_is_the_one_that_the_others_say() -> None:
    values = correlated(500, 8)
    values[:, 5] = values[:, 0] + values[:, 1]  # follows from two others
    moments = inputs_of(values).moments(biased=False)
    reader = Reader(torch.ones(3, 8).double(), moments, torch.arange(8).view(8, 1))
    assert int(reader.costs().argmin()) in (0, 1, 5)
    order, errors = remove_units([reader], 8)
    assert sorted(order.tolist()) == list(range(8))
    assert list(errors) == widths_of(8) == [8, 7, 6, 5, 4, 3, 2, 1, 0]
    assert list(errors.values()) == sorted(errors.values())
    assert errors[7] < 0.02 * errors[0]


def test_a_bias_takes_up_what_never_varies() -> None:
    values = torch.full((50, 2), 3.0).double()
    values[:, 1] = torch.randn(50, generator=torch.Generator().manual_seed(0)).double()
    inputs = inputs_of(values)
    weight = torch.ones(1, 2).double()
    alone = updated(weight, inputs.moments(biased=True), torch.tensor([False, True]))
    change = weight - alone
    assert float(((change @ inputs.moments(biased=True)) * change).sum()) < 0.02
    assert float(((change @ inputs.moments(biased=False)) * change).sum()) > 5


def test_inputs_that_are_all_zero_can_be_removed() -> None:
    inputs = inputs_of(torch.zeros(10, 4).double())
    assert torch.equal(damped(inputs.second), torch.eye(4).double())
    _, errors = remove_units([Reader(torch.ones(2, 4).double(), inputs.second, torch.arange(4).view(4, 1))], 4)
    assert set(errors.values()) == {0.0}
