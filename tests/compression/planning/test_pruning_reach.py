"""A cut that takes next to nothing says so before the job, and which axes hold the rest of the model."""

import pytest

from compression.planning.preflight import preflight
from compression.schema.recipe.presets import preset
from compression.schema.recipe.prune import AxisRatios, Prune
from compression.schema.recipe.recipe import Evaluate, Recipe
from compression.schema.report.measurements import Shape
from compression.schema.validation import ModelFacts
from tests.compression.planning import test_planning as test_catalog
from tests.support.facts import SMOLLM2, TEXTS, V2_LITE, V3, decoder_facts


def little(model: ModelFacts, recipe: Recipe) -> list[str]:
    return [one for one in preflight(model, TEXTS, recipe, Evaluate()).warnings if "of the parameters. Name more axes" in one]


@pytest.mark.parametrize(("kind", "shape", "share"), [("deepseek_v2", V2_LITE, "0.24%"), ("deepseek_v3", V3, "0.10%")])
def test_a_cut_past_the_experts_is_warned_of_with_the_axes_that_are_large(kind: str, shape: Shape, share: str) -> None:
    model, language = decoder_facts(kind, shape, shape.vocabulary), preset("language", "causal-lm")
    (said,) = little(model, language)
    assert said.startswith(f"ffn at 0.55 takes {share} of the parameters")
    named = said.partition("would take: ")[2]
    assert all(f"{axis} (5" in named for axis in ("experts", "expert_ffn", "hidden", "layers"))
    assert "rank" not in named
    assert little(model, language.model_copy(update={"prune": Prune(ratio=AxisRatios(ffn=0.55, experts=0.3))})) == []
    assert little(decoder_facts("llama", SMOLLM2, SMOLLM2.vocabulary), language) == []
    # A target is reached or refused, whatever the ratio says.
    aimed = language.model_copy(update={"prune": Prune(ratio=AxisRatios(ffn=0.55), target_params=0.0005)})
    assert little(model, aimed) == []


@pytest.mark.parametrize("model", [decoder_facts("llama", SMOLLM2, SMOLLM2.vocabulary), test_catalog.MODEL])
def test_the_published_share_of_the_parameters_is_met_closely(model: ModelFacts) -> None:
    encoder = model is test_catalog.MODEL
    recipe, article = (preset(name, "text-classification" if encoder else "causal-lm") for name in ("published", "article"))
    found = preflight(model, test_catalog.DATA if encoder else TEXTS, recipe, Evaluate())
    assert 0.305 <= 1 - found.parameters.total / found.baseline_parameters.total < 0.31
    assert recipe.model_copy(update={"prune": article.prune}) == article
