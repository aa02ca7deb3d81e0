"""Several sizes of one job: which is recommended and shipped, and for which one remedies are offered."""

from typing import Any

import pytest

from compression.planning.front import front_of
from compression.planning.verdicts import choose, judged
from compression.schema.recipe.prune import Prune
from compression.schema.recipe.recipe import LatencyTarget, Recipe, Targets
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


def judged_all(quantized: Row | None, pruned: Row, *kept: float, recipe: Recipe = RECIPE, **targets: Any) -> list[Row]:
    first, *sizes = several(*kept).rows
    done: list[Row] = []
    for each in (first, *([quantized] if quantized is not None else []), pruned, *sizes):
        done.append(judged(each, done, recipe, Targets(**targets)))
    return done


def test_remedies_are_offered_once_for_the_recommended_size() -> None:
    quantized = row("quantized", 20_000_000, 20_000_000, 8.0, 0.79, validation=0.8)
    pruned = row("pruned", 13_000_000, 13_000_000, 6.4, 0.7, validation=0.7)
    sizes = several(0.985, 0.98, 0.9).rows[1:]
    done = judged_all(quantized, pruned, 0.985, 0.98, 0.9)
    *before, last = done
    assert not any(one.verdict.remedies for one in before)
    offered = {remedy.key for remedy in last.verdict.remedies}
    assert "recipe.distill.epochs" in offered
    assert not any(key.startswith("recipe.prune") for key in offered)  # the front shows what less of a cut keeps
    assert last.verdict.missed == ("retention",)  # its own
    met = [judged(sizes[-1], done[:-1], RECIPE, Targets(retention=0.98))]
    assert met[0].verdict.remedies == ()  # the recommended size reaches all targets


@pytest.mark.parametrize("cut", [0.7, 0.79, 0.81])
def test_a_remedy_for_a_further_size_has_no_figures_of_the_cut_to_the_largest(cut: float) -> None:
    quantized = row("quantized", 20_000_000, 20_000_000, 8.0, 0.79, validation=0.8)
    pruned = row("pruned", 13_000_000, 13_000_000, 6.4, cut, validation=cut)
    offered = judged_all(quantized, pruned, 0.97, 0.98, 0.96)[-1].verdict.remedies
    (more,) = [one for one in offered if one.key.startswith("recipe.distill")]
    assert (more.key, more.now, more.proposed) == ("recipe.distill.epochs", 8, 16)
    assert more.why == "0.7840 is the score of point2, and 0.7936 is needed, after 8 epochs."
    own = judged_all(quantized, row("pruned", 13_000_000, 13_000_000, 6.4, 0.7, validation=0.7), 0.985, 0.98, 0.96)
    (more,) = [one for one in own[-1].verdict.remedies if one.key == "recipe.distill.epochs"]
    assert "score of distilled" in more.why
    assert "of the 0.1000 that the cut took" in more.why  # the largest size's own cut


def test_a_size_or_time_that_smaller_sizes_meet_has_no_remedy() -> None:
    """The largest takes 8 ms, the smallest 4, and no later stage quantizes."""
    plain = RECIPE.model_copy(update={"quantize": None})
    most = Targets(retention=0.5, latency_ms=LatencyTarget(value=5.0), **LOOSE)
    first, *sizes = several(0.999, 0.995, 0.98).rows
    pruned = row("pruned", 13_000_000, 52_000_000, 8.0, 0.7, validation=0.7)
    times = [changed(each, "latency", median_ms=ms) for each, ms in zip(sizes, (8.0, 6.0, 4.0), strict=True)]
    done: list[Row] = []
    for each in (first, pruned, *times):
        done.append(judged(each, done, plain, most))
    assert "latency_ms" in done[1].verdict.missed
    assert not any(one.verdict.remedies for one in done)
    slow = judged(changed(times[-1], "latency", median_ms=6.0), done[:-1], plain, most)
    assert [one.key for one in slow.verdict.remedies] == ["recipe.quantize"]


@pytest.mark.parametrize("lost", [0.6, 0.7])
def test_a_size_that_lost_the_score_is_not_shipped_though_it_is_the_last(lost: float) -> None:
    assert choose(verdicts_of(0.999, 0.995, lost), Targets())[0].stage == "point2"
