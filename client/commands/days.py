"""Options in days. Their range is told in words: one of Typer's own would be printed with all its digits."""

from collections.abc import Callable

import typer

DAY = 24 * 3600
LEAST_SECONDS = 60


def days_within(most: int) -> Callable[[float | None], float | None]:
    """Return the callback of an option that takes a minute at least, and at most so many days."""

    def check(days: float | None) -> float | None:
        if days is not None and not LEAST_SECONDS / DAY <= days <= most:
            raise typer.BadParameter(f"{days:g} is not between a minute and {most} days")
        return days

    return check
