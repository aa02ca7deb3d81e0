"""What a search for a size is refused for at submit, and what is offered if it missed its target."""

import pytest
from pydantic import ValidationError

from compression.models.architectures.families import ARCHITECTURE_SPECS
from compression.planning.auto_remedies import more_time, of_sizes
from compression.planning.auto_rules import check_auto
from compression.planning.multi_dataset import preflight_several
from compression.planning.preflight import preflight
from compression.schema.errors import InvalidSpec, TargetOutOfReach, UnreadableData
from compression.schema.job_spec import Spec
from compression.schema.recipe.auto import Auto
from compression.schema.recipe.presets import OF_IMAGES, PRESETS, STANDARD
from compression.schema.recipe.prune import Prune
from compression.schema.recipe.quality_gate import QualityGate
from compression.schema.recipe.quantize import Quantize
from compression.schema.recipe.recipe import Evaluate, Prepare, Recipe, Targets
from compression.schema.report.measurements import Remedy
from tests.compression.planning.test_planning import DATA, MODEL

AUTO = PRESETS["auto"][0]


def test_without_validation_rows_there_is_nothing_to_choose_by() -> None:
    check_auto(AUTO, ARCHITECTURE_SPECS["bert"], DATA)
    few = DATA.model_copy(update={"rows": {"train": 5}})
    with pytest.raises(UnreadableData, match="chooses a size by the validation rows"):
        check_auto(AUTO, ARCHITECTURE_SPECS["bert"], few)
    check_auto(PRESETS["standard"][0], ARCHITECTURE_SPECS["bert"], few)


def test_a_family_without_predicted_latencies_is_searched_by_parameters_alone() -> None:
    fast = AUTO.model_copy(update={"auto": Auto(objective="latency")})
    assert fast.reads_device_table
    check_auto(fast, ARCHITECTURE_SPECS["bert"], DATA)
    with pytest.raises(InvalidSpec, match="no latency of the family"):
        check_auto(fast, ARCHITECTURE_SPECS["llama"], DATA)


GIVEN = {"model": "m", "data": {"format": "jsonl", "splits": {"train": ["a"]}}, "output": "out"}


@pytest.mark.parametrize(
    ("change", "key"),
    [
        ({"prune": None}, "prune"),
        ({"distill": None}, "distill"),
        ({"prune": {"ratio": 0.3}}, "prune.search"),
        ({"prune": {"search": "solver", "target_latency": {"speed_up": 2}}}, "prune.target_latency"),
        ({"prune": {"search": "solver", "reconstruct": True}}, "prune.reconstruct"),
        ({"prune": {"search": "solver", "recovery": {"epochs": 1}}}, "prune.recovery"),
        ({"train": {"max_steps": 600}}, "train.max_steps"),
        ({"train": {"max_minutes": 5}}, "train.max_minutes"),
    ],
)
def test_stages_and_limits_that_leave_nothing_to_search_for_are_refused_with_their_key(
    change: dict[str, object], key: str
) -> None:
    recipe = {"auto": {}, "prune": {"search": "solver"}, **change}
    for kind, asked, path in ((Recipe, recipe, key), (Spec, {**GIVEN, "recipe": recipe}, f"recipe.{key}")):
        with pytest.raises(ValidationError, match="auto") as caught:
            kind.model_validate(asked)
        (error,) = caught.value.errors()
        assert ".".join(map(str, error["loc"])) == path
        assert not error["msg"].startswith("Value error")


@pytest.mark.parametrize(
    ("change", "path"),
    [
        ({"recipe": {"auto": {"rounds": 0}, "prune": {"search": "solver"}}}, "recipe.auto.rounds"),
        ({"recipe": {"auto": {}, "prune": {"search": "solver"}}, "targets": {"retention": 0}}, "targets.retention"),
        ({"recipe": {"auto": {}, "prune": {"search": "solver"}}, "targets": None}, "targets"),
    ],
)
def test_wrong_keys_of_a_specification_with_auto_have_their_whole_path(change: dict[str, object], path: str) -> None:
    with pytest.raises(ValidationError) as caught:
        Spec.model_validate({**GIVEN, **change})
    assert ".".join(map(str, caught.value.errors()[0]["loc"])) == path


