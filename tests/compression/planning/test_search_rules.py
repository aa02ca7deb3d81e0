"""What a search among widths cannot end with is refused before the job, by name; what other widths may reach is not."""

from typing import Any

import pytest
from pydantic import ValidationError

from compression.models.architectures.families import ARCHITECTURE_SPECS
from compression.planning.preflight import Preflight, preflight
from compression.planning.search import mixed_space
from compression.schema.errors import CompressionError, InvalidSpec, TargetOutOfReach, UnsupportedShape
from compression.schema.recipe.recipe import Evaluate, Recipe
from compression.schema.schemes import SCHEMES
from compression.schema.validation import DataFacts, ModelFacts
from tests.compression.planning.test_network_rules import FACTS, data_of, model_of
from tests.compression.planning.test_planning import DATA, MODEL
from tests.support.facts import SMOLLM2, TEXTS, V2_LITE, decoder_facts

EXPERTS = decoder_facts("deepseek_v2", V2_LITE, V2_LITE.vocabulary)
NETWORK = model_of()
IMAGES = data_of()
LAYERS = ["ffn", "layers"]
FREE = {"free_widths": True}


def plan(model: ModelFacts, data: DataFacts, prune: dict[str, Any], **keys: Any) -> Preflight:
    recipe = {"quantize": None, "distill": None, **keys, "prune": {"search": "solver", **prune}}
    return preflight(model, data, Recipe.model_validate(recipe), Evaluate())


@pytest.mark.parametrize("search", ["solver", "tpe", "nsga2", "rl"])
@pytest.mark.parametrize(
    ("prune", "keys", "error", "param"),
    [
        ({"target_latency": {"speed_up": 2}}, {"quantize": {"scheme": "weight-only-int8"}}, InvalidSpec, "quantize.scheme"),
        ({"axes": LAYERS}, {"distill": {"hidden": 1, "layers": [[2, 3], [1, 1]]}}, InvalidSpec, "distill.layers"),
        ({"ratio": 0.01}, {"distill": {"attention": 1, "attention_by": "scores"}}, InvalidSpec, "distill.attention_by"),
        ({"axes": ["ffn"], "target_params": 0.9}, {}, TargetOutOfReach, "prune.target_params"),
        ({"axes": ["ffn"], "target_bytes": 0.9}, {"quantize": {}}, TargetOutOfReach, "prune.target_bytes"),
    ],
)
def test_what_no_widths_could_end_with_is_refused_by_its_key(
    search: str, prune: dict[str, Any], keys: dict[str, Any], error: type[CompressionError], param: str
) -> None:
    with pytest.raises(error) as caught:
        plan(MODEL, DATA, {**prune, "search": search}, **keys)
    assert caught.value.param == f"recipe.{param}"
    assert caught.value.remedy_text
    if error is InvalidSpec:  # without a search they can be had
        plan(MODEL, DATA, {**prune, "search": None}, **keys)


@pytest.mark.parametrize(
    ("prune", "keys"),
    [
        ({"target_latency": {"speed_up": 2}}, {"quantize": {"scheme": "auto"}}),
        ({"target_latency": {"speed_up": 2}}, {"quantize": {"scheme": "static-int8"}}),
        ({"axes": LAYERS}, {"distill": {"hidden": 1, "layers": [[1, 3]]}}),
        ({"axes": LAYERS}, {"distill": {"hidden": 1, "layers": "last"}}),
        ({"axes": ["ffn"]}, {"distill": {"hidden": 1, "layers": [[2, 3], [1, 1]]}}),
        ({"axes": ["ffn"]}, {"distill": {"attention": 1, "attention_by": "scores"}}),
        ({"axes": LAYERS}, {"distill": {"attention": 0, "hidden": 0, "soft": 1, "layers": [[2, 3]]}}),
    ],
)
def test_what_some_widths_can_end_with_is_not(prune: dict[str, Any], keys: dict[str, Any]) -> None:
    assert plan(MODEL, DATA, prune, **keys)


def test_every_scheme_is_either_timed_or_refused() -> None:
    refused = set()
    for scheme in SCHEMES:
        try:
            plan(MODEL, DATA, {"target_latency": {"speed_up": 2}}, quantize={"scheme": scheme})
        except InvalidSpec:
            refused.add(scheme)
    assert refused == {"weight-only-int8", "weight-only-int4"}


