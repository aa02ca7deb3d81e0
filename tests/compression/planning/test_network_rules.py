"""A job on a network of images is forecast from its costs, and settings that mean nothing to it are refused by name."""

import json
from typing import Any

import pytest
from pydantic import ValidationError

from compression.models.architectures.families import NETWORK
from compression.models.architectures.network_shapes import whole_shape
from compression.models.networks.costs import network_facts
from compression.planning.artifact_work import SHIP_SECONDS
from compression.planning.counted import Counted
from compression.planning.estimator import STEP_BYTES, PlannedJob, artifact_bytes
from compression.planning.memory import HELD_BYTES, step_bytes
from compression.planning.preflight import Preflight, preflight
from compression.planning.rates import REFERENCE
from compression.schema.errors import CompressionError, InvalidSpec
from compression.schema.recipe.distill import Distill
from compression.schema.recipe.presets import OF_IMAGES, PRESETS, preset, usual
from compression.schema.recipe.quantize import Quantize
from compression.schema.recipe.recipe import JobEvaluate, Recipe
from compression.schema.report.measurements import Parameters
from compression.schema.validation import DataFacts, ModelFacts
from tests.client.figures import row
from tests.compression.planning.test_planning import DATA, MODEL
from tests.support.network_graphs import resnet, vit
from tests.support.verdict_rows import offered

LABELS = ("cat", "dog", "frog", "horse", "ship")
NETWORKS = {"resnet": network_facts(resnet((2, 2), 32, size=16)), "vit": network_facts(vit(width=32, heads=8))}
FACTS = NETWORKS["resnet"]


def model_of(name: str = "resnet", **changes: Any) -> ModelFacts:
    network = NETWORKS[name]
    total = network.parameters()
    facts: dict[str, Any] = {
        "family": NETWORK.name,
        "architecture": NETWORK.architectures[0],
        "shape": whole_shape(network),
        "max_positions": 0,
        "parameters": Parameters(total=total, embedding=0, other=total),
        "labels": LABELS,
        "dtype": "float32",
        "bytes": 4 * total,
        "network": network,
    }
    return ModelFacts(**facts | changes)


