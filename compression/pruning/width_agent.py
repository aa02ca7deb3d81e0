"""Reinforcement learning of widths: PPO of stable-baselines3 in the environment of a choice among widths (extra `search`).

PPO with undiscounted returns found cheaper cuts at equal evaluations than the agents that learn from old episodes, which AMC's
DDPG is one of (docs/decisions/0068-searches-beside-the-solver.md).
"""

import random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch
from stable_baselines3 import PPO

from compression.planning.search.problem import Problem
from compression.planning.search.trials import Trials
from compression.pruning.width_environment import WidthEnvironment

EPISODES = 16
"""Episodes between two updates of the agent."""
BATCHES = 4
"""Batches that these are split into."""


def search(problem: Problem, trials: Trials, seed: int) -> None:
    """Let an agent learn until the budget is spent; an episode is one evaluation. Raises TargetOutOfReach and BudgetSpent."""
    environment = WidthEnvironment(problem, trials.predict, trials.check, trials.solve)
    steps = len(problem.choices)
    with _own_randomness():
        agent = PPO(
            "MlpPolicy",
            environment,
            n_steps=EPISODES * steps,
            batch_size=EPISODES * steps // BATCHES,
            gamma=1.0,
            gae_lambda=1.0,  # the one reward is the end's: each action counts by all of it
            learning_rate=1e-3,
            policy_kwargs={"log_std_init": -1.0},
            seed=seed,
            device="cpu",
        )
        agent.learn((trials.budget.evaluations + 1) * steps)


@contextmanager
def _own_randomness() -> Iterator[None]:
    """Restore the generators that stable-baselines3 seeds; compute on one thread, which is faster for so small networks."""
    threads, numpys, own = torch.get_num_threads(), np.random.get_state(), random.getstate()
    torch.set_num_threads(1)
    try:
        with torch.random.fork_rng(devices=[]):
            yield
    finally:
        torch.set_num_threads(threads)
        np.random.set_state(numpys)
        random.setstate(own)
