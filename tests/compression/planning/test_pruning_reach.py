"""A cut that takes next to nothing says so before the job, and which axes hold the rest of the model."""

import pytest

from compression.models.architectures.families import ARCHITECTURE_SPECS
from compression.models.architectures.shapes import parameters_at
from compression.planning.preflight import preflight
from compression.schema.recipe.presets import preset
from compression.schema.recipe.prune import AxisRatios, Prune
from compression.schema.recipe.recipe import Evaluate, Recipe
from compression.schema.report.measurements import Experts, Latent, Shape
from compression.schema.validation import DataFacts, ModelFacts
from tests.compression.models.architectures.test_decoder_shapes import SMOLLM2, V3
from tests.support.decoder_models import STEMS

V2_LITE = Shape(
    layers=27,
    hidden=2048,
    heads=16,
    ffn=10944,
    vocabulary=102400,
    groups=16,
    head_size=192,
    experts=Experts(count=64, ffn=1408, shared=2816, chosen=6, groups=1, chosen_groups=1, dense_layers=1),
    latent=Latent(query=None, kv=512, rope=64, value=128),
)
TEXTS = DataFacts(
    task="causal-lm",
    labels=(),
    rows={"train": 500, "validation": 100, "test": 100},
    label_counts={"train": {}},
    mean_words=300.0,
    longest_words=900,
    characters={"train": 900_000, "validation": 180_000, "test": 180_000},
)


def speaker(kind: str, shape: Shape) -> ModelFacts:
    """A language model of a shape, its output layer beside its table."""
    parameters = parameters_at(ARCHITECTURE_SPECS[kind], shape, outputs=shape.vocabulary)
    return ModelFacts(
        family=kind,
        architecture=STEMS[kind] + "ForCausalLM",
        shape=shape,
        max_positions=4096,
        parameters=parameters,
        labels=None,
        dtype="bfloat16",
        bytes=2 * parameters.total,
    )


def little(model: ModelFacts, recipe: Recipe) -> list[str]:
    return [one for one in preflight(model, TEXTS, recipe, Evaluate()).warnings if "of the parameters. Name more axes" in one]


@pytest.mark.parametrize(("kind", "shape", "share"), [("deepseek_v2", V2_LITE, "0.24%"), ("deepseek_v3", V3, "0.10%")])
def test_a_cut_that_goes_past_the_experts_is_warned_of_with_the_axes_that_are_large(
    kind: str, shape: Shape, share: str
) -> None:
    model, language = speaker(kind, shape), preset("language", "causal-lm")
    (said,) = little(model, language)
    assert said.startswith(f"ffn at 0.55 takes {share} of the parameters")
    named = said.partition("would take: ")[2]
    assert all(f"{axis} (5" in named for axis in ("experts", "expert_ffn", "hidden", "layers"))
    assert "rank" not in named
    more = language.model_copy(update={"prune": Prune(ratio=AxisRatios(ffn=0.55, experts=0.3))})
    assert little(model, more) == []
    assert little(speaker("llama", SMOLLM2), language) == []
    # A target is reached or refused, whatever the ratio says.
    aimed = language.model_copy(update={"prune": Prune(ratio=AxisRatios(ffn=0.55), target_params=0.0005)})
    assert little(model, aimed) == []