def test_layers_that_are_named_are_refused_where_the_search_decides_how_many_stay() -> None:
    axes, named = ("ffn", "layers"), ((2, 3), (1, 1))
    prune, distill = (
        AUTO.prune.model_copy(update={"axes": axes}),
        AUTO.distill.model_copy(update={"hidden": 1.0, "layers": named}),
    )
    with pytest.raises(InvalidSpec, match="decides how many layers stay") as caught:
        preflight(MODEL, DATA, AUTO.model_copy(update={"prune": prune, "distill": distill}), Evaluate())
    assert caught.value.param == "recipe.distill.layers"


def test_what_is_searched_by_latency_needs_a_scheme_that_is_timed() -> None:
    recipe = AUTO.model_copy(update={"auto": Auto(objective="latency"), "quantize": Quantize(scheme="weight-only-int8")})
    with pytest.raises(InvalidSpec, match=r"auto\.objective: latency") as caught:
        preflight(MODEL, DATA, recipe, Evaluate())
    assert caught.value.param == "recipe.quantize.scheme"


def test_targets_that_the_search_does_not_read_are_named() -> None:
    plain = preflight(MODEL, DATA, AUTO, Evaluate(), targets=Targets(retention=0.98)).warnings
    assert not [one for one in plain if "targets.retention (98.00%) alone" in one]
    given = Targets(retention=0.98, parameters=5e6, score=74.3, speed_up=3.0)
    (told,) = [one for one in preflight(MODEL, DATA, AUTO, Evaluate(), targets=given).warnings if "alone" in one]
    assert "targets.retention (98.00%) alone" in told
    assert all(f"'targets.{key}'" in told for key in ("parameters", "score", "speed_up"))
    assert "recipe.prune (target_params" in told
    assert not [one for one in preflight(MODEL, DATA, STANDARD, Evaluate(), targets=given).warnings if "alone" in one]


def test_targets_that_choose_none_of_several_sizes_are_named() -> None:
    def told(points: int, **targets: float) -> list[str]:
        recipe = Recipe(prune=Prune(search="solver", points=points))
        found = preflight(MODEL, DATA, recipe, Evaluate(), targets=Targets(**targets)).warnings
        return [one for one in found if "not chosen by it" in one]

    (one,) = told(3, retention=0.98, score=74.3, parameters=5e6, speed_up=3.0)
    assert "each is judged by 'targets.speed_up', 'targets.parameters' too" in one
    assert told(3, retention=0.98, score=74.3) == told(1, parameters=5e6) == []


def test_the_memory_is_that_of_the_mildest_cut_beside_the_best_one() -> None:
    recipe = AUTO.model_copy(update={"prepare": Prepare(epochs=0)})
    plain = recipe.model_copy(update={"auto": None, "prune": Prune(ratio=0.01, search="solver")})
    cut = plain.model_copy(update={"prune": AUTO.prune})
    found, mild, small = (preflight(MODEL, DATA, one, Evaluate()).estimate for one in (recipe, plain, cut))
    assert found.memory_bytes > mild.memory_bytes > small.memory_bytes
    assert found.card_bytes >= mild.card_bytes > small.card_bytes
    assert found.host_bytes_with_card > mild.host_bytes_with_card
    assert found.disk_bytes > mild.disk_bytes


