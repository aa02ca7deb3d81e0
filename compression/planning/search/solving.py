"""Chooses what solves a search space. Torch-free; it loads numpy and scipy, which naming a space does not."""

from collections.abc import Callable
from functools import partial

from compression.planning.search.alike_bits import solve_mixed
from compression.planning.search.alike_layers import solve_alike
from compression.planning.search.problem import Solution
from compression.planning.search.space import SearchSpace


def solver_for(space: SearchSpace) -> Callable[..., Solution]:
    """Return what solves problems of a space: (problem, *, until) -> solution. Layers of a transformer cost alike, which needs
    no program; blocks of a network do not.
    """
    layers, bits = ([choice.name for choice in found] for found in (space.layer_choices, space.bit_choices))
    return partial(solve_mixed, layers=layers, bits=bits) if bits else partial(solve_alike, layers=layers)
