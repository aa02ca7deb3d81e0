"""Remedies: which changes the figures of a row speak for, and that each is a recipe that can be sent."""

from typing import Any

import pytest

from compression.planning.remedy_figures import epochs_for, ratio_for
from compression.schema.recipe.distill import Distill
from compression.schema.recipe.presets import AUTO
from compression.schema.recipe.prune import Prune
from compression.schema.recipe.quantize import Qat, Quantize
from compression.schema.recipe.recipe import Prepare, Recipe, Targets, Train
from compression.schema.report.layer_ranges import LayerRange
from compression.schema.report.measurements import Remedy, Row
from tests.client import figures
from tests.client.figures import row
from tests.support.verdict_rows import BASELINE, QUANTIZED, RECIPE, TARGETS, distilled, offered, pruned, verdict


def test_a_cut_that_brings_nothing_is_offered_to_be_left_out() -> None:
    found = verdict(RECIPE, BASELINE, QUANTIZED, row("pruned", 20_000_000, 20_000_000, 8.1, 0.7))
    assert (found.worse_than, found.remedies[0].key) == ("quantized", "recipe.prune")
    assert found.remedies[0].proposed is None


def test_nothing_is_offered_for_what_a_later_stage_is_there_to_mend() -> None:
    assert not verdict(RECIPE, BASELINE).remedies
    assert not verdict(RECIPE, BASELINE, QUANTIZED).remedies
    assert verdict(RECIPE, BASELINE, QUANTIZED, pruned(0.6)).missed == ("retention",)
    assert not verdict(RECIPE, BASELINE, QUANTIZED, pruned(0.6)).remedies
    assert not verdict(RECIPE, BASELINE, QUANTIZED, pruned(0.6), distilled(0.798)).remedies


def test_rounding_that_costs_too_much_asks_for_training_with_it() -> None:
    fallen = row("quantized", 20_000_000, 20_000_000, 8.0, 0.77)
    (remedy,) = verdict(RECIPE, BASELINE, fallen).remedies
    assert (remedy.key, remedy.now, remedy.proposed) == ("recipe.quantize.qat", None, Qat().model_dump())
    assert "0.0300 of 0.8000, and 0.0064 may go" in remedy.why
    trained = RECIPE.model_copy(update={"quantize": Quantize(qat=Qat(full=0, ramp=0, quantized=2))})
    (remedy,) = verdict(trained, BASELINE, fallen).remedies
    assert (remedy.key, remedy.now, remedy.proposed) == ("recipe.quantize.qat.quantized", 2, 4)


def test_nothing_is_offered_for_integers_that_nobody_asked_for() -> None:
    # A score below 0, as correlations can be: what may go of it is nothing.
    before, cut = row("baseline", 20_000_000, 80_000_000, 16.0, -0.1), pruned(-0.2)
    keys = offered(RECIPE.model_copy(update={"quantize": None}), before, cut, distilled(-0.3)).keys()
    assert not any(key.startswith("recipe.quantize.") for key in keys)


def test_a_small_gap_asks_for_as_many_epochs_as_the_pace_tells() -> None:
    found = offered(RECIPE, BASELINE, QUANTIZED, pruned(0.598), distilled(0.79))
    assert list(found) == ["recipe.distill.epochs"]
    # 0.2 fell, 0.008 is left after 8 epochs, 0.0044 may stay: 0.04^(n/8) = 0.022.
    assert (found["recipe.distill.epochs"].now, found["recipe.distill.epochs"].proposed) == (8, 10)
    assert "brought back 96% of the 0.2000" in found["recipe.distill.epochs"].why