def test_a_round_and_an_epoch_that_exceed_the_budget_are_forecast_and_told() -> None:
    rows = {"train": 40_000, "validation": 4_000, "unlabelled": 400_000}
    data = DATA.model_copy(update={"rows": rows, "unlabelled_words": 9.5})
    recipe = AUTO.model_copy(update={"prepare": Prepare(epochs=0), "auto": Auto(budget_minutes=1e5)})
    ample = preflight(MODEL, data, recipe, Evaluate())
    budget = ample.estimate.minutes - ample.estimate.training_minutes + 1  # what else is done leaves a minute
    found = preflight(MODEL, data, recipe.model_copy(update={"auto": Auto(budget_minutes=budget)}), Evaluate())
    assert budget + 5 < found.estimate.minutes < ample.estimate.minutes
    (told,) = [one for one in found.warnings if "it takes longer than that" in one]
    assert float(told.partition("about ")[2].split()[0]) == pytest.approx(found.estimate.minutes, abs=0.6)  # each is rounded
    several = preflight_several(
        MODEL, {"a": data, "b": data}, recipe.model_copy(update={"auto": Auto(budget_minutes=2 * budget)}), Evaluate()
    )
    assert several.estimate.minutes == pytest.approx(2 * found.estimate.minutes, abs=0.2)
    assert [one for one in several.warnings if "it takes longer than that" in one] == [told]


def test_a_limit_of_all_sizes_that_no_cut_meets_is_refused_at_submit() -> None:
    limited = AUTO.model_copy(update={"prune": AUTO.prune.model_copy(update={"target_params": 0.6, "target_bytes": 0.5})})
    found = preflight(MODEL, DATA, limited, Evaluate())
    assert found.parameters.total <= 0.4 * found.baseline_parameters.total
    loose = AUTO.model_copy(update={"prune": AUTO.prune.model_copy(update={"target_bytes": 1e9})})
    assert not [one for one in preflight(MODEL, DATA, loose, Evaluate()).warnings if "nothing is cut" in one]
    with pytest.raises(TargetOutOfReach) as caught:
        preflight(
            MODEL, DATA, AUTO.model_copy(update={"prune": AUTO.prune.model_copy(update={"target_params": 10})}), Evaluate()
        )
    assert caught.value.param == "recipe.prune.target_params"


def test_both_presets_can_be_searched_and_their_specification_has_a_gate() -> None:
    for recipe in (AUTO, OF_IMAGES["auto"]):
        assert Recipe.model_validate(recipe.model_dump(mode="json")) == recipe
    given = GIVEN
    spec = Spec.model_validate({**given, "recipe": AUTO.model_dump(mode="json"), "targets": {"retention": 0.98}})
    assert spec.targets.quality_gate == QualityGate(retention=0.98, max_drop=None)
    assert "max_drop" not in spec.model_dump(mode="json")["targets"]["quality_gate"]  # older clients read a number alone
    assert Spec.model_validate(spec.model_dump(mode="json")) == spec
    own = Targets(quality_gate=QualityGate(max_drop=0.01))
    assert Spec.model_validate({**given, "recipe": AUTO, "targets": own}).targets == own
    assert Spec.model_validate(given).targets.quality_gate is None


def test_a_missed_target_is_offered_more_time_and_no_other_size() -> None:
    found = [Remedy(key=key, now=1, proposed=2, why="") for key in ("recipe.prune.ratio", "recipe.distill.epochs")]
    assert [one.key for one in of_sizes(AUTO, found, missed=False)] == ["recipe.distill.epochs"]
    more, own = of_sizes(AUTO, found, missed=True)
    assert (more.key, own.key) == ("recipe.auto.budget_minutes", "recipe.distill.epochs")
    several = AUTO.model_copy(update={"auto": None, "prune": Prune(search="solver", points=2)})
    assert [one.key for one in of_sizes(several, found, missed=True)] == ["recipe.distill.epochs"]
    assert of_sizes(Recipe(), found, missed=True) == found
    limited = AUTO.model_copy(update={"prune": AUTO.prune.model_copy(update={"target_params": 0.6})})
    larger = of_sizes(limited, found, missed=True)[1]
    assert (larger.key, larger.now, larger.proposed) == ("recipe.prune.target_params", 0.6, None)
    assert [one.key for one in of_sizes(limited, found, missed=False)] == ["recipe.distill.epochs"]
    (more,) = more_time(Auto(budget_minutes=30), missed=True)
    assert (more.key, more.now, more.proposed) == ("recipe.auto.budget_minutes", 30, 60)
    assert list(more_time(Auto(), missed=False)) == []
