"""What a job asks of its teachers, and where it is kept, before it is taken: memory, disk, minutes and a warning."""

import pytest

from compression.planning.estimator import Estimate
from compression.planning.preflight import preflight
from compression.planning.rates import REFERENCE
from compression.planning.teacher_cost import TeacherCosts
from compression.planning.token_estimates import Tokens
from compression.schema.recipe.distill import Distill, General
from compression.schema.recipe.presets import preset
from compression.schema.recipe.prune import Prune, Recovery
from compression.schema.recipe.recipe import Evaluate, Prepare, Recipe, Train
from compression.schema.recipe.views import Views
from compression.schema.validation import DataFacts
from tests.compression.modalities.text.scoring.test_perplexity import DATA, MODEL
from tests.compression.planning.test_planning import DATA as CLASSES, MODEL as ENCODER


def of_characters(train: int) -> DataFacts:
    return DATA.model_copy(update={"characters": {**DATA.characters, "train": train}})


def test_states_of_a_teacher_are_in_memory_where_all_of_them_fit() -> None:
    # Nothing is tuned before: what a teacher answered is in memory while it is learned, and then only.
    recipe = preset("language", "causal-lm").model_copy(update={"prepare": Prepare(epochs=0)})
    few, most, more = (preflight(MODEL, of_characters(10**6 * n), recipe, Evaluate()).estimate for n in (1, 7, 8))
    assert most.memory_bytes - few.memory_bytes == pytest.approx(1.1 * 2 * 576 * 6e6 / 4, rel=1e-3)
    assert few.memory_bytes - more.memory_bytes == pytest.approx(1.1 * 2 * 576 * 1e6 / 4, rel=1e-3)  # nothing of 2.3 GB
    spilling = recipe.model_copy(update={"distill": recipe.distill.model_copy(update={"spill_gib": 3.0})})
    spilled = preflight(MODEL, of_characters(8 * 10**6), spilling, Evaluate()).estimate
    assert spilled.memory_bytes == more.memory_bytes
    assert spilled.disk_bytes - more.disk_bytes == pytest.approx(2 * 576 * 8e6 / 4, rel=1e-3)


def test_a_teacher_whose_states_are_kept_nowhere_is_asked_in_each_epoch() -> None:
    def found(**changes: object) -> tuple[float, list[str]]:
        distill = preset("language", "causal-lm").distill
        recipe = Recipe(prepare=Prepare(epochs=0), prune=None, distill=distill.model_copy(update=changes))
        plan = preflight(MODEL, of_characters(40 * 10**6), recipe, Evaluate(tokens=256))
        return plan.estimate.minutes, [warning for warning in plan.warnings if "runs again" in warning]

    again, (said,) = found(spill_gib=0.0)
    assert "distill.spill_gib: 13 " in said  # a fifth more than 10.7 GiB
    assert "distill.kept" in said
    flops = 2 * MODEL.parameters.total * 1e7 / 60
    forward, trained = flops / REFERENCE.float32, 3 * flops / REFERENCE.simulated
    for keeping in ({"spill_gib": 13.0}, {"kept": 64}):
        kept, nothing = found(**keeping)
        assert not nothing
        assert again - kept == pytest.approx(2 * forward, rel=0.01)  # three epochs, and not once
    assert found(epochs=6, spill_gib=0.0)[0] - again == pytest.approx(
        3 * (trained + forward), rel=0.05
    )  # and what a step reads and writes
    _, (said,) = found(hidden=1.0, spill_gib=0.0)
    assert "distill.kept" not in said


def test_what_the_worker_may_have_to_spare_is_supposed_in_time_and_asked_of_no_disk() -> None:
    def found(millions: int, **changes: object) -> tuple[Estimate, list[str]]:
        distill = preset("language", "causal-lm").distill
        recipe = Recipe(prepare=Prepare(epochs=0), prune=None, distill=distill.model_copy(update=changes))
        plan = preflight(MODEL, of_characters(millions * 10**6), recipe, Evaluate(tokens=256))
        return plan.estimate, [warning for warning in plan.warnings if "states take" in warning]

    (spare, (said,)), (asked, nothing) = found(40), found(40, spill_gib=13.0)
    assert "about 10.7 GiB" in said
    assert "if it has as much to spare" in said
    assert not nothing
    assert spare.minutes == asked.minutes
    assert asked.disk_bytes - spare.disk_bytes == pytest.approx(2 * 576 * 1e7, rel=1e-3)
    assert spare.memory_bytes == asked.memory_bytes
    assert not found(7)[1]
    (said,) = found(4000)[1]
    assert "runs again in each epoch; " in said  # more than any worker keeps unasked


def test_what_is_asked_of_teachers_in_other_phases_may_be_asked_again_too() -> None:
    plain, texts = (
        Distill(spill_gib=0.0),
        CLASSES.model_copy(update={"rows": {**CLASSES.rows, "train": 60_000, "unlabelled": 600_000}}),
    )
    own = ENCODER.parameters.other

    def minutes(distill: Distill, data: DataFacts = texts) -> float:
        return preflight(ENCODER, data, Recipe(prune=None, distill=distill), Evaluate()).estimate.minutes

    tokens = 60_000 * (15 * 1.4 + 2)
    again = minutes(plain) - minutes(plain.model_copy(update={"spill_gib": 1000.0}))
    assert again == pytest.approx(8 * 2 * own * tokens / REFERENCE.float32 / 60, rel=0.05)  # beside its answers, asked once
    first = plain.model_copy(update={"general": General(epochs=5), "spill_gib": 7.0})  # the task's states alone fit there
    of_texts = 600_000 * (10 * 1.4 + 2)
    unlabelled = texts.model_copy(update={"unlabelled_words": 10.0})
    saved = minutes(first, unlabelled) - minutes(first.model_copy(update={"spill_gib": 1000.0}), unlabelled)
    assert saved == pytest.approx(4 * 2 * own * of_texts / REFERENCE.float32 / 60, rel=0.05)
    recovered = Recipe(prepare=Prepare(epochs=0), prune=Prune(recovery=Recovery(epochs=5, by="teacher")), distill=None)
    few, many, more = (preflight(MODEL, of_characters(10**6 * n), recovered, Evaluate()).warnings for n in (7, 8, 4000))
    assert not any("runs again" in warning for warning in few)
    assert any("to spare" in warning for warning in many)
    assert any("runs again" in warning and "distil too" in warning for warning in more)


def test_teachers_of_rows_that_vary_and_of_feature_maps_run_in_each_epoch_and_nothing_is_kept() -> None:
    shape, tokens = ENCODER.shape, Tokens(train=1000, taught=1000, plain=1000)
    pruned = Prune(recovery=Recovery(epochs=6, by="teacher"), steps=2)
    plain = Recipe(prune=pruned, distill=Distill(epochs=4, hidden=1.0, general=General(epochs=3)))
    views = plain.model_copy(update={"train": Train(views=Views(flip=True))})
    answers = plain.model_copy(update={"distill": Distill(epochs=4, hidden=0.0)})

    def passes(recipe: Recipe, *, maps: bool) -> list[tuple[int, int]]:
        costs = TeacherCosts.of(recipe, tokens, shape, shape, shape, language=False, maps=maps)
        return [(each.passes, each.bytes) for each in costs.each]

    assert [each for each, _ in passes(plain, maps=False)] == [2, 1, 1]
    assert passes(plain, maps=True) == [(2, 0), (3, 0), (4, 0)]
    assert passes(views, maps=False) == passes(views, maps=True) == [(6, 0), (3, 0), (4, 0)]
    assert passes(answers, maps=True) == [(2, 0), (1, 0)]
