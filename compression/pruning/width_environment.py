"""A choice among widths as a gymnasium environment: one step for each choice, in order (extra `search`).

An action is a keep ratio, as AMC's (He et al. 2018): 1 keeps the whole, -1 takes the last option. Options lie in even steps
between the two, as the widths of error tables do; a layer stays at a ratio of half and above, and so has 8 bits where bits are
chosen. The ratio is mapped to the nearest option with which the remaining choices can still meet all limits, so every episode
ends within them.
"""

from collections.abc import Callable, Sequence
from typing import Any

import gymnasium
import numpy as np
from numpy.typing import NDArray

from compression.planning.search.completion import Completions
from compression.planning.search.problem import Choice, Limit, Picks, Problem, Solve
from compression.planning.search.solver import solve
from compression.planning.search.trials import Trial

POINTS = 8
"""Points at which a choice's error curve is seen, over its options in even steps."""
Numbers = NDArray[np.float32]


class WidthEnvironment(gymnasium.Env[Numbers, Numbers]):
    """Choose option by option; the reward comes at the end: minus the predicted error, in units of the cheapest cut's.

    Observation, all numbers within [-1, 1]: how many choices are done; the number of the choice's options; its error curve and,
    of each limit, what its last option saves, all others whole; of each limit what is left, and what later choices can save;
    the action before.
    """

    metadata: dict[str, Any] = {"render_modes": []}  # noqa: RUF012 (gymnasium's own form)

    def __init__(
        self,
        problem: Problem,
        predict: Callable[[Picks], Trial],
        check: Callable[[], None] = lambda: None,
        solve: Solve = solve,
    ) -> None:
        """predict: evaluates complete picks. check: called at each step, each of which may solve programs; what it raises ends
        the episode. solve: the exact solver. Raises TargetOutOfReach if nothing is within the limits.
        """
        self.problem, self.predict, self.check = problem, predict, check
        self.completions = Completions(problem, solve)
        self.scale = max(problem.error_of(self.completions.cheapest), 1e-9)  #: of rewards: the error of what costs least
        self.features, self.savings = self._features()
        limits = len(problem.limits)
        size = self.features.shape[1] + 2 * limits + 2
        self.observation_space = gymnasium.spaces.Box(-1.0, 1.0, (size,), np.float32)
        self.action_space = gymnasium.spaces.Box(-1.0, 1.0, (1,), np.float32)
        self.taken: dict[str, int] = {}
        self.rest: Picks = self.completions.cheapest
        self.last = 1.0

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Numbers, dict[str, Any]]:
        """Begin an episode. Nothing in it is drawn."""
        super().reset(seed=seed, options=options)
        self.taken, self.rest, self.last = {}, self.completions.cheapest, 1.0
        return self._observation(), {}

    def step(self, action: Numbers) -> tuple[Numbers, float, bool, bool, dict[str, Any]]:
        """Take the option that is nearest to the action. info of the last step: `trial`."""
        self.check()
        choice = self.problem.choices[len(self.taken)]
        wanted = (1.0 - float(np.clip(action[0], -1.0, 1.0))) / 2 * (choice.options - 1)
        option, self.rest = self.completions.nearest_option(self.taken, choice, wanted, self.rest)
        self.taken[choice.name] = option
        self.last = 1.0 - 2.0 * option / max(choice.options - 1, 1)
        if len(self.taken) < len(self.problem.choices):
            return self._observation(), 0.0, False, False, {}
        trial = self.predict(self.taken)
        return self._observation(), -trial.error / self.scale, True, False, {"trial": trial}

    def _observation(self) -> Numbers:
        at, count = len(self.taken), len(self.problem.choices)
        features = self.features[at] if at < count else np.zeros(self.features.shape[1])
        costs = self.problem.costs_of({**self.completions.cheapest, **self.taken})
        left = [(limit.most - costs[limit.name]) / max(abs(limit.most), 1e-9) for limit in self.problem.limits]
        later = self.savings[at + 1 :].sum(axis=0) if at < count else np.zeros(len(left))
        found = np.concatenate([[at / count], features, left, later, [self.last]])
        seen: Numbers = np.clip(np.nan_to_num(found, nan=1.0), -1.0, 1.0).astype(np.float32)
        return seen

    def _features(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Return what is known of each choice, and what the last option of each saves of each limit's whole cost."""
        problem = self.problem
        whole = dict.fromkeys(problem.options, 0)
        most = max(choice.options for choice in problem.choices)
        curves = [self._curve(choice, whole) for choice in problem.choices]
        highest = max((value for curve in curves for value in curve if np.isfinite(value)), default=0.0) or 1.0
        costs = problem.costs_of(whole)
        savings = np.array([self._saved(choice, whole, costs, problem.limits) for choice in problem.choices])
        rows = [
            [choice.options / most, *np.minimum(np.array(curve) / highest, 1.0), *saved]
            for choice, curve, saved in zip(problem.choices, curves, savings, strict=True)
        ]
        return np.array(rows), savings

    def _curve(self, choice: Choice, whole: Picks) -> list[float]:
        places = np.linspace(0, choice.options - 1, POINTS).round().astype(int)
        base = self.problem.error_of(whole)
        return [self.problem.error_of({**whole, choice.name: int(place)}) - base for place in places]

    def _saved(self, choice: Choice, whole: Picks, costs: dict[str, float], limits: Sequence[Limit]) -> list[float]:
        least = self.problem.costs_of({**whole, choice.name: choice.options - 1})
        return [(costs[limit.name] - least[limit.name]) / max(abs(costs[limit.name]), 1e-9) for limit in limits]