def test_a_baseline_that_has_learned_nothing_is_to_be_tuned_first_and_nothing_else_is_judged() -> None:
    at_chance = row("baseline", 20_000_000, 80_000_000, 16.0, 0.503)  # of 0.5, with an error of 0.01
    recipe = RECIPE.model_copy(update={"prepare": Prepare(epochs=3)})
    for score in (0.3, 0.6):  # below it, and above
        found = offered(recipe, at_chance, QUANTIZED, pruned(score), distilled(score))
        assert {key: remedy.proposed for key, remedy in found.items()} == {"recipe.prepare.epochs": None}
        assert "0.5030" in found["recipe.prepare.epochs"].why
    taken = RECIPE.model_copy(update={"prepare": Prepare(epochs=0)})
    assert offered(taken, at_chance, QUANTIZED, pruned(0.3), distilled(0.3))["recipe.prepare.epochs"].proposed is None
    assert "recipe.prepare.epochs" not in offered(RECIPE, at_chance, QUANTIZED)  # what is to come may yet be judged
    assert "recipe.prepare.epochs" not in offered(RECIPE, BASELINE, QUANTIZED, pruned(0.3), distilled(0.3))
    limited = RECIPE.model_copy(update={"train": Train(max_steps=100)})
    rows = (at_chance, QUANTIZED, pruned(0.3), distilled(0.3))
    keys = {"recipe.prepare.epochs", "recipe.train.max_steps"}
    assert set(offered(limited, *rows, limit="recipe.train.max_steps (100)")) == keys


def test_a_fall_that_distillation_cannot_bring_back_asks_for_a_milder_ratio() -> None:
    found = offered(RECIPE, BASELINE, QUANTIZED, pruned(0.5), distilled(0.65))
    assert list(found) == ["recipe.prune.ratio"]
    remedy = found["recipe.prune.ratio"]
    assert remedy.now == 0.3
    assert remedy.proposed == 0.05  # 0.3 · √(0.0044 / 0.148)
    # The nearer it came, the less is taken back.
    assert 0.05 < offered(RECIPE, BASELINE, QUANTIZED, pruned(0.7), distilled(0.75))["recipe.prune.ratio"].proposed < 0.3


def test_a_stage_that_is_left_out_is_offered_where_it_would_help() -> None:
    assert not verdict(Recipe(quantize=None, prune=None, distill=None, prepare=Prepare()), BASELINE).remedies
    found = offered(RECIPE.model_copy(update={"distill": None}), BASELINE, QUANTIZED, pruned(0.6))
    assert list(found) == ["recipe.distill"]
    assert Distill.model_validate(found["recipe.distill"].proposed) == Distill()
    found = offered(Recipe(prune=None, distill=None), BASELINE, QUANTIZED)
    assert Prune.model_validate(found["recipe.prune"].proposed).ratio == 0.22  # 0.305 of the parameters, by the power 1.5
    found = offered(Recipe(quantize=None, distill=None), BASELINE, row("pruned", 13_000_000, 52_000_000, 10.0, 0.8))
    assert found["recipe.quantize"].proposed == Quantize().model_dump(mode="json")


def test_the_ratios_of_axes_change_together_and_a_target_is_not_changed_to_a_ratio() -> None:
    rows = [BASELINE, QUANTIZED, pruned(0.5), distilled(0.6)]
    each = RECIPE.model_copy(update={"prune": Prune(ratio={"ffn": 0.4, "layers": 0.2})})
    remedy = offered(each, *rows)["recipe.prune.ratio"]
    assert remedy.now == {"ffn": 0.4, "layers": 0.2}
    assert remedy.proposed["ffn"] == pytest.approx(2 * remedy.proposed["layers"])
    assert Prune.model_validate({"ratio": remedy.proposed}).deepest < 0.4
    aimed = RECIPE.model_copy(update={"prune": Prune(target_params=0.3)})
    assert list(offered(aimed, *rows)) == ["recipe.distill.epochs"]
    smaller = offered(aimed, *rows[:3], distilled(), targets=Targets(parameter_reduction=0.5))
    assert smaller["recipe.prune.target_params"].proposed == 0.5


