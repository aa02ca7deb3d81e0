"""Figures as all tables write them."""

import pytest

from compression.schema.report.written import change, plain, scaled


@pytest.mark.parametrize(
    ("value", "digits", "text"),
    [
        (0.08321, 3, "0.0832"),
        (12.34, 3, "12.3"),
        (999.4, 3, "999"),
        (999.6, 3, "1,000"),
        (1234.4, 3, "1,234"),
        (12344, 4, "12,344"),
    ],
)
def test_a_number_has_so_many_figures_and_is_no_power_of_ten(value: float, digits: int, text: str) -> None:
    assert plain(value, digits) == text


def test_a_reduction_is_shown_as_the_change_that_it_is() -> None:
    assert [change(share) for share in (0.358, -0.02, 0.0001)] == ["−35.8 %", "+2.0 %", "±0.0 %"]


def test_a_number_is_in_the_first_unit_that_it_fills_once_it_is_rounded() -> None:
    units = (1e6, "M"), (1e3, "k")
    assert [scaled(number, *units) for number in (999, 994_999, 999_996, 1_500_000)] == ["", "995.00 k", "1.00 M", "1.50 M"]