def test_layers_of_a_mixture_of_experts_are_refused_before_the_job() -> None:
    with pytest.raises(UnsupportedShape, match="layers of a mixture of experts") as caught:
        plan(EXPERTS, TEXTS, {"axes": ["ffn", "layers"]})
    assert caught.value.param == "recipe.prune.axes"
    assert plan(EXPERTS, TEXTS, {"axes": ["ffn"]})
    assert plan(EXPERTS, TEXTS, {"axes": ["ffn", "layers"], "search": None})


def test_the_nearest_point_to_a_target_below_all_cuts_is_named_with_its_shape() -> None:
    with pytest.raises(TargetOutOfReach) as caught:
        plan(MODEL, DATA, {"axes": ["ffn", "layers"], "target_params": 12_000_000})
    assert caught.value.code == "target_out_of_reach"
    asked, _, nearest = caught.value.cause.partition("; ")
    assert asked == "at most 12,000,000 parameters cannot be reached"
    assert nearest.startswith("the nearest point has 12,")
    assert nearest.endswith(" parameters (1 layers of 384/12/128)")
    assert "milder" in caught.value.remedy_text


def test_what_equal_ratios_do_not_reach_a_search_may() -> None:
    asked: dict[str, Any] = {"axes": ["hidden", "heads"], "target_params": 0.9}
    with pytest.raises(UnsupportedShape, match="the deepest cut of hidden, heads"):
        plan(MODEL, DATA, {**asked, "search": None})
    found = plan(MODEL, DATA, asked)
    assert found.shape.heads == 2  # the forecast is of the deepest equal ratios
    assert found.parameters.total > 0.1 * found.baseline_parameters.total


def test_tokens_that_may_go_are_not_counted_against_a_target() -> None:
    asked: dict[str, Any] = {"axes": ["ffn", "vocabulary"], "target_params": 0.6}
    assert plan(MODEL, DATA, asked)
    with pytest.raises(TargetOutOfReach):
        plan(MODEL, DATA, {**asked, "axes": ["ffn"]})
    with pytest.raises(TargetOutOfReach):
        plan(MODEL, DATA, {**asked, "ratio": {"ffn": 0.3, "vocabulary": 0.1}})


def test_of_several_targets_each_is_reached_by_the_forecast_or_named() -> None:
    both = {"target_params": 0.3, "target_flops": 0.5, "target_bytes": 0.4}
    found = plan(NETWORK, IMAGES, both)
    assert found.parameters.total <= 0.6 * FACTS.parameters()
    assert found.multiply_adds is not None
    assert found.multiply_adds <= 0.5 * FACTS.multiply_adds()
    for key in both:
        with pytest.raises(TargetOutOfReach) as caught:
            plan(NETWORK, IMAGES, {**both, key: 100})
        assert caught.value.param == f"recipe.prune.{key}"
        assert "at most 100" in caught.value.cause
        assert "groups)" in caught.value.cause


@pytest.mark.parametrize(("target", "told"), [({"target_params": 0.4}, "by the other targets alone"), ({}, "without a cut")])
def test_a_latency_beside_sizes_is_forecast_by_these(target: dict[str, Any], told: str) -> None:
    found = plan(MODEL, DATA, {**target, "target_latency": {"speed_up": 3}})
    assert found.parameters.total <= (1 - target.get("target_params", 0.0)) * found.baseline_parameters.total
    assert (found.shape == MODEL.shape) == (not target)
    (said,) = (one for one in found.warnings if "target_latency" in one)
    assert told in said


def test_a_network_with_a_head_for_other_labels_is_counted_with_the_new_one() -> None:
    labels = tuple(f"label {number}" for number in range(4000))
    architecture = ARCHITECTURE_SPECS["network"].architectures[1]  # without a head
    other = model_of(labels=None, architecture=architecture)
    with pytest.raises(TargetOutOfReach) as caught:
        plan(other, data_of(8000, labels), {"target_params": 1000})
    nearest = int(caught.value.cause.partition("has ")[2].split()[0].replace(",", ""))
    assert nearest > 4000 * 2  # two features are the fewest that stay
    with pytest.raises(TargetOutOfReach) as caught:
        plan(other, data_of(8000, labels), {"target_bytes": 1000})
    assert f"{4 * nearest:,} bytes" in caught.value.cause


