"""Measures what a dataset of a job has taken, over its stages and attempts."""

import time
from collections.abc import Callable
from dataclasses import dataclass, field


@dataclass
class StageClock:
    """Seconds of the finished stages, and of the current one."""

    earlier: float = 0.0  #: of the finished stages
    now: Callable[[], float] = time.monotonic
    shipped: float | None = None  #: of the last export with its measurement, also of an earlier attempt; None: of none
    asked: float | None = None  #: of lm-eval's tasks after the last stage, as `shipped`; None: of none
    _began: float | None = None
    carried: float = field(default=0.0, init=False)  #: what earlier attempts had taken of the current stage

    def __post_init__(self) -> None:
        self._began = self.now()

    def begin(self, earlier: float) -> None:
        """Begin a stage. earlier: seconds of those before it."""
        self.earlier, self._began, self.carried = earlier, self.now(), 0.0

    def carry(self, seconds: float) -> None:
        """Count what an earlier attempt had taken. seconds: of the job until its save; of several saves the last one counts."""
        self.carried = max(seconds - self.earlier, self.carried)

    @property
    def seconds(self) -> float:
        """Return the seconds so far."""
        return self.earlier + self.carried + self.now() - (self._began or 0.0)
