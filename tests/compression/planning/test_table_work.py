"""Forecasts count what error tables take, and refuse what they do not know."""

from dataclasses import replace
from typing import Any

import pytest

from compression.models.architectures.families import ARCHITECTURE_SPECS
from compression.models.architectures.network_shapes import whole_shape
from compression.models.architectures.shapes import check_axes
from compression.planning.artifact_work import SHIP_SECONDS
from compression.planning.counted import Counted
from compression.planning.cut_memory import cut_bytes
from compression.planning.estimator import PlannedJob
from compression.planning.memory import HELD_BYTES
from compression.planning.preflight import preflight
from compression.planning.table_work import (
    calibration_share,
    columns_of,
    filed_bytes,
    group_bytes,
    kept_bytes,
    passes,
    table_flops,
    tables_bytes,
    update_flops,
    update_share,
)
from compression.schema.errors import UnsupportedShape
from compression.schema.recipe.prune import Prune
from compression.schema.recipe.recipe import Evaluate, Recipe
from tests.compression.planning.test_network_rules import FACTS, plan
from tests.compression.planning.test_planning import DATA, MODEL, PARAMETERS, SHAPE
from tests.support.facts import SMOLLM2, V2_LITE

COUNTED = Counted(SHAPE, PARAMETERS)


def prune(**settings: Any) -> Prune:
    return Prune.model_validate({"search": "solver", **settings})


def test_the_columns_are_those_of_what_reads_units_each_input_once() -> None:
    columns = list(columns_of(COUNTED))
    assert columns[:4] == [("hidden", 384), ("heads.0", 384), ("hidden", 384), ("ffn.0", 1536)]
    assert len(columns) == 6 * 4 + 1
    assert len(list(columns_of(replace(COUNTED, tied=True)))) == 6 * 4
    assert passes(COUNTED) == 1
    assert filed_bytes(COUNTED) == 0
    assert kept_bytes(COUNTED) == 4 * sum(each**2 for _, each in columns)
    cubes, squares = (sum(each**power for _, each in columns) for power in (3, 2))
    assert table_flops(COUNTED, 5000) == 19 * cubes + 2 * 5000 * squares


def test_a_large_model_takes_several_passes_and_a_file() -> None:
    shape = SHAPE.model_copy(update={"layers": 24, "hidden": 1024, "heads": 16, "ffn": 4096})
    large = Counted(shape, PARAMETERS)
    assert passes(large) == 2
    assert filed_bytes(large) == kept_bytes(large) == 4 * (24 * (4096**2 + 3 * 1024**2) + 1024**2)
    assert tables_bytes(large) < kept_bytes(large) + 8 * 1024**3
    assert group_bytes(large)["hidden"] == 3 * 4 * 49 * 1024**2  # in float32: double precision has no room
    assert group_bytes(large)["ffn.3"] == 3 * 8 * 4096**2


def test_calibration_rows_are_counted_as_they_are_taken() -> None:
    assert calibration_share(prune(calibration_rows=400), 4000, 15, COUNTED) == (400 + 13 * 512) / 4000
    assert calibration_share(prune(calibration_rows=400), 4000, 128, COUNTED) == (128 + 13 * 512) / 4000
    assert calibration_share(prune(calibration_rows=400), 4000, 512, COUNTED) == (32 + 13 * 128) / 4000
    network = replace(COUNTED, shape=whole_shape(FACTS), network=FACTS)
    assert calibration_share(prune(calibration_rows=400), 4000, 1, network) == (14 * 400 + 13 * 512) / 4000
    plain = prune(calibration_rows=400, refresh_statistics=False)
    assert calibration_share(plain, 4000, 1, network) == (400 + 13 * 512) / 4000


def test_a_further_size_reads_the_calibration_rows_once_and_judges_no_candidates() -> None:
    assert update_share(prune(calibration_rows=400), 4000, 15, COUNTED) == 400 / 4000
    network = replace(COUNTED, shape=whole_shape(FACTS), network=FACTS)
    assert update_share(prune(calibration_rows=400), 4000, 1, network) == 2 * 400 / 4000  # and its statistics
    assert update_share(prune(calibration_rows=400, refresh_statistics=False), 4000, 1, network) == 400 / 4000
    cubes, squares = (sum(each**power for _, each in columns_of(COUNTED)) for power in (3, 2))
    assert update_flops(COUNTED, 5000) == cubes + 2 * 5000 * squares


def test_a_forecast_with_tables_is_longer_and_takes_more_memory() -> None:
    plain = preflight(MODEL, DATA, Recipe(prune=Prune(ratio=0.5), quantize=None, distill=None), Evaluate())
    solved = preflight(MODEL, DATA, Recipe(prune=prune(ratio=0.5), quantize=None, distill=None), Evaluate())
    assert solved.estimate.minutes > plain.estimate.minutes
    assert solved.shape == plain.shape
    jobs = [
        PlannedJob(COUNTED, COUNTED, DATA, Recipe(prune=each, distill=None), Evaluate()) for each in (Prune(), prune(ratio=0.5))
    ]
    assert cut_bytes(jobs[1], "cpu") - cut_bytes(jobs[0], "cpu") == tables_bytes(COUNTED) + HELD_BYTES * PARAMETERS.other


def test_a_search_times_no_kinds_of_blocks() -> None:
    def minutes(axes: dict[str, float]) -> float:
        return plan({"prune": {"search": "solver", "ratio": axes}, "quantize": None, "distill": None}).estimate.minutes

    assert abs(minutes({"channels": 0.01, "layers": 0.3}) - minutes({"channels": 0.01})) < 0.75 * SHIP_SECONDS / 60


def test_an_encoder_that_loses_hidden_alone_has_no_tables_of_what_heads_lose() -> None:
    kind = ARCHITECTURE_SPECS["bert"]
    with pytest.raises(UnsupportedShape, match="makes heads narrower") as refused:
        check_axes(kind, prune(axes=["hidden", "ffn"]), SHAPE)
    assert refused.value.param == "recipe.prune.axes"
    check_axes(kind, prune(axes=["hidden", "heads", "ffn"]), SHAPE)
    check_axes(kind, Prune(axes=("hidden", "ffn")), SHAPE)
    check_axes(ARCHITECTURE_SPECS["llama"], prune(axes=["hidden", "ffn"]), SMOLLM2)


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