def test_a_target_of_bytes_is_changed_by_what_the_file_says_of_it() -> None:
    small, rows = Targets(size_reduction=0.9), (BASELINE, QUANTIZED, pruned(0.8), distilled())
    for target, wanted in ((15e6, 8_571_428), (0.3, 0.6)):  # a file of 14 MB, of which 8 may be
        aimed = RECIPE.model_copy(update={"prune": Prune(target_bytes=target)})
        assert offered(aimed, *rows, targets=small)["recipe.prune.target_bytes"].proposed == wanted
        assert "recipe.prune.target_bytes" not in offered(aimed, *rows)
    # As many bytes are four times the parameters in integers, and another cut.
    whole = row("pruned", 13_000_000, 52_000_000, 10.0, 0.8)
    for target, is_offered in ((60e6, False), (0.3, True)):
        plain = Recipe(quantize=None, distill=None, prune=Prune(target_bytes=target))
        assert ("recipe.quantize" in offered(plain, BASELINE, whole)) == is_offered


def test_a_missed_speed_asks_for_the_ratio_that_its_own_cut_tells_of() -> None:
    faster = Targets(speed_up=4)
    rows = (BASELINE, QUANTIZED, pruned(0.6), distilled(0.798))
    remedy = offered(RECIPE, *rows, targets=faster)["recipe.prune.ratio"]
    # Latency fell from 8 to 6.4 ms at 0.3, a power of 0.63: 4 ms are half of 8.
    assert remedy.proposed == pytest.approx(0.67)
    assert "speed up is 2.500, not 4" in remedy.why
    assert offered(RECIPE, *rows[:3], targets=faster)["recipe.prune.ratio"].proposed == remedy.proposed
    beyond = offered(RECIPE, *rows, targets=Targets(speed_up=20))["recipe.prune.ratio"]
    assert beyond.proposed == 0.8
    assert "more than a cut of widths alone should take" in beyond.why


def test_training_that_a_limit_cut_short_asks_for_more_of_it_and_for_nothing_else() -> None:
    rows = (BASELINE, QUANTIZED, pruned(0.6), distilled(0.7))
    limited = RECIPE.model_copy(update={"train": Train(max_steps=100)})
    found = offered(limited, *rows, limit="recipe.train.max_steps (100)")
    assert {key: remedy.proposed for key, remedy in found.items()} == {"recipe.train.max_steps": 200}
    limited = RECIPE.model_copy(update={"train": Train(max_minutes=2.5)})
    found = offered(limited, *rows, limit="recipe.train.max_minutes (2.5)")
    assert {key: remedy.proposed for key, remedy in found.items()} == {"recipe.train.max_minutes": 5.0}


def broken(ratio: float = 40.0, beyond: float = 0.002, into: str | None = "value", *, is_broken: bool = True) -> LayerRange:
    found = {"largest": ratio, "percentile": 1.0, "ratio": ratio, "beyond": beyond, "levels_used": 0.03}
    return LayerRange(layer="output", broken=is_broken, smooths_into=into, **found)


def with_ranges(*found: LayerRange) -> Row:
    return QUANTIZED.model_copy(update={"ranges": found})


def test_ranges_that_outliers_break_ask_for_what_tames_them() -> None:
    assert not offered(RECIPE, BASELINE, with_ranges(broken(is_broken=False)))
    found = offered(RECIPE, BASELINE, with_ranges(broken(), broken(ratio=100)))
    assert {key: remedy.proposed for key, remedy in found.items()} == {
        "recipe.quantize.smoothing": "search",
        "recipe.quantize.qat": Qat().model_dump(),
    }
    assert "2 of 2 layers" in found["recipe.quantize.smoothing"].why
    assert "100 times what 99 %" in found["recipe.quantize.smoothing"].why
    # Where no layer before takes the outliers, smoothing is of no use.
    assert list(offered(RECIPE, BASELINE, with_ranges(broken(into=None)))) == ["recipe.quantize.qat"]
    static = Recipe(quantize=Quantize(scheme="static-int8", smoothing=0.5, qat=Qat(quantized=3)))
    found = offered(static, BASELINE, with_ranges(broken()))
    assert (found["recipe.quantize.smoothing"].now, found["recipe.quantize.smoothing"].proposed) == (0.5, "search")
    assert found["recipe.quantize.qat.quantized"].proposed == 6
    clipped = Quantize.model_validate(found["recipe.quantize"].proposed)
    assert (clipped.observer, clipped.percentile) == ("percentile", 99.6)
    tight = Recipe(quantize=Quantize(scheme="static-int8", observer="percentile", percentile=99.99, smoothing="search"))
    found = offered(tight, BASELINE, with_ranges(broken()))
    assert (found["recipe.quantize.percentile"].now, found["recipe.quantize.percentile"].proposed) == (99.99, 99.6)
    assert "recipe.quantize.smoothing" not in found


