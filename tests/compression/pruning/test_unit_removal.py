"""Units go with an update of what stays: each error is the output's measured change, and no other weights lose less."""

import pytest
import torch
from torch import Tensor

from compression.pruning.unit_removal import Inputs, Reader, damped, remove_units, substitutes, triangles, updated
from compression.schema.error_tables import widths_of
from compression.system.progress import run_silently


def inputs_of(values: Tensor) -> Inputs:
    return Inputs(values.t() @ values / len(values), values.mean(dim=0))


def correlated(positions: int, columns: int, seed: int = 0) -> Tensor:
    draw = torch.Generator().manual_seed(seed)
    mixed = torch.randn(positions, columns, generator=draw) @ torch.randn(columns, columns, generator=draw)
    return (mixed + 0.3).double()


def reader_of(weight: Tensor, moments: Tensor, columns: Tensor) -> Reader:
    """A layer whose errors are not shares."""
    return Reader(moments, columns, [weight], [1.0])


@pytest.mark.parametrize("outputs", [5, 40])
def test_what_is_removed_one_by_one_is_what_the_closed_form_says(outputs: int) -> None:
    values, weight = correlated(400, 13), torch.randn(outputs, 13, generator=torch.Generator().manual_seed(1)).double()
    moments = inputs_of(values).moments(biased=False)
    reader = reader_of(weight, moments, torch.arange(12).view(6, 2) + 1)  # the first column is of no unit
    reader.remove(torch.tensor([2, 5]))
    reader.forget(torch.tensor([True, True, False, True, True, False]))
    reader.remove(torch.tensor([0]))
    kept = torch.tensor([True, False, False, True, True, False, False, True, True, True, True, False, False])
    expected = updated(weight, substitutes(moments, kept), kept)
    assert not expected[:, ~kept].any()
    assert reader.error() == pytest.approx(((values @ (weight - expected).t()) ** 2).mean(dim=0).sum().item())
    # No other matrix without these columns loses less in the damped moments.
    assert torch.allclose((expected - weight) @ damped(moments)[:, kept], torch.zeros(outputs, 7).double(), atol=1e-8)


def test_a_cost_is_what_the_error_rises_by() -> None:
    values, weight = correlated(400, 12), torch.randn(5, 12, generator=torch.Generator().manual_seed(1)).double()
    moments = inputs_of(values).moments(biased=False)
    for size in (1, 3):
        columns = torch.arange(12).view(-1, size)
        costs = reader_of(weight, moments, columns).costs(len(columns))
        for unit, cost in enumerate(costs.tolist()):
            reader = reader_of(weight, moments, columns)
            reader.remove(torch.tensor([unit]))
            assert reader.lost == pytest.approx(cost)


def test_the_cheapest_unit_is_the_one_that_the_others_say() -> None:
    values = correlated(500, 8)
    values[:, 5] = values[:, 0] + values[:, 1]  # follows from two others
    moments = inputs_of(values).moments(biased=False)
    reader = reader_of(torch.ones(3, 8).double(), moments, torch.arange(8).view(8, 1))
    assert int(reader.costs(8).argmin()) in (0, 1, 5)
    order, errors = run_silently(remove_units([reader], 8))
    assert sorted(order.tolist()) == list(range(8))
    assert list(errors) == widths_of(8) == [8, 7, 6, 5, 4, 3, 2, 1, 0]
    assert list(errors.values()) == sorted(errors.values())
    assert errors[7] < 0.02 * errors[0]


def test_a_bias_takes_up_what_never_varies() -> None:
    values = torch.full((50, 2), 3.0).double()
    values[:, 1] = torch.randn(50, generator=torch.Generator().manual_seed(0)).double()
    inputs = inputs_of(values)
    weight = torch.ones(1, 2).double()
    kept = torch.tensor([False, True])
    alone = updated(weight, substitutes(inputs.moments(biased=True), kept), kept)
    change = weight - alone
    assert float(((change @ inputs.moments(biased=True)) * change).sum()) < 0.02
    assert float(((change @ inputs.moments(biased=False)) * change).sum()) > 5


def test_inputs_that_hardly_vary_about_a_large_mean_can_be_removed_though_sums_are_float32() -> None:
    values = 100 + 1e-3 * torch.randn(2000, 24, generator=torch.Generator().manual_seed(0))
    inputs = Inputs(values.t() @ values / len(values), values.mean(dim=0))
    moments = inputs.moments(biased=True)
    assert torch.linalg.cholesky_ex(damped(moments))[1] != 0, "otherwise this shows nothing"
    reader = reader_of(torch.ones(2, 24), moments, torch.arange(24).view(12, 2))
    order, errors = run_silently(remove_units([reader], 12))
    assert sorted(order.tolist()) == list(range(12))
    assert list(errors.values()) == sorted(errors.values())
    kept = torch.arange(24) % 3 > 0
    assert updated(torch.ones(2, 24), substitutes(moments, kept), kept).isfinite().all()


def test_inputs_that_are_all_zero_can_be_removed() -> None:
    inputs = inputs_of(torch.zeros(10, 4).double())
    assert torch.equal(damped(inputs.second), torch.eye(4).double())
    reader = reader_of(torch.ones(2, 4).double(), inputs.second, torch.arange(4).view(4, 1))
    _, errors = run_silently(remove_units([reader], 4))
    assert set(errors.values()) == {0.0}


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_blocks_whose_factor_rounding_took_have_one_with_a_little_more(dtype: torch.dtype) -> None:
    whole, thin = torch.eye(3, dtype=dtype), torch.ones(3, 3, dtype=dtype)  # of rank 1
    thin[2, 2] -= torch.finfo(dtype).eps
    found = triangles(torch.stack([whole, thin]))
    assert torch.equal(found[0], whole)
    assert torch.allclose(found[1] @ found[1].t(), thin, atol=1e-5)
    with pytest.raises(torch.linalg.LinAlgError):
        triangles(torch.full((1, 3, 3), torch.nan))


def test_units_of_many_columns_can_be_removed() -> None:
    """As the groups of heads of SmolLM2, of which there are 3 with 192 columns."""
    values, weight = correlated(2000, 576), torch.randn(576, 576, generator=torch.Generator().manual_seed(1)).double()
    reader = reader_of(weight, inputs_of(values).moments(biased=False), torch.arange(576).view(3, 192))
    order, errors = run_silently(remove_units([reader], 3))
    assert sorted(order.tolist()) == [0, 1, 2]
    assert 0 < errors[2] < errors[1] < errors[0]
