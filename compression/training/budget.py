"""A job's training budget, kept across attempts. Steps that a failed attempt repeats do not count twice. Torch-free."""

import time
from collections.abc import Callable
from dataclasses import dataclass, field


@dataclass
class Spent:
    """Training that a job has used so far: optimizer steps, and seconds in the loop including validation."""

    steps: int = 0
    seconds: float = 0.0


@dataclass
class Budget:
    """The recipe's limits, of which each of `sharers` trainings has an equal share, and their use; None means no limit."""

    max_steps: int | None = None
    max_minutes: float | None = None
    sharers: int = 1
    spent: Spent = field(default_factory=Spent)
    clock: Callable[[], float] = time.monotonic
    _since: float | None = None

    def begin(self) -> None:
        """Start the clock: training begins or resumes."""
        self._since = self.clock()

    def count(self, steps: int = 0) -> None:
        """Add steps, and the time since the previous call, to the used budget."""
        now = self.clock()
        self.spent.steps += steps
        self.spent.seconds += now - (now if self._since is None else self._since)
        self._since = now

    def steps_of(self, wanted: int) -> int:
        """Return how many of the wanted steps the step limit still allows; minutes cannot be converted to steps."""
        return wanted if self.max_steps is None else max(min(wanted, self._steps(self.max_steps) - self.spent.steps), 0)

    def reached(self) -> str | None:
        """Return the name of the limit that is reached, or None."""
        share = "" if self.sharers == 1 else f"a share of 1/{self.sharers} of "
        if self.max_steps is not None and self.spent.steps >= self._steps(self.max_steps):
            return f"{share}recipe.train.max_steps ({self.max_steps})"
        if self.max_minutes is not None and self.spent.seconds >= 60 * self.max_minutes / self.sharers:
            return f"{share}recipe.train.max_minutes ({self.max_minutes:g})"
        return None

    def _steps(self, whole: int) -> int:
        return max(whole // self.sharers, 1)
