"""The searches among widths of a cut (`prune.search`), and the packages that each needs. Torch-free."""

from collections.abc import Mapping
from dataclasses import dataclass
from importlib.util import find_spec

from compression.schema.errors import MissingResource
from compression.schema.extras import pip_install

SOLVER = "solver"
"""The search that all others are compared to."""


@dataclass(frozen=True)
class SearchSpec:
    """A search, under the name that recipes have for it."""

    engine: str  #: where it is: a `compression.planning.search.trials.Search`, as pkgutil.resolve_name reads it
    packages: tuple[str, ...] = ()  #: that the extra `search` brings
    evaluation_seconds: float = 0.0  #: of one evaluation with some 30 choices, measured on two busy cores
    budgeted: bool = True  #: whether it goes on until its budget is spent

    @property
    def missing(self) -> list[str]:
        """Return the packages that are not installed here."""
        return [package for package in self.packages if find_spec(package) is None]


SEARCHES: Mapping[str, SearchSpec] = {
    SOLVER: SearchSpec("compression.planning.search.solver_search:search", budgeted=False),
    "tpe": SearchSpec("compression.planning.search.samplers:search_tpe", ("optuna",), 0.06),
    "nsga2": SearchSpec("compression.planning.search.samplers:search_nsga2", ("optuna",), 0.01),
    "rl": SearchSpec("compression.pruning.width_agent:search", ("gymnasium", "stable_baselines3"), 0.2),
}


def installed_searches() -> list[str]:
    """Return the names of the searches whose packages are installed here."""
    return [name for name, spec in SEARCHES.items() if not spec.missing]


def check_installed(name: str | None) -> None:
    """Raises MissingResource if a search's packages are not installed here. None: no search, which needs nothing."""
    if name is not None and (missing := SEARCHES[name].missing):
        cause = f"prune.search: {name} needs {' and '.join(missing)}, which this worker does not have"
        remedy = f"Ask who runs the worker to add them ({pip_install('search')}), or set prune.search to solver."
        raise MissingResource(cause, param="recipe.prune.search", remedy=remedy)
