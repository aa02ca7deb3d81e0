"""Ratios and targets become the nearest shape that a stock config can express."""

from itertools import pairwise

import pytest

from compression.models.architectures import families
from compression.models.architectures.families import ARCHITECTURE_SPECS, BERT, ELECTRA, ArchitectureSpec
from compression.models.architectures.shapes import (
    candidates,
    parameters_at,
    planned,
    planned_shape,
    shape_at,
    stepped,
    steps_to,
)
from compression.planning.estimator import artifact_bytes
from compression.planning.preflight import Preflight, preflight
from compression.schema.errors import InvalidSpec, UnsupportedShape
from compression.schema.recipe.presets import QUICK, STANDARD
from compression.schema.recipe.prune import Prune, Recovery
from compression.schema.recipe.quantize import Quantize
from compression.schema.recipe.recipe import Evaluate, Recipe
from compression.schema.report.measurements import Shape
from tests.compression.planning.test_planning import DATA, MODEL, SHAPE

NARROW_TABLES = Shape(layers=12, hidden=256, heads=4, ffn=1024, vocabulary=30522, embedding=128)
"""ELECTRA small's."""


def test_the_plan_is_the_shape_that_the_config_can_express_and_its_exact_count() -> None:
    plan = preflight(MODEL, DATA, QUICK, Evaluate())
    assert plan.shape == Shape(layers=6, hidden=256, heads=8, ffn=1088, vocabulary=30522)
    assert plan.parameters == parameters_at(BERT, plan.shape, rows=514, outputs=2)
    assert (plan.baseline_parameters.total, plan.warnings) == (MODEL.parameters.total + 2 * 384 + 2, ())


def test_each_axis_has_its_ratio_and_layers_are_counted() -> None:
    plan = preflight(MODEL, DATA, Recipe(prune=Prune(ratio={"heads": 0.5, "layers": 0.3})), Evaluate())
    assert plan.shape == Shape(layers=4, hidden=192, heads=6, ffn=1536, vocabulary=30522)
    assert plan.parameters == parameters_at(BERT, plan.shape, rows=514, outputs=2)


def test_a_target_of_parameters_is_solved_before_the_job() -> None:
    half = preflight(MODEL, DATA, STANDARD, Evaluate()).baseline_parameters.total // 2
    share, count = (preflight(MODEL, DATA, Recipe(prune=Prune(target_params=target)), Evaluate()) for target in (0.5, half))
    assert share.parameters.total <= 0.5 * share.baseline_parameters.total
    assert share.shape == count.shape
    milder = Recipe(prune=Prune(target_params=share.parameters.total + 1.0))
    assert preflight(MODEL, DATA, milder, Evaluate()).shape == share.shape
    assert share.shape.hidden % 32 == share.shape.ffn % 64 == 0
    # The ratios say how the axes compare: here layers go half as far as the units.
    uneven = Prune(ratio={"ffn": 0.4, "layers": 0.2}, target_params=0.2)
    shape = preflight(MODEL, DATA, Recipe(prune=uneven), Evaluate()).shape
    assert (1 - shape.ffn / 1536) / 2 == pytest.approx(1 - shape.layers / 6, abs=0.1)
    assert shape.layers < 6


def test_steps_lead_geometrically_to_the_very_ratios() -> None:
    ratios = {"ffn": 0.3, "layers": 0.51}
    assert stepped(ratios, 3, 3) == ratios
    first, second = (stepped(ratios, step, 3) for step in (1, 2))
    assert (1 - first["ffn"]) ** 2 == pytest.approx(1 - second["ffn"])
    assert (1 - first["layers"]) ** 3 == pytest.approx(0.49)


def test_a_stream_never_becomes_as_wide_as_narrow_tables() -> None:
    # At half of its heads, or with heads of half the size, the stream would be 128 wide and lose its projection.
    assert planned_shape(ELECTRA, NARROW_TABLES, Prune(ratio=0.5)).hidden == 192
    assert planned_shape(ELECTRA, NARROW_TABLES, Prune(ratio=0.75)).hidden == 64
    alone = planned_shape(ELECTRA, NARROW_TABLES, Prune(ratio=0.5, axes=("hidden",)))
    assert (alone.hidden, alone.heads) == (160, 4)


@pytest.mark.parametrize(
    ("ratio", "axes", "heads", "hidden"),
    [
        (0.5, ("hidden",), 12, 192),
        (0.3, ("hidden",), 12, 12 * 24),  # by eighths of a head of 32: 22.4 channels were asked
        (0.99, ("hidden",), 12, 12 * 4),
        ({"hidden": 0.6, "heads": 0.3}, ("hidden", "heads"), 8, 8 * 20),
        ({"hidden": 0.31, "heads": 0.3}, ("hidden", "heads"), 8, 8 * 32),  # the heads that go are already more
    ],
)
def test_where_hidden_loses_more_than_heads_each_narrows(ratio: object, axes: tuple[str, ...], heads: int, hidden: int) -> None:
    plan = preflight(MODEL, DATA, Recipe(prune=Prune.model_validate({"ratio": ratio, "axes": axes})), Evaluate())
    assert plan.shape == SHAPE.model_copy(update={"hidden": hidden, "heads": heads})
    assert plan.parameters == parameters_at(BERT, plan.shape, rows=514, outputs=2)


