"""Which curves of sensitivity a model has: one of each axis that it can lose alone, and the forecast counts them."""

import pytest

from compression.models.architectures.families import ARCHITECTURE_SPECS
from compression.models.architectures.pruning_groups import width_of
from compression.models.architectures.shapes import shape_at
from compression.planning import model_sizes, preflight
from compression.planning.sensitivity import curve_axes
from compression.schema.recipe.prune import Prune
from compression.schema.recipe.recipe import JobEvaluate, Recipe
from compression.schema.report.measurements import Shape
from tests.support.facts import LLAMA3, SMOLLM2, TEXTS, V2_LITE, V3, decoder_facts

BERT = Shape(layers=6, hidden=384, heads=12, ffn=1536, vocabulary=30522)
GPT2 = Shape(layers=12, hidden=768, heads=12, ffn=3072, vocabulary=50257, head_size=64, groups=12)
GROUPED = {"hidden", "heads", "ffn", "layers"}
OF_EXPERTS = {*GROUPED, "experts", "expert_ffn", "kv_rank"}


@pytest.mark.parametrize(
    ("family", "shape", "curves"),
    [
        ("bert", BERT, {"hidden", "ffn", "layers"}),
        ("gpt2", GPT2, {"hidden", "ffn", "layers"}),
        ("llama", SMOLLM2, GROUPED),
        ("qwen3", SMOLLM2, GROUPED),
        ("deepseek_v2", V2_LITE, OF_EXPERTS),
        ("deepseek_v3", V3, {*OF_EXPERTS, "query_rank"}),
    ],
)
def test_each_axis_that_can_go_alone_has_a_curve(family: str, shape: Shape, curves: set[str]) -> None:
    spec = ARCHITECTURE_SPECS[family]
    found = curve_axes(spec, shape)
    assert {*found} == curves
    for name, axes in found.items():
        assert axes == (("hidden", "heads") if spec.coupled and name == "hidden" else (name,))
        alone = Prune(ratio=0.5, axes=axes)
        small = shape_at(spec, shape, alone, alone.ratios)
        assert {axis for axis in spec.axes if width_of(small, axis) != width_of(shape, axis)} == {*axes}


def test_a_curve_of_hidden_is_of_hidden_alone_if_the_recipe_cuts_it_so() -> None:
    assert curve_axes(ARCHITECTURE_SPECS["bert"], BERT, ("hidden",))["hidden"] == ("hidden",)
    assert curve_axes(ARCHITECTURE_SPECS["bert"], BERT, ("ffn",))["hidden"] == ("hidden", "heads")


@pytest.mark.parametrize(("family", "shape", "curves"), [("llama", LLAMA3, 4), ("deepseek_v3", V3, 8)])
def test_a_forecast_counts_the_curves(family: str, shape: Shape, curves: int, monkeypatch: pytest.MonkeyPatch) -> None:
    def flops(*, sensitivity: bool) -> float:
        recipe = Recipe(prune=Prune(axes=("ffn",), sensitivity=sensitivity), distill=None)
        found = preflight.preflight(decoder_facts(family, shape), TEXTS, recipe, JobEvaluate())
        return sum(one.float32_flops for one in found.estimate.work)

    without = flops(sensitivity=False)
    of_all = flops(sensitivity=True) - without
    monkeypatch.setattr(model_sizes, "curve_axes", lambda *_: {"ffn": ("ffn",)})
    assert of_all == pytest.approx(curves * (flops(sensitivity=True) - without), rel=1e-3)
