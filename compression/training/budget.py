"""How much a job may train, and how much it has trained: one account for all its trainings, carried from attempt to attempt.

Torch-free. What a dead attempt did after its last save is done again and is not in the account: it brought nothing.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass, field


@dataclass
class Spent:
    """What a job has trained so far: steps of the optimizer, and seconds within the loop, validation included."""

    steps: int = 0
    seconds: float = 0.0


@dataclass
class Budget:
    """The recipe's limits and what is spent of them; None is no limit. `clock` tells seconds.

    Where `sharers` have the limits together, each has an equal share, and this is one's account.
    """

    max_steps: int | None = None
    max_minutes: float | None = None
    sharers: int = 1
    spent: Spent = field(default_factory=Spent)
    clock: Callable[[], float] = time.monotonic
    _since: float | None = None

    def begin(self) -> None:
        """Count time from now: training begins, or goes on."""
        self._since = self.clock()

    def count(self, steps: int = 0) -> None:
        """Put steps, and the time since this was last called, to the account."""
        now = self.clock()
        self.spent.steps += steps
        self.spent.seconds += now - (now if self._since is None else self._since)
        self._since = now

    def steps_of(self, wanted: int) -> int:
        """Say how many of the steps that are wanted there is still room for. Minutes cannot be foretold in steps."""
        return wanted if self.max_steps is None else max(min(wanted, self._steps(self.max_steps) - self.spent.steps), 0)

    def reached(self) -> str | None:
        """Name the limit that is reached, if one is."""
        share = "" if self.sharers == 1 else f"a share of 1/{self.sharers} of "
        if self.max_steps is not None and self.spent.steps >= self._steps(self.max_steps):
            return f"{share}recipe.train.max_steps ({self.max_steps})"
        if self.max_minutes is not None and self.spent.seconds >= 60 * self.max_minutes / self.sharers:
            return f"{share}recipe.train.max_minutes ({self.max_minutes:g})"
        return None

    def _steps(self, whole: int) -> int:
        return max(whole // self.sharers, 1)