@pytest.mark.parametrize(
    ("family", "settings", "param", "said"),
    [
        (ARCHITECTURE_SPECS["mpnet"], {"axes": ["heads"]}, "axes", "heads alone"),
        (ARCHITECTURE_SPECS["mpnet"], {"ratio": {"hidden": 0.3, "heads": 0.4}}, "ratio", "larger share"),
        (ARCHITECTURE_SPECS["gpt2"], {"axes": ["hidden"]}, "axes", "go together"),
        (ARCHITECTURE_SPECS["gpt2"], {"ratio": {"hidden": 0.5, "heads": 0.4}}, "ratio", "go together"),
    ],
)
def test_heads_no_config_says_are_refused(family: ArchitectureSpec, settings: dict[str, object], param: str, said: str) -> None:
    with pytest.raises(UnsupportedShape, match=said) as caught:
        planned_shape(family, SHAPE, Prune.model_validate(settings))
    assert "hidden" in caught.value.remedy_text
    assert caught.value.param == f"recipe.prune.{param}"


@pytest.mark.parametrize("quantize", [{}, {"scheme": "weight-only-int4"}])
def test_a_target_of_bytes_is_met_by_the_mildest_cut_or_refused_with_what_the_deepest_leaves(quantize: dict[str, str]) -> None:
    def plan(target: float) -> Preflight:
        prune = {"axes": ["ffn", "hidden", "heads"], "target_bytes": target}
        recipe = Recipe.model_validate({"quantize": quantize, "prune": prune, "distill": None})
        return preflight(MODEL, DATA, recipe, Evaluate())

    scheme = Quantize.model_validate(quantize)
    found = plan(0.3)
    before, after = (artifact_bytes(each, scheme) for each in (found.baseline_parameters, found.parameters))
    assert 0.65 * before < after <= 0.7 * before
    assert plan(0.7 * before).shape == found.shape  # the number is as good as the share
    with pytest.raises(UnsupportedShape, match="target_bytes asks for at most 1,000 bytes; the deepest cut of") as caught:
        plan(1000)
    assert caught.value.param == "recipe.prune.target_bytes"


def test_a_target_s_candidates_are_the_mildest_first() -> None:
    prune = Prune.model_validate({"ratio": {"hidden": 0.6, "heads": 0.3}, "target_params": 0.5})
    shapes = [shape for _, shape in candidates(BERT, SHAPE, prune)]
    counts = [parameters_at(BERT, shape, rows=514, outputs=2).total for shape in shapes]
    assert counts == sorted(counts, reverse=True)
    assert len({shape.heads for shape in shapes}) > 2


def test_no_step_has_narrower_heads_or_fewer_of_them_than_a_later_one() -> None:
    recovery = Recovery(epochs=20)
    for hidden in range(10, 96, 3):
        for heads in range(0, hidden + 1, 3):
            ratio = {"hidden": hidden / 100} | ({"heads": heads / 100} if heads else {})
            prune = Prune.model_validate({"ratio": ratio, "axes": tuple(ratio), "steps": 7, "recovery": recovery})
            try:
                end = planned_shape(BERT, SHAPE, prune)
            except UnsupportedShape:
                continue
            for before, after in pairwise([SHAPE, *steps_to(BERT, SHAPE, prune, prune.ratios, end)]):
                assert after.heads <= before.heads
                assert after.hidden // after.heads <= before.hidden // before.heads


REAL = {
    "SmolLM2-135M": ("llama", {"layers": 30, "hidden": 576, "heads": 9, "groups": 3, "ffn": 1536, "vocabulary": 49152}, 64),
    "R1-Distill-Qwen-1.5B": (
        "qwen2",
        {"layers": 28, "hidden": 1536, "heads": 12, "groups": 2, "ffn": 8960, "vocabulary": 151936},
        128,
    ),
    "Llama-3.1-8B": (
        "llama",
        {"layers": 32, "hidden": 4096, "heads": 32, "groups": 8, "ffn": 14336, "vocabulary": 128256},
        128,
    ),
}


@pytest.mark.parametrize("outputs", ["classes", "vocabulary"])
@pytest.mark.parametrize("name", REAL)
def test_a_decoder_is_cut_to_the_accounts_figure_within_a_quarter_of_a_point(name: str, outputs: str) -> None:
    kind, widths, size = REAL[name]
    shape, family = Shape(**widths, head_size=size), ARCHITECTURE_SPECS[kind]
    spoken = 2 if outputs == "classes" else None if name.startswith("SmolLM2") else shape.vocabulary

    def count(one: Shape) -> int:
        return parameters_at(family, one, outputs=spoken).total

    ratios, found = planned(family, shape, Prune(target_params=0.305, multiple=8), counts={"target_params": count})
    assert 0.305 <= 1 - count(found) / count(shape) < 0.3075
    assert found.hidden < shape.hidden
    assert found.heads <= shape.heads
    assert found.ffn < shape.ffn
    stored = {"target_bytes": lambda one: 4 * count(one)}
    assert planned(family, shape, Prune(target_bytes=0.305, multiple=8), counts=stored)[1] == found
    # An attempt that resumes makes the same shape of the ratios that were saved.
    assert shape_at(family, shape, Prune(target_params=0.305, multiple=8), ratios) == found


def test_multiply_adds_that_nobody_counts_are_no_target(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(families.INSTALLED, BERT.name, object())
    with pytest.raises(InvalidSpec, match="installed package") as caught:
        planned_shape(BERT, SHAPE, Prune(target_flops=0.3))
    assert caught.value.param == "recipe.prune.target_flops"