def test_every_remedy_is_a_recipe_that_can_be_sent() -> None:
    cases = [
        (RECIPE, (BASELINE, row("quantized", 20_000_000, 20_000_000, 8.0, 0.77)), TARGETS),
        (RECIPE, (BASELINE, QUANTIZED, pruned(0.598), distilled(0.79)), Targets(speed_up=20)),
        (RECIPE, (BASELINE, QUANTIZED, pruned(0.5), distilled(0.4)), TARGETS),
        (Recipe(prune=None, distill=None), (BASELINE, QUANTIZED), TARGETS),
        (Recipe(prune=None, distill=None), (row("baseline", 20_000_000, 80_000_000, 16.0, 0.5), QUANTIZED), TARGETS),
        (Recipe(quantize=None, distill=None), (BASELINE, pruned(0.6)), TARGETS),
        (RECIPE, (BASELINE, with_ranges(broken())), TARGETS),
        (Recipe(quantize=Quantize(scheme="static-int8", qat=Qat())), (BASELINE, with_ranges(broken())), TARGETS),
        (Recipe(quantize=Quantize(scheme="static-int8", observer="percentile")), (BASELINE, with_ranges(broken())), TARGETS),
    ]
    for recipe, rows, targets in cases:
        found = verdict(recipe, *rows, targets=targets).remedies
        assert found
        for remedy in found:
            assert sent(recipe, remedy) != recipe


def sent(recipe: Recipe, remedy: Remedy) -> Recipe:
    """Put a proposal into the recipe at its path, where its `now` must be, and validate all of it as a request would."""
    changed = recipe.model_dump(mode="json")
    *way, key = remedy.key.split(".")[1:]
    place = changed
    for part in way:
        place = place[part]
    now = place[key]
    if key in ("ratio", "target_latency") and isinstance(now, dict):  # of which a remedy tells what is set
        now = {name: value for name, value in now.items() if value is not None}
    assert remedy.now == now
    place[key] = remedy.proposed
    return Recipe.model_validate(changed)


CUTS = (
    None,
    *({"ratio": ratio} for ratio in (0.3, 0.01, 0.8, {"ffn": 0.99, "layers": 0.001})),
    {"axes": ("vocabulary",)},
    *({"target_params": target} for target in (0.305, 5e6)),
    *({"target_bytes": target} for target in (0.305, 5e6)),
    *({"target_latency": target} for target in ({"speed_up": 1.445}, {"milliseconds": 3.0})),
)
LESSONS = (None, {"epochs": 70}, {"epochs": 200})
INTEGERS = (None, {}, {"qat": {"full": 0, "ramp": 0, "quantized": 0}}, {"qat": {"quantized": 101}}, {"qat": {"quantized": 200}})
ENDS = (0.79, 0.65, 0.4)


