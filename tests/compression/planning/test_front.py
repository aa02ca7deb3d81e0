"""Several sizes of one job: which is recommended and shipped, and for which one remedies are offered."""

import pytest

from compression.planning.front import front_of
from compression.planning.verdicts import choose, judged
from compression.schema.recipe.prune import Prune
from compression.schema.recipe.recipe import Recipe, Targets
from compression.schema.report.measurements import Row
from tests.client.figures import changed, row, several

LOOSE = {"parameter_reduction": 0.0, "size_reduction": 0.0, "speed_up": 1.0}
RECIPE = Recipe(prune=Prune(search="solver", points=3))


def recommended(*kept: float, **targets: float) -> tuple[str, str]:
    front = front_of(several(*kept).rows, Targets(**{**LOOSE, **targets}))
    assert front is not None
    return front.recommended, front.why


def test_the_smallest_that_keeps_the_target_is_recommended_else_what_keeps_most() -> None:
    assert recommended(0.999, 0.995, 0.98) == (
        "point2",
        "Of 3 sizes, point2 is the smallest that keeps the target (10,000,000 parameters, 99.5% of the score kept on "
        "validation).",
    )
    assert recommended(0.999, 0.98, 0.995)[0] == "point3"
    assert recommended(0.97, 0.98, 0.96) == (
        "point2",
        "None of 3 sizes keeps the target; point2 keeps most (10,000,000 parameters, 98.0% of the score kept on validation).",
    )
    assert recommended(0.999, 0.995, 0.98, score=80.0)[0] == "distilled"  # an absolute target of the score is one, too


def test_of_equals_the_smaller_size_is_recommended_and_of_unknown_ones_the_largest() -> None:
    assert recommended(0.98, 0.98, 0.96)[0] == "point2"
    assert recommended(0.98, 0.98, 0.98)[0] == "point3"
    unknown = {"retention": None, "retention_on_validation": None}
    rows = [changed(each, "ratios", **unknown) for each in several().rows]
    assert front_of(rows, Targets()).recommended == "distilled"
    assert "distilled is the largest (13,000,000 parameters, what it keeps is not known)" in front_of(rows, Targets()).why


def test_a_job_of_one_size_has_no_front() -> None:
    rows = [one for one in several().rows if one.stage in ("baseline", "distilled")]
    assert front_of(rows, Targets()) is None


def test_what_other_targets_say_does_not_ship_a_size_that_lost_the_score() -> None:
    rows = several(0.995, 0.98, 0.97).rows
    wanted = Targets(parameter_reduction=0.5)
    assert front_of(rows, wanted).recommended == "distilled"  # it alone keeps the target
    chosen, why = choose(rows, wanted)
    assert chosen.stage == "distilled"  # without the front, point2 and point3 reach more targets
    assert why.startswith("Of 3 sizes, distilled is the smallest that keeps the target")


def verdicts_of(*kept: float) -> list[Row]:
    found: list[Row] = []
    for each in several(*kept).rows:
        found.append(judged(each, found, RECIPE, Targets()))
    return found


def test_remedies_are_offered_once_for_the_recommended_size() -> None:
    quantized = row("quantized", 20_000_000, 20_000_000, 8.0, 0.79, validation=0.8)
    pruned = row("pruned", 13_000_000, 13_000_000, 6.4, 0.7, validation=0.7)
    first, *sizes = several(0.985, 0.98, 0.9).rows
    done: list[Row] = []
    for each in (first, quantized, pruned, *sizes):
        done.append(judged(each, done, RECIPE, Targets()))
    *before, last = done
    assert not any(one.verdict.remedies for one in before)
    offered = {remedy.key for remedy in last.verdict.remedies}
    assert "recipe.distill.epochs" in offered
    assert not any(key.startswith("recipe.prune") for key in offered)  # the front shows what less of a cut keeps
    assert last.verdict.missed == ("retention",)  # its own
    met = [judged(sizes[-1], done[:-1], RECIPE, Targets(retention=0.98))]
    assert met[0].verdict.remedies == ()  # the recommended size reaches all targets


@pytest.mark.parametrize("lost", [0.6, 0.7])
def test_a_size_that_lost_the_score_is_not_shipped_though_it_is_the_last(lost: float) -> None:
    assert choose(verdicts_of(0.999, 0.995, lost), Targets())[0].stage == "point2"
