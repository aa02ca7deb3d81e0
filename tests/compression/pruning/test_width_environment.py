"""The environment of widths: gymnasium's own checks, and episodes that end within the limits whatever an agent does."""

from itertools import product

import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env

from compression.planning.search.completion import Completions, fixed_to
from compression.planning.search.problem import Choice, Limit, Problem, Term
from compression.planning.search.trials import Trials
from compression.pruning.width_environment import WidthEnvironment
from compression.schema.errors import TargetOutOfReach
from compression.schema.recipe.prune import SearchBudget
from tests.compression.planning.search.made_problems import chain


def environment(problem: Problem) -> WidthEnvironment:
    return WidthEnvironment(problem, Trials(problem, SearchBudget(evaluations=20_000, seconds=3600)).predict)


def crossed(seed: int) -> Problem:
    """Two limits that pull apart: what is cheap in one is dear in the other, so the cheapest rest is often not the answer."""
    draw = np.random.default_rng(seed)
    choices = tuple(Choice(name, 3) for name in "abcd")
    first = [draw.uniform(0, 1, 3) for _ in choices]
    terms = tuple(Term((one.name,), tuple(map(float, cost))) for one, cost in zip(choices, first, strict=True))
    other = tuple(Term((one.name,), tuple(map(float, 1 - cost))) for one, cost in zip(choices, first, strict=True))
    error = tuple(Term((one.name,), tuple(map(float, draw.uniform(0, 1, 3)))) for one in choices)
    return Problem(choices, error, (Limit("bytes", 2.1, terms), Limit("milliseconds", 2.1, other)))


def test_gymnasium_finds_nothing_wrong() -> None:
    check_env(environment(chain(0)), skip_render_check=True)


@pytest.mark.parametrize("problem", [*map(chain, range(2)), *map(crossed, range(4))])
def test_every_episode_ends_within_the_limits(problem: Problem) -> None:
    world, draw = environment(problem), np.random.default_rng(0)
    for episode in range(20):
        seen, _ = world.reset()
        done, rewards = False, []
        while not done:
            assert world.observation_space.contains(seen)
            extreme = np.array([(-1.0, 1.0)[episode % 2]], np.float32)
            action = extreme if episode < 2 else draw.uniform(-1, 1, 1).astype(np.float32)
            seen, reward, done, _, info = world.step(action)
            rewards.append(reward)
        assert len(rewards) == len(problem.choices)
        assert not any(rewards[:-1])
        assert rewards[-1] == pytest.approx(-info["trial"].error / world.scale)
        assert problem.allows(info["trial"].picks)


@pytest.mark.parametrize("problem", [chain(1, groups=3, options=3, share=0.3), *map(crossed, range(6))])
def test_an_option_is_open_if_and_only_if_the_rest_can_meet_the_limits(problem: Problem) -> None:
    names = [choice.name for choice in problem.choices]
    every = [dict(zip(names, each, strict=True)) for each in product(*(range(one.options) for one in problem.choices))]
    allowed = [picks for picks in every if problem.allows(picks)]
    completions = Completions(problem)
    for count in range(1, len(names)):
        for taken in ({name: picks[name] for name in names[:count]} for picks in every):
            found = completions.completed(taken)
            assert (found is not None) == any(taken.items() <= picks.items() for picks in allowed)
            assert found is None or (problem.allows(found) and taken.items() <= found.items())


def test_an_action_is_a_keep_ratio() -> None:
    problem = chain(0, share=1.0)
    world = environment(problem)
    for ratio, option in ((1.0, 0), (0.0, 2), (-1.0, 4), (7.0, 0)):
        world.reset()
        world.step(np.array([ratio], np.float32))
        assert world.taken == {"channels.0": option}


def test_a_fixed_choice_has_one_option_left() -> None:
    problem = chain(0)
    smaller = fixed_to(problem, {"channels.1": 3})
    picks = {**dict.fromkeys(problem.options, 1), "channels.1": 3}
    assert smaller.options["channels.1"] == 1
    assert smaller.costs_of({**picks, "channels.1": 0}) == pytest.approx(problem.costs_of(picks))
    assert smaller.error_of({**picks, "channels.1": 0}) == pytest.approx(problem.error_of(picks))


def test_what_nothing_is_within_is_out_of_reach() -> None:
    with pytest.raises(TargetOutOfReach):
        environment(chain(0, share=0.01))