@pytest.mark.parametrize("search", ["solver", "tpe", "nsga2", "rl"])
def test_widths_of_single_layers_are_forecast_for_encoders_of_text(search: str) -> None:
    free, plain = (plan(MODEL, DATA, {"search": search, "target_params": 0.4, **own}) for own in (FREE, {}))
    assert free.shape == plain.shape, "of equal ratios: which layers keep more is known by the tables alone"
    assert free.estimate.minutes >= plain.estimate.minutes


@pytest.mark.parametrize(("model", "data"), [(EXPERTS, TEXTS), (NETWORK, IMAGES)])
def test_widths_of_single_layers_are_refused_by_name_elsewhere(model: ModelFacts, data: DataFacts) -> None:
    own = {"axes": ["ffn"]} if model is EXPERTS else {}
    with pytest.raises(InvalidSpec, match=f"layers of the family {model.family} have") as caught:
        plan(model, data, {**own, **FREE})
    assert caught.value.param == "recipe.prune.free_widths"


BITS = {"target_bytes": 0.3, "mixed_bits": True}
INT4 = {"quantize": {"scheme": "weight-only-int4"}}


def test_bits_of_layers_are_chosen_for_text_alone() -> None:
    found, plain = (plan(MODEL, DATA, {**BITS, **own}, **INT4) for own in ({}, {"mixed_bits": False}))
    assert found.estimate.minutes >= plain.estimate.minutes
    with pytest.raises(InvalidSpec, match="this model has experts") as caught:
        plan(EXPERTS, TEXTS, {"axes": ["ffn"], **BITS}, **INT4)
    assert caught.value.param == "recipe.prune.mixed_bits"
    with pytest.raises(InvalidSpec):  # networks have no 4-bit scheme, which is said first or last
        plan(NETWORK, IMAGES, BITS, **INT4)


def test_more_than_can_be_gone_through_is_refused_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mixed_space, "MOST_NUMBERS", 10_000)
    with pytest.raises(UnsupportedShape, match="bits of 6 layers are too many") as caught:
        plan(MODEL, DATA, {"axes": ["hidden", "heads", "ffn", "layers"], **BITS}, **INT4)
    assert caught.value.param == "recipe.prune.mixed_bits"
    assert plan(MODEL, DATA, {"axes": ["ffn", "layers"], **BITS}, **INT4)


@pytest.mark.parametrize(
    ("keys", "why"),
    [
        ({"quantize": None}, "there is no scheme"),
        ({"quantize": {"scheme": "auto"}}, "the scheme is auto: set quantize.scheme to weight-only-int4"),
        ({"prune": {**BITS, "search": None}}, "set prune.search, and prune.target_bytes"),
        ({"prune": {**BITS, "target_bytes": None}}, "set prune.search, and prune.target_bytes"),
        ({"prune": {**BITS, "free_widths": True}}, "leave out prune.free_widths"),
        ({"prune": {**BITS, "points": 3}}, "leave out prune.points"),
    ],
)
def test_bits_need_a_scheme_of_4_a_search_and_bytes(keys: dict[str, Any], why: str) -> None:
    given = {**INT4, "prune": BITS, **keys}
    given["prune"] = {"search": "solver", **given["prune"]}
    with pytest.raises(ValidationError, match=why) as caught:
        Recipe.model_validate(given)
    assert caught.value.errors()[0]["loc"] == ("prune", "mixed_bits")


def test_a_decoder_keeps_one_width_for_all_layers() -> None:
    llama = decoder_facts("llama", SMOLLM2)
    with pytest.raises(InvalidSpec, match="family llama have one feed-forward width in all files") as caught:
        plan(llama, TEXTS, {"axes": ["ffn"], **FREE})
    assert (caught.value.param, caught.value.remedy_text) == ("recipe.prune.free_widths", "Leave prune.free_widths out.")
    plan(llama, TEXTS, {"axes": ["ffn"]})