@pytest.mark.parametrize("cut", CUTS)
@pytest.mark.parametrize("objective", LESSONS)
def test_no_remedy_leaves_the_bounds_of_its_field(cut: Any, objective: Any) -> None:
    """Recipes at, near and far from their bounds, whose rows miss targets by little, by much, and where nothing is asked."""
    for integers in INTEGERS:
        recipe = Recipe.model_validate({"quantize": integers, "prune": cut, "distill": objective})
        rows = [BASELINE]
        if integers is not None:
            rows.append(with_ranges(broken()).model_copy(update={"score": figures.score_of(0.77)}))
        rows += [pruned(0.598)] if cut is not None else []
        for end in ENDS:
            table = [*rows, distilled(end, ms=11.0)] if objective is not None else rows
            easy, hard = Targets(speed_up=0.1, parameter_reduction=0), Targets(speed_up=1000, parameter_reduction=0.9)
            for targets in (TARGETS, hard, easy):
                for number in range(1, len(table) + 1):
                    for remedy in verdict(recipe, *table[:number], targets=targets).remedies:
                        assert sent(recipe, remedy) != recipe, remedy


def test_what_a_recipe_may_not_ask_for_is_not_proposed_and_the_next_best_is() -> None:
    nearly = (BASELINE, QUANTIZED, pruned(0.598), distilled(0.7627))  # at its pace 2.2 times the epochs would do
    for epochs, proposed in ((70, {"recipe.distill.epochs": 155}), (100, {"recipe.prune.ratio": 0.1})):
        found = offered(RECIPE.model_copy(update={"distill": Distill(epochs=epochs)}), *nearly)
        assert {key: remedy.proposed for key, remedy in found.items()} == proposed
    hardly = (BASELINE, QUANTIZED, pruned(0.5), distilled(0.6))
    for cut, epochs, proposed in (
        (Prune(target_params=0.305), 70, {"recipe.distill.epochs": 200}),
        (Prune(target_params=0.305), 200, {}),
        (Prune(ratio=0.01), 70, {"recipe.distill.epochs": 200}),
    ):
        found = offered(RECIPE.model_copy(update={"prune": cut, "distill": Distill(epochs=epochs)}), *hardly)
        assert {key: remedy.proposed for key, remedy in found.items()} == proposed
    fallen = row("quantized", 20_000_000, 20_000_000, 8.0, 0.77)
    for quantized, integers in ((101, {"recipe.quantize.qat.quantized": 200}), (200, {})):
        trained = RECIPE.model_copy(update={"quantize": Quantize(qat=Qat(quantized=quantized))})
        assert {key: remedy.proposed for key, remedy in offered(trained, BASELINE, fallen).items()} == integers
    for minutes, more in ((6e5, {"recipe.train.max_minutes": 1e6}), (1e6, {})):
        limited = RECIPE.model_copy(update={"train": Train(max_minutes=minutes)})
        found = offered(limited, *hardly, limit=f"recipe.train.max_minutes ({minutes})")
        assert {key: remedy.proposed for key, remedy in found.items()} == more


def test_the_reckoning() -> None:
    assert ratio_for(1.0, 0.49, 0.25, 0.3) == pytest.approx(0.5)  # both sides shrink: a power of 2
    assert ratio_for(0.5, 0.5, 0.6, None) == 0
    assert epochs_for(0.4, 0.2, 0.05, 2) == 6  # halved every two epochs
    assert epochs_for(0.4, 0.4, 0.05, 2) is None
    assert epochs_for(0.4, 0.2, -0.1, 2) is None


def test_a_recipe_that_looks_for_the_size_is_told_of_no_other_size_s_cut() -> None:
    """Its cut row is the first size that was tried, and time may have ended the chosen one's training."""
    (remedy,) = offered(AUTO, BASELINE, QUANTIZED, pruned(0.598), distilled(0.79)).values()
    assert remedy.key == "recipe.auto.budget_minutes"
    assert "if time ended the search" in remedy.why


def test_a_job_with_a_student_is_offered_no_cut() -> None:
    uncut = RECIPE.model_copy(update={"prune": None})
    taught = row("distilled", 19_000_000, 19_000_000, 8.0, 0.798)
    for rows in ([BASELINE, QUANTIZED], [BASELINE, QUANTIZED, taught]):
        assert "recipe.prune" in offered(uncut, *rows)
        assert "recipe.prune" not in offered(uncut, *rows, held="student")
    assert not offered(uncut, BASELINE, QUANTIZED, held="student"), "the student is still to come, which is smaller"
