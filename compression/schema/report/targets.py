"""The kinds of targets: which figure of a row each judges, in which unit, and from which side. Torch-free."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, TypeVar

from compression.schema.recipe.recipe import LatencyTarget, Targets
from compression.schema.report.measurements import Latency, Row, Score, in_unit, of_unit, shown
from compression.schema.report.written import plain

Unit = Literal["share", "times", "count", "ms", "metric"]
"""How a target and its value are shown. metric: as scores are, in percent or as the metric's own number."""


def _never(_: Row) -> bool:
    return False


def _nothing(_: Row) -> dict[str, Any]:
    return {}


def _nowhere(_: Any) -> None:
    return None


NEAR = 1e-9
"""Share of a bound by which a figure may be beyond it: 58 of 100 rows in percent are 57.99999999999999."""


def reaches(value: float, bound: float, *, at_most: bool = False) -> bool:
    """Return whether a figure reaches a bound, whatever its last bits are."""
    near = NEAR * abs(bound)
    return value <= bound + near if at_most else value >= bound - near


@dataclass(frozen=True)
class Target:
    """One kind of target. Its name is a field of `Targets`."""

    name: str
    figure: Literal["parameters", "size", "latency", "score"]  #: what it judges
    unit: Unit
    value: Callable[[Row], float | None]  #: a row's figure in that unit; None: not measured
    at_most: Callable[[Row], bool] = _never  #: whether smaller is better
    left: Callable[[float], float] | None = None
    """From a figure to what is left of the size or the time, up to a constant factor; None for scores."""
    facts: Callable[[Row], dict[str, Any]] = _nothing  #: further fields of its verdict
    by_baseline: bool = False  #: a share of the baseline's score, which proves nothing before the baseline has converged
    number: Callable[[Any], float] = float  #: the bound in its setting
    elsewhere: Callable[[Any], str | None] = _nowhere  #: another machine that its setting names
    spoken: str = ""  #: its name for people

    def bound(self, targets: Targets) -> float:
        """Return the number that a value is compared with."""
        return self.number(getattr(targets, self.name))

    def device(self, targets: Targets) -> str | None:
        """Return the device that it is judged on; None if a job's own rows decide."""
        return self.elsewhere(getattr(targets, self.name))

    def is_reached(self, row: Row, targets: Targets) -> bool:
        """Return whether a row's figure reaches the bound, proven or not."""
        value = self.value(row)
        return value is not None and reaches(value, self.bound(targets), at_most=self.at_most(row))

    def figure_text(self, row: Row) -> str:
        """Return a row's figure for sentences."""
        value = self.value(row)
        return "not measured" if value is None else _FIGURES.get(self.unit, "{:.3f}").format(value)

    def bound_text(self, targets: Targets) -> str:
        """Return the bound for sentences."""
        return _BOUNDS.get(self.unit, "{:g}").format(self.bound(targets))


_FIGURES = {"count": "{:,.0f}", "ms": "{:.2f} ms", "metric": "{:.2f}"}
_BOUNDS = {"count": "{:,.0f}", "ms": "{:g} ms"}


def _score(row: Row) -> float | None:
    found = row.judged_score
    return in_unit(found.metric, found.value) if isinstance(found, Score) else None


def _scored(row: Row) -> dict[str, Any]:
    found = row.judged_score
    return {"split": "test" if row.validation is None else "validation", "metric": getattr(found, "metric", None)}


def _retained(row: Row) -> dict[str, Any]:
    return {"split": row.ratios.judged_on, "interval": row.ratios.judged_interval}


def _timed(row: Row) -> dict[str, Any]:
    return {"interval": row.ratios.speed_up_interval}


def _perplexity(row: Row) -> bool:
    return isinstance(row.judged_score, Score) and row.judged_score.lower_is_better


def _always(_: Row) -> bool:
    return True


def _rest(value: float) -> float:
    return 1 - value


def _elsewhere(setting: LatencyTarget) -> str | None:
    return setting.elsewhere


_KINDS = (
    Target("parameter_reduction", "parameters", "share", lambda row: row.ratios.parameter_reduction, left=_rest),
    Target("size_reduction", "size", "share", lambda row: row.ratios.size_reduction, left=_rest),
    Target("speed_up", "latency", "times", lambda row: row.ratios.speed_up, left=lambda value: 1 / value, facts=_timed),
    Target("retention", "score", "share", lambda row: row.ratios.judged_retention, facts=_retained, by_baseline=True),
    Target("parameters", "parameters", "count", lambda row: float(row.parameters.total), _always, left=float),
    Target(
        "latency_ms",
        "latency",
        "ms",
        lambda row: row.latency.median_ms if isinstance(row.latency, Latency) else None,
        _always,
        left=float,
        number=lambda setting: setting.value,
        elsewhere=_elsewhere,
        spoken="latency",
    ),
    Target("score", "score", "metric", _score, _perplexity, facts=_scored),
)
TARGETS = {kind.name: kind for kind in _KINDS}
V = TypeVar("V")


def in_order(found: Mapping[str, V]) -> list[tuple[str, V]]:
    """Return what there is of each target in their order, unknown names last: a database may sort the names."""
    places = {name: place for place, name in enumerate(TARGETS)}
    return sorted(found.items(), key=lambda item: places.get(item[0], len(places)))


def spoken(name: str) -> str:
    """Return a target's name for people: parameter_reduction → parameter reduction."""
    kind = TARGETS.get(name)
    return (kind.spoken if kind is not None else "") or name.replace("_", " ")


def target_text(name: str, value: float, metric: str | None = None, *, more: int = 0) -> str:
    """Return a target, or the figure that it is compared with, as it is shown. metric: of a score, where it was measured; more:
    digits than usual.
    """
    match TARGETS[name].unit:
        case "share":
            return f"{100 * value:.{1 + more}f} %".replace("-", "−")
        case "times":
            return f"{value:.{2 + more}f}×"
        case "count":
            return f"{value:,.0f}"
        case "ms":
            return f"{plain(value, 3 + more)} ms"
        case "metric":
            return f"{value:g}" if metric is None else shown(metric, of_unit(metric, value), more).replace("%", " %")


def bound_text(name: str, value: float, metric: str | None = None, *, at_most: bool = False) -> str:
    """Return a target as it is shown, with its side if smaller is better: at most 120 ms."""
    return ("at most " if at_most else "") + target_text(name, value, metric)


def asked(targets: Targets) -> tuple[Target, ...]:
    """Return the kinds that a job has a target of, in the order of the fields."""
    return tuple(kind for kind in _KINDS if getattr(targets, kind.name) is not None)


def of_rows(targets: Targets) -> tuple[Target, ...]:
    """Return those that a job's own rows decide. What another device measures is of the shipped artifact alone."""
    return tuple(kind for kind in asked(targets) if kind.device(targets) is None)
