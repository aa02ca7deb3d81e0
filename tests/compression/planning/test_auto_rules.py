"""What a search for a size is refused for at submit, and what is offered if it missed its target."""

import pytest

from compression.models.architectures.families import ARCHITECTURE_SPECS
from compression.planning.auto_remedies import found_beside, more_time
from compression.planning.auto_rules import check_auto
from compression.schema.errors import InvalidSpec, UnreadableData
from compression.schema.job_spec import Spec
from compression.schema.recipe.auto import Auto
from compression.schema.recipe.presets import OF_IMAGES, PRESETS
from compression.schema.recipe.quality_gate import QualityGate
from compression.schema.recipe.recipe import Recipe, Targets
from compression.schema.report.measurements import Remedy
from tests.compression.planning.test_planning import DATA

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


@pytest.mark.parametrize(
    "change",
    [
        {"prune": None},
        {"distill": None},
        {"prune": {"ratio": 0.3}},
        {"prune": {"search": "solver", "target_params": 0.3}},
        {"prune": {"search": "solver", "reconstruct": True}},
        {"prune": {"search": "solver", "recovery": {"epochs": 1}}},
    ],
)
def test_stages_that_leave_nothing_to_search_for_are_refused(change: dict[str, object]) -> None:
    with pytest.raises(ValueError, match="auto"):
        Recipe.model_validate({"auto": {}, "prune": {"search": "solver"}, **change})


def test_both_presets_can_be_searched_and_their_specification_has_a_gate() -> None:
    for recipe in (AUTO, OF_IMAGES["auto"]):
        assert Recipe.model_validate(recipe.model_dump(mode="json")) == recipe
    given = {"model": "m", "data": {"format": "jsonl", "splits": {"train": ["a"]}}, "output": "out"}
    spec = Spec.model_validate({**given, "recipe": AUTO.model_dump(mode="json"), "targets": {"retention": 0.98}})
    assert spec.targets.quality_gate == QualityGate(retention=0.98, max_drop=None)
    assert Spec.model_validate(spec.model_dump(mode="json")) == spec
    own = Targets(quality_gate=QualityGate(max_drop=0.01))
    assert Spec.model_validate({**given, "recipe": AUTO, "targets": own}).targets == own
    assert Spec.model_validate(given).targets.quality_gate is None


def test_a_missed_target_is_offered_more_time_and_no_other_size() -> None:
    found = [Remedy(key=key, now=1, proposed=2, why="") for key in ("recipe.prune.ratio", "recipe.distill.epochs")]
    assert [one.key for one in found_beside(found)] == ["recipe.distill.epochs"]
    (more,) = more_time(Auto(budget_minutes=30), missed=True)
    assert (more.key, more.now, more.proposed) == ("recipe.auto.budget_minutes", 30, 60)
    assert list(more_time(Auto(), missed=False)) == []