def data_of(rows: int = 5000, labels: tuple[str, ...] = LABELS) -> DataFacts:
    counts = {"train": dict.fromkeys(labels, rows // len(labels))}
    split = {"train": rows, "validation": 500, "test": 500}
    return DataFacts(
        task="image-classification", labels=labels, rows=split, label_counts=counts, mean_words=0.0, longest_words=0
    )


def plan(recipe: dict[str, Any] | Recipe, model: ModelFacts | None = None, data: DataFacts | None = None) -> Preflight:
    return preflight(model or model_of(), data or data_of(), Recipe.model_validate(recipe), JobEvaluate())


def test_axes_of_texts_that_a_network_replaces_are_told_with_how_to_name_them() -> None:
    asked = plan({"prune": {"ratio": 0.4, "axes": ["hidden", "heads", "ffn"]}})
    (told,) = [warning for warning in asked.warnings if "cut instead" in warning]
    assert "of this network, channels are cut instead" in told
    named = json.loads(told.partition("prune.ratio: ")[2].partition(", without")[0])
    assert named == {"hidden": 0.4}
    whole = model_of().shape.widths
    assert asked.shape.widths["hidden.0"] == whole["hidden.0"]
    instead = plan({"prune": {"ratio": named}})
    assert instead.shape.widths["hidden.0"] < whole["hidden.0"]
    for prune in ({"ratio": named}, {"ratio": 0.4}, {"ratio": 0.4, "axes": ["hidden"]}):
        assert not any("cut instead" in warning for warning in plan({"prune": prune}).warnings)
    texts = plan({"prune": {"axes": ["hidden", "heads", "ffn"]}}, model_of("vit"))  # it has all three
    assert not any("cut instead" in warning for warning in texts.warnings)


@pytest.mark.parametrize("name", list(OF_IMAGES))
@pytest.mark.parametrize("network", list(NETWORKS))
def test_presets_for_images_plan_a_smaller_network(name: str, network: str) -> None:
    model = model_of(network)
    found = plan(preset(name, "image-classification"), model)
    assert found.parameters.total < 0.9 * found.baseline_parameters.total
    assert found.multiply_adds < 0.9 * found.baseline_multiply_adds == 0.9 * model.network.multiply_adds()
    assert found.shape.widths["hidden.0"] == model.shape.widths["hidden.0"]
    assert found.shape.hidden == model.shape.hidden
    assert {*OF_IMAGES} < {*PRESETS}
    assert preset(name, "text-classification") == PRESETS[name][0]


def test_the_usual_recipe_follows_from_the_task() -> None:
    assert usual("text-classification") == usual(None) == Recipe()
    assert usual("image-classification") == OF_IMAGES["standard"]


def test_minutes_and_memory_follow_from_multiply_adds_rows_and_values() -> None:
    recipe = {"prepare": {"epochs": 10}, "prune": None, "distill": None, "quantize": None}
    few, many = (plan(recipe, data=data_of(rows)).estimate for rows in (10**6, 3 * 10**6))
    step = 32 * 3 * 2 * FACTS.multiply_adds() / REFERENCE.bfloat16
    step += REFERENCE.step_seconds + STEP_BYTES * FACTS.parameters() / REFERENCE.bytes
    assert many.minutes - few.minutes == pytest.approx(2 * 10**6 * 10 / 32 * step / 60, rel=0.02)
    small, large = (plan(recipe | {"train": {"batch": batch}}).estimate for batch in (32, 1024))
    assert large.memory_bytes - small.memory_bytes == pytest.approx(1.1 * 4 * FACTS.values * (1024 - 32), abs=2)
    assert step_bytes(model_of().shape, 32, 1, FACTS) == 4 * FACTS.values * 32


def test_pixels_of_a_small_split_are_in_memory_and_those_of_a_large_one_on_disk() -> None:
    recipe, row = {"prune": None, "distill": None}, 3 * 16 * 16
    few, more, many = (plan(recipe, data=data_of(rows)).estimate for rows in (1000, 1_001_000, 2_001_000))
    assert more.memory_bytes - few.memory_bytes == pytest.approx(1.1 * 10**6 * row, rel=1e-6)
    assert more.disk_bytes == few.disk_bytes
    assert few.memory_bytes - many.memory_bytes == pytest.approx(1.1 * 1000 * row, rel=1e-6)
    assert many.disk_bytes - few.disk_bytes == 2_001_000 * row


def flops_of(job: PlannedJob) -> float:
    """Return the operations of all training."""
    kinds = ("plain", "exact", "float32", "teacher", "simulated")
    return sum(getattr(one, f"{kind}_flops") for one in job.work for kind in kinds)


def test_a_teacher_runs_in_each_epoch_if_rows_vary_or_maps_are_compared() -> None:
    def job(recipe: dict[str, Any]) -> PlannedJob:
        model = Counted(model_of().shape, model_of().parameters, network=FACTS)
        return PlannedJob(model, model, data_of(), Recipe.model_validate(recipe), JobEvaluate())

    base = {"prune": {"recovery": {"by": "teacher", "epochs": 3}}, "distill": {"epochs": 7, "hidden": 1.0}}
    varied = base | {"train": {"views": {"flip": True}}}
    plain = base | {"distill": {"epochs": 7, "hidden": 0}}
    passes = {}
    for name, recipe in (("maps", base), ("varied", varied), ("outputs", plain), ("still", base | {"train": {"views": {}}})):
        found = job(recipe).objectives
        assert (found.bytes_in("memory"), found.unkept) == (0, None)
        passes[name] = found.task.passes, found.recovery.passes
    assert passes == {"maps": (7, 1), "varied": (7, 3), "outputs": (1, 1), "still": (7, 1)}
    once = 2 * FACTS.multiply_adds() * 5000
    maps, all_rows, outputs = (flops_of(job(one)) for one in (base, varied, plain))
    assert maps - outputs == pytest.approx(6 * once)
    assert all_rows - outputs == pytest.approx((7 - 1 + 3 - 1) * once)


def test_a_bare_model_gets_a_head_of_the_data_s_labels() -> None:
    bare = model_of(architecture="NetworkModel", labels=None)
    recipe = {"prune": None, "distill": None}
    own, new = (plan(recipe, bare, data_of(labels=tuple("abcdefgh"[:count]))).parameters.total for count in (5, 8))
    assert own == FACTS.parameters()
    assert new - own == 3 * (FACTS.features() + 1)
    cut = plan({"prune": {"ratio": 0.5, "axes": ["hidden"]}, "distill": None}, bare).parameters.total
    assert cut == plan({"prune": {"ratio": 0.5, "axes": ["hidden"]}, "distill": None}).parameters.total


def test_data_may_have_some_of_a_head_s_labels_and_no_others() -> None:
    some = plan({"prune": None, "distill": None}, data=data_of(labels=("dog", "cat")))
    assert some.parameters.total == FACTS.parameters()  # the head keeps all its outputs
    for labels, model in ((("dog", "mouse"), model_of()), (("dog", "cat"), model_of(labels=None))):
        with pytest.raises(CompressionError, match="labels") as refused:
            plan({"prune": None, "distill": None}, model, data_of(labels=labels))
        assert refused.value.param == "config.json:id2label"
    plan({"prune": None, "distill": None}, model_of(labels=None))  # as many outputs as labels, in their order


@pytest.mark.parametrize(
    ("recipe", "param"),
    [
        ({"train": {"compile": "on"}}, "recipe.train.compile"),
        ({"train": {"checkpointing": "on"}}, "recipe.train.checkpointing"),
        ({"train": {"max_length": 64}}, "recipe.train.max_length"),
        ({"quantize": {"scheme": "weight-only-int8"}}, "recipe.quantize.scheme"),
        ({"quantize": {"smoothing": "search"}}, "recipe.quantize.smoothing"),
        ({"distill": {"embedding": 1.0}}, "recipe.distill.embedding"),
        ({"distill": {"weighting": "linear", "to": {"embedding": 1.0}}}, "recipe.distill.embedding"),
        ({"distill": {"attention": 1.0, "attention_by": "relations"}}, "recipe.distill.attention_by"),
        ({"distill": {"layers": "last"}}, "recipe.distill.layers"),
        ({"distill": {"general": {}}}, "recipe.distill.general"),
        ({"distill": {"augment": {"splices": 1}}}, "recipe.distill.augment"),
        ({"distill": {"spill_gib": 1}}, "recipe.distill.spill_gib"),
        ({"prune": {"axes": ["vocabulary"]}}, "recipe.prune.axes"),
        ({"prune": {"axes": ["heads"]}}, "recipe.prune.axes"),
        ({"prune": {"target_flops": 10}}, "recipe.prune.target_flops"),
    ],
)
def test_settings_that_mean_nothing_to_a_network_are_refused(recipe: dict[str, Any], param: str) -> None:
    with pytest.raises(CompressionError) as refused:
        plan(recipe)
    assert refused.value.param == param
    assert "texts of" not in refused.value.cause


def test_settings_of_networks_are_refused_to_models_of_text() -> None:
    symmetric = Recipe(quantize=Quantize(scheme="static-int8", symmetric=True), prune=None, distill=None)
    assert preflight(model_of(), data_of(), symmetric, JobEvaluate(raw_inputs=True))
    for recipe, evaluate, param in (
        (symmetric, JobEvaluate(), "recipe.quantize.symmetric"),
        (Recipe(), JobEvaluate(raw_inputs=True), "evaluate.raw_inputs"),
    ):
        with pytest.raises(InvalidSpec) as refused:
            preflight(MODEL, DATA, recipe, evaluate)
        assert (refused.value.code, refused.value.param) == ("invalid_spec", param)
        assert refused.value.remedy_text == "Leave it out."


def test_symmetric_ranges_are_of_calibrated_schemes() -> None:
    with pytest.raises(ValidationError, match="only static-int8 has symmetric"):
        Quantize(symmetric=True)
    assert "symmetric" not in Quantize().model_dump()


def test_a_length_to_time_is_refused_where_rows_have_none() -> None:
    with pytest.raises(CompressionError, match="have no length") as refused:
        preflight(model_of(), data_of(), Recipe(), JobEvaluate(length=64))
    assert refused.value.param == "evaluate.length"


def test_each_kind_of_residual_block_that_may_go_is_timed_once() -> None:
    assert network_facts(resnet((4, 3))).block_kinds == 2
    assert (NETWORKS["vit"].block_kinds, len(NETWORKS["vit"].blocks)) == (2, 4)
    times = [
        plan({"prepare": {"epochs": 0}, "quantize": None, "prune": prune, "distill": None}).estimate.minutes
        for prune in ({"ratio": {"channels": 0.01, "layers": 0.3}}, {"ratio": {"channels": 0.01}})
    ]
    assert times[0] - times[1] > 0.9 * 2 * SHIP_SECONDS / 60


def test_a_target_latency_is_said_with_its_bounds() -> None:
    (said,) = plan({"prune": {"target_latency": {"speed_up": 2}}}).warnings
    deepest = plan({"prune": {"ratio": 0.8}}).parameters.total
    assert f"between {deepest:,} and {FACTS.parameters():,} parameters" in said


def test_disk_holds_the_artifacts_of_both_sizes() -> None:
    found = plan(preset("quick", "image-classification"))
    whole, cut = found.baseline_parameters, found.parameters
    each = [artifact_bytes(parameters, OF_IMAGES["quick"].quantize) for parameters in (whole, cut)]
    assert found.estimate.disk_bytes > 2 * HELD_BYTES * whole.total + sum(each)


def test_remedies_offer_the_stages_that_suit_images() -> None:
    recipe, suited = Recipe(quantize=None, prune=None, distill=None), OF_IMAGES["standard"]
    rows = [row(stage, 20_000_000, 80_000_000, 16.0, score) for stage, score in (("baseline", 0.8), ("pruned", 0.7))]
    found = offered(recipe, *rows, task="image-classification")
    assert found["recipe.quantize"].proposed == suited.quantize.model_dump(mode="json")
    assert found["recipe.distill"].proposed == suited.distill.model_dump(mode="json")
    found = offered(recipe, *rows, task="text-classification")
    assert found["recipe.quantize"].proposed == Quantize().model_dump(mode="json")
    assert found["recipe.distill"].proposed == Distill().model_dump(mode="json")
