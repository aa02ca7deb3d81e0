"""The forecast of several sizes: each costs its training and its measurement, larger ones more."""

from collections import defaultdict

import pytest

from compression.planning.memory import HELD_BYTES
from compression.planning.point_work import point_factors
from compression.planning.preflight import preflight
from compression.schema.recipe.distill import Distill, General, Teachers
from compression.schema.recipe.prune import Prune
from compression.schema.recipe.recipe import Evaluate, Recipe
from tests.compression.planning.test_planning import DATA, MODEL


def test_sizes_grow_by_the_same_factor_from_the_smallest() -> None:
    assert dict(point_factors(None, 8.0, 1.0)) == {"distilled": 1.0}
    found = dict(point_factors(Prune(search="solver", points=3), 8.0, 1.0))
    assert found == pytest.approx({"distilled": 4.0, "point2": 2.0, "point3": 1.0})


def test_each_size_has_a_training_and_a_measurement_and_one_has_the_general_phase() -> None:
    distill = Distill(general=General(epochs=2))
    one, four = (
        preflight(MODEL, DATA, Recipe(prune=Prune(search="solver", ratio=0.5, points=points), distill=distill), Evaluate())
        for points in (1, 4)
    )
    steps, measured, flops = defaultdict[str, float](float), defaultdict[str, int](int), defaultdict[str, float](float)
    for work in four.estimate.work:
        steps[work.stage] += work.steps
        flops[work.stage] += work.simulated_flops
        measured[work.stage] += work.scored_rows > 0
    points = ("point2", "point3", "point4")
    assert steps["distilled"] > steps["point2"] == steps["point3"] == steps["point4"] > 0  # the general phase is of the first
    assert flops["distilled"] > flops["point2"] > flops["point3"] > flops["point4"] > 0
    assert {stage: measured[stage] for stage in points} == dict.fromkeys(points, 1)
    alone = sum(work.steps for work in one.estimate.work)
    assert sum(steps.values()) == pytest.approx(alone + 3 * steps["point4"])
    assert four.shape == one.shape
    for name in ("minutes", "memory_bytes", "disk_bytes"):
        assert getattr(four.estimate, name) > getattr(one.estimate, name)


def test_a_teacher_that_may_be_quantized_and_runs_again_has_its_weights_on_disk_once() -> None:
    def disk(points: int, precision: str) -> int:
        recipe = Recipe(
            prune=Prune(search="solver", ratio=0.5, points=points), distill=Distill(teachers=Teachers(precision=precision))
        )
        return preflight(MODEL, DATA, recipe, Evaluate()).estimate.disk_bytes

    whole = preflight(MODEL, DATA, Recipe(), Evaluate()).baseline_parameters.total
    assert disk(1, "int8") == disk(1, "float32")  # asked once, before it is quantized
    assert disk(2, "int8") - disk(2, "float32") == disk(4, "int8") - disk(4, "float32") == HELD_BYTES * whole


def test_a_further_cut_costs_a_pass_and_no_candidates() -> None:
    recipe = Recipe(prune=Prune(search="solver", ratio=0.5, points=2), distill=Distill())
    cut, first = (
        sum(
            work.float32_flops
            for work in preflight(MODEL, DATA, recipe, Evaluate()).estimate.work
            if work.stage == stage and not work.steps and not work.scored_rows
        )
        for stage in ("point2", "pruned")
    )
    assert 0 < cut < first / 3
