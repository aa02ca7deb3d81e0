"""Which layer follows which, and what a recipe cannot ask of the models that a job names. No torch."""

import pytest

from compression.planning.distillation_rules import attention_form, check_models, layer_pairs
from compression.planning.preflight import preflight
from compression.schema.errors import InvalidSpec, LabelMismatch
from compression.schema.recipe.augment import Augment
from compression.schema.recipe.distill import Distill, General, Teachers
from compression.schema.recipe.presets import ARTICLE, STANDARD
from compression.schema.recipe.recipe import Evaluate, Prepare, Recipe
from compression.schema.report.measurements import Shape
from tests.compression.planning.test_planning import DATA, HEADED as TEACHER, MODEL, steps

SEEDS = "recipe.distill.teachers.seeds"


def test_layers_are_mapped_evenly_from_the_end_or_as_named() -> None:
    assert layer_pairs("uniform", 3, 3) == ((1, 1), (2, 2), (3, 3))
    assert layer_pairs("uniform", 4, 12) == ((1, 3), (2, 6), (3, 9), (4, 12))
    assert layer_pairs("uniform", 4, 6) == ((1, 2), (2, 3), (3, 5), (4, 6))
    assert layer_pairs("uniform", 6, 2)[-1] == (6, 2)
    assert layer_pairs("last", 2, 6) == ((1, 5), (2, 6))
    assert layer_pairs("last", 6, 2) == ((5, 1), (6, 2))
    assert layer_pairs(((2, 5), (1, 1)), 2, 6) == ((1, 1), (2, 5))
    for pairs, whose in ((((3, 1),), "student"), (((1, 7),), "teacher")):
        with pytest.raises(InvalidSpec, match=whose):
            layer_pairs(pairs, 2, 6)


def test_attention_is_compared_by_scores_where_there_are_as_many_heads() -> None:
    few, many = (Shape(layers=2, hidden=96, heads=heads, ffn=8, vocabulary=9) for heads in (8, 12))
    assert (attention_form("auto", many, many), attention_form("auto", few, many)) == ("scores", "relations")
    assert attention_form("relations", many, many) == "relations"
    grouped = many.model_copy(update={"groups": 12, "head_size": 8})
    assert attention_form("auto", grouped, grouped) == "relations"
    with pytest.raises(InvalidSpec, match="turned by their positions"):
        attention_form("scores", grouped, grouped)
    scores = Recipe(distill=Distill(attention=1.0, attention_by="scores"))
    for named in ((), (TEACHER,)):  # the baseline teaches beside those that are named
        with pytest.raises(InvalidSpec, match="heads"):
            preflight(MODEL, DATA, scores, Evaluate(), teachers=named)
    # Where named ones alone teach, only the worker sees who shows its insides: the model's own heads say nothing.
    alone = Distill(attention=1.0, attention_by="scores", teachers=Teachers(seeds=0))
    pupil = MODEL.model_copy(update={"shape": MODEL.shape.model_copy(update={"heads": MODEL.shape.heads // 2})})
    assert preflight(MODEL, DATA, Recipe(prune=None, distill=alone), Evaluate(), student=pupil, teachers=(TEACHER,))


@pytest.mark.parametrize(
    ("recipe", "student", "teachers", "param"),
    [
        (Recipe(), True, 0, "recipe.prune"),
        (Recipe(distill=None, prune=None), True, 0, "models.student"),
        (Recipe(distill=None), False, 1, "models.teachers"),
        (Recipe(distill=Distill(soft=0.0)), False, 1, "recipe.distill.soft"),
        (Recipe(distill=Distill(teachers=Teachers(seeds=0))), False, 0, SEEDS),
        (Recipe(prepare=Prepare(epochs=0), distill=Distill(teachers=Teachers(seeds=2))), False, 0, SEEDS),
        (Recipe(distill=Distill(soft=0.0, hidden=0.0, augment=Augment(splices=1))), False, 0, "recipe.distill.augment"),
    ],
)
def test_a_recipe_must_have_a_part_for_every_model(recipe: Recipe, student: bool, teachers: int, param: str) -> None:
    with pytest.raises(InvalidSpec, check=lambda error: error.param == param):
        check_models(recipe, student=student, teachers=teachers)


@pytest.mark.parametrize(
    "changes",
    [
        {"soft": 0, "hard": 0, "hidden": 0},
        {"weighting": "linear"},
        {"to": {"soft": 0}},
        {"weighting": "uncertainty", "hard": 0, "hidden": 0},
        {"teachers": {"seeds": 2}, "soft": 0},
        {"general": {"hidden": 0, "attention": 0, "embedding": 0}},
        {"layers": []},
    ],
)
def test_settings_that_would_do_nothing_are_refused(changes: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=r"weight|teacher|layers"):
        Distill.model_validate(changes)


def test_named_models_are_looked_at_before_a_job_is_taken() -> None:
    recipe = STANDARD.model_copy(update={"prune": None})
    small = MODEL.model_copy(update={"shape": MODEL.shape.model_copy(update={"layers": 2})})
    plan = preflight(MODEL, DATA, recipe, Evaluate(), student=small, teachers=(TEACHER, TEACHER))
    alone = preflight(MODEL, DATA, recipe, Evaluate(), student=small)
    assert plan.shape.layers == 2
    assert plan.parameters.other < plan.baseline_parameters.other
    assert plan.estimate.memory_bytes > alone.estimate.memory_bytes
    assert plan.estimate.minutes > alone.estimate.minutes
    short = small.model_copy(update={"max_positions": 64})
    with pytest.raises(InvalidSpec, match="the student"):
        preflight(MODEL, DATA, recipe, Evaluate(), student=short)
    for teacher, cause in ((MODEL, "no head"), (TEACHER.model_copy(update={"labels": ("yes", "no")}), "has the labels")):
        with pytest.raises(LabelMismatch, match=cause, check=lambda error: error.param == "models.teachers.1"):
            preflight(MODEL, DATA, STANDARD, Evaluate(), teachers=(TEACHER, teacher))


def test_more_teachers_and_a_general_phase_show_in_the_forecast() -> None:
    def estimate(**changes: object) -> tuple[int, int, float]:
        found = preflight(MODEL, DATA, Recipe(distill=Distill(**changes)), Evaluate()).estimate
        return found.memory_bytes, found.disk_bytes, found.minutes

    plain, more, first = estimate(), estimate(teachers=Teachers(seeds=3)), estimate(general=General())
    assert all(one < other for one, other in zip(plain, more, strict=True))
    assert first[2] > plain[2]
    assert steps(ARTICLE, DATA.model_copy(update={"rows": {**DATA.rows, "unlabelled": 8000}})) > steps(ARTICLE)
    large = DATA.model_copy(update={"rows": {**DATA.rows, "train": 60_000}})
    kept, spilled = (
        preflight(MODEL, large, Recipe(distill=Distill(spill_gib=gib)), Evaluate()).estimate.disk_bytes for gib in (0, 100)
    )
    assert spilled > kept + 2 * 2**30
    assert any("takes train's texts" in warning for warning in preflight(MODEL, DATA, ARTICLE, Evaluate()).warnings)
