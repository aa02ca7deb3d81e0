"""Figures as pages, reports and the command line write them alike. Torch-free."""

MINUS = "−"


def change(reduction: float) -> str:
    """Show a reduction as the change that it is: 0.358 → −35.8 %, −0.02 → +2.0 %."""
    rounded = round(100 * reduction, 1)
    sign = MINUS if rounded > 0 else "+" if rounded < 0 else "±"
    return f"{sign}{abs(rounded):.1f} %"


def plain(value: float, digits: int = 3) -> str:
    """Write a number to so many figures, or whole if it has more, never as a power of ten: 12.34 → 12.3, 1234.5 → 1,234."""
    return f"{value:,.0f}" if abs(value) >= 10**digits - 0.5 else f"{value:.{digits}g}"


def scaled(number: float, *units: tuple[float, str]) -> str:
    """Write a number in the first unit, the largest first, in which it is not below 1 once it is rounded: 999,996 → 1.00 M.
    Empty if it is below all.
    """
    return next((f"{number / size:.2f} {name}" for size, name in units if round(number / size, 5) >= 1), "")
