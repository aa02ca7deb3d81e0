"""Observers against numpy by hand: what a range is made of, and what it costs to round to it."""

import numpy as np
import pytest
import torch

from compression.quantization import observers
from compression.quantization.static_int8 import affine, codes, symmetric


def bell(count: int = 20_000, seed: int = 0) -> torch.Tensor:
    return torch.randn(count, generator=torch.Generator().manual_seed(seed))


def counted(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    values = x.double().sort().values
    return values, torch.ones_like(values)


def error(x: np.ndarray, low: float, high: float) -> float:
    scale = max(high - low, 1e-30) / 255
    zero = np.round(-low / scale)
    back = (np.clip(np.round(x / scale) + zero, 0, 255) - zero) * scale
    return float(np.square(back - x).sum())


def test_a_range_becomes_a_grid_on_which_zero_is_exact() -> None:
    for low, high in ((-1.0, 3.0), (-0.17, 9.0), (-2.0, -1.0), (1.0, 2.0), (0.0, 0.0)):
        scale, zero = affine(low, high)
        assert codes(torch.zeros(1), scale, zero).item() == zero
        ends = codes(torch.tensor([min(low, 0.0), max(high, 0.0)]), scale, zero)
        assert ends.tolist() == ([0, 255] if high > low else [0, 0])
    x = bell(1000)
    scale, zero = affine(-1.5, 2.0)
    wanted = np.clip(np.round(x.numpy() / np.float32(scale)) + zero, 0, 255)
    assert np.array_equal(codes(x, scale, zero).numpy(), wanted)


def test_a_spread_of_many_batches_is_that_of_all_values() -> None:
    x = torch.cat([bell(), torch.zeros(500), torch.tensor([1e3, -3e-5])])
    whole, parts = observers.Spread(), observers.Spread()
    whole.add(x)
    for part in x.split(777):
        parts.add(part)
    assert whole.counts.equal(parts.counts)
    assert (parts.low, parts.high, parts.counts.sum()) == (x.min().item(), pytest.approx(1000.0), len(x))
    values, counts = parts.values()
    for share in (0.001, 0.3, 0.9, 0.999):
        wanted = np.percentile(x.numpy(), 100 * share, method="inverted_cdf")
        assert observers.quantile(values, counts, share) == pytest.approx(wanted, rel=0.025, abs=1e-9)
    magnitudes, counts = parts.magnitudes()
    wanted = np.percentile(np.abs(x.numpy()), 99, method="inverted_cdf")
    assert observers.quantile(magnitudes, counts, 0.99) == pytest.approx(wanted, rel=0.025)
    assert parts.largest == pytest.approx(1000.0)


def test_percentile_leaves_out_as_much_on_either_side() -> None:
    x = bell(4001)
    for percent in (90.0, 99.0, 99.9):
        outside = (100 - percent) / 2
        wanted = [np.percentile(x.double().numpy(), p, method="inverted_cdf") for p in (outside, 100 - outside)]
        assert observers.percentile_range(*counted(x), percent) == pytest.approx(wanted)


def test_squared_errors_are_those_of_rounding_and_clipping() -> None:
    x = bell(500)
    lows, highs = torch.tensor([-0.5, -3.0, 0.0]).double(), torch.tensor([0.5, 4.0, 2.0]).double()
    wanted = [error(x.double().numpy(), low, high) for low, high in zip(lows.tolist(), highs.tolist(), strict=True)]
    assert observers.squared_errors(*counted(x), lows, highs).tolist() == pytest.approx(wanted)


def test_mse_finds_what_trying_every_range_finds() -> None:
    x = torch.cat([bell(3000), torch.tensor([60.0, -25.0])])
    values = x.double().numpy()
    shares = np.arange(1, 101) / 100
    best = min(error(values, -25 * a, 60 * b) for a in shares[::4] for b in shares[::4])
    low, high = observers.least_error_range(*counted(x), -25.0, 60.0)
    assert error(values, low, high) <= 1.02 * best
    assert error(values, low, high) < error(values, -25.0, 60.0)


def test_each_observer_treats_an_outlier_in_its_own_way() -> None:
    spread = observers.Spread()
    spread.add(torch.cat([bell(200_000), torch.tensor([80.0])]))
    assert observers.range_of(spread, "min-max", 99.99)[1] == 80.0
    assert observers.range_of(spread, "percentile", 99.99)[1] == pytest.approx(3.9, abs=0.2)
    assert observers.range_of(spread, "percentile", 99.0)[1] == pytest.approx(2.58, abs=0.1)
    # One value of 80 may cost as much as rounding 200,000 more coarsely: it is cut, but not to the bell.
    assert 40.0 < observers.range_of(spread, "mse", 99.99)[1] < 70.0


def test_levels_in_effect() -> None:
    assert observers.levels_used(torch.tensor([5.0, 5.0, 0.0, 5.0, 5.0])) == pytest.approx(4.0)
    assert observers.levels_used(torch.tensor([0.0, 9.0, 0.0])) == pytest.approx(1.0)


@pytest.mark.parametrize("largest", [0.0, 1e-30, 1e-9, 0.3, 2.0, 127.0, 4e5])
def test_a_symmetric_range_is_a_grid_of_signed_integers(largest: float) -> None:
    scale, zero = affine(*symmetric(largest))
    assert zero == 128
    assert scale == pytest.approx(max(largest / 127, 1e-12), rel=1e-6)
    x = scale * torch.tensor([-400.0, -128.0, -127.4, -1.0, 0.0, 0.4, 126.6, 127.0, 400.0])
    assert (codes(x, scale, zero) - 128).tolist() == [-128, -128, -127, -1, 0, 0, 127, 127, 127]


def test_each_observer_finds_a_symmetric_range() -> None:
    spread = observers.Spread()
    spread.add(x := torch.cat([bell(20_000).abs(), torch.tensor([-30.0])]))
    for observer, wanted in (("min-max", 30.0), ("percentile", float(np.percentile(x.abs().numpy(), 99)))):
        low, high = observers.range_of(spread, observer, 99.0, around_zero=True)
        assert high == pytest.approx(wanted, rel=0.03)
        assert low == pytest.approx(-high * 128 / 127)
    values = x.double().numpy()
    best = min(error(values, -end * 128 / 127, end) for end in 30 * np.arange(1, 101) / 100)
    found = observers.range_of(spread, "mse", 99.0, around_zero=True)
    assert error(values, *found) <= 1.02 * best
    assert found[1] < 30.0
