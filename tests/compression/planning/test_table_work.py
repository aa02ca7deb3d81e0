"""Forecasts count what error tables take, and refuse what they do not know."""

from typing import Any

import pytest

from compression.models.architectures.families import ARCHITECTURE_SPECS
from compression.models.architectures.shapes import check_axes
from compression.planning.counted import Counted
from compression.planning.preflight import preflight
from compression.planning.table_work import calibration_share, columns_of, moments_bytes, removal_flops
from compression.schema.errors import UnsupportedShape
from compression.schema.recipe.prune import Prune
from compression.schema.recipe.recipe import Evaluate, Recipe
from tests.compression.planning.test_planning import DATA, MODEL, PARAMETERS, SHAPE
from tests.support.facts import V2_LITE

COUNTED = Counted(SHAPE, PARAMETERS)


def prune(**settings: Any) -> Prune:
    return Prune.model_validate({"search": "solver", **settings})


def test_the_columns_are_those_of_what_reads_units() -> None:
    columns = list(columns_of(COUNTED))
    assert columns.count(1536) == 6
    assert columns.count(384) == 6 * 4
    assert removal_flops(COUNTED) == 8 * sum(each**3 for each in columns)
    assert moments_bytes(COUNTED) == 8 * sum(each**2 for each in columns) + 4 * 8 * 1536**2
    assert calibration_share(prune(calibration_rows=400), 4000) == (3 * 400 + 8 * (400 + 512)) / 4000


def test_a_forecast_with_tables_is_longer_and_takes_more_memory() -> None:
    plain = preflight(MODEL, DATA, Recipe(prune=Prune(ratio=0.5)), Evaluate())
    solved = preflight(MODEL, DATA, Recipe(prune=prune(ratio=0.5)), Evaluate())
    assert solved.estimate.minutes > plain.estimate.minutes
    assert solved.estimate.memory_bytes >= plain.estimate.memory_bytes
    assert solved.shape == plain.shape


@pytest.mark.parametrize(
    ("settings", "problem"),
    [
        ({"steps": 2, "recovery": {"epochs": 4}}, "search cuts once"),
        ({"stock": True}, "search gives each layer its own width"),
        ({"axes": ["vocabulary"]}, "search chooses no tokens"),
    ],
)
def test_what_a_solver_cannot_do_is_said(settings: dict[str, Any], problem: str) -> None:
    with pytest.raises(ValueError, match=problem):
        prune(**settings)


def test_several_targets_need_the_solver() -> None:
    with pytest.raises(ValueError, match="takes several"):
        Prune.model_validate({"target_params": 0.3, "target_flops": 0.3})
    assert prune(target_params=0.3, target_flops=0.3).has_target


@pytest.mark.parametrize(
    ("settings", "cause"),
    [
        ({"ratio": {"experts": 0.5}}, "what experts lose"),
        ({"ratio": {"ffn": 0.5}, "target_latency": {"speed_up": 2.0}}, "no latency of the family"),
    ],
)
def test_what_has_no_tables_or_no_times_is_refused(settings: dict[str, Any], cause: str) -> None:
    with pytest.raises(UnsupportedShape, match=cause):
        check_axes(ARCHITECTURE_SPECS["deepseek_v2"], prune(**settings), V2_LITE)
