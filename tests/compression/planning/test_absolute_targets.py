"""Absolute targets: judged in their own units, from their own side, shown as they are, and absent where none is asked."""

import pytest

from client.commands.submit import targets as given
from client.terminal.render import verdict_text
from compression.planning.verdicts import choose, judged, reached, shortfall
from compression.schema.recipe.recipe import LatencyTarget, Recipe, Targets
from compression.schema.report.report import Verdict, verdicts
from compression.schema.report.targets import TARGETS
from tests.support.verdict_rows import BASELINE, QUANTIZED, RECIPE, distilled, offered, perplexity_of, pruned, scored

HERE = LatencyTarget(value=7)
EASY = {"parameter_reduction": 0, "size_reduction": 0, "speed_up": 1, "retention": 0.5}


def easy(**more: object) -> Targets:
    return Targets.model_validate(EASY | more)


def test_every_field_of_targets_has_its_kind_and_what_is_not_asked_is_nowhere() -> None:
    assert [*TARGETS, "quality_gate"] == list(Targets.model_fields)
    assert set(Targets().model_dump()) == set(verdicts(QUANTIZED, Targets())) == set(EASY)


@pytest.mark.parametrize(
    ("asked", "status", "text"),
    [
        ({"parameters": 13e6}, "met", "met: parameters 13,000,000 (target at most 13,000,000)"),
        ({"parameters": 1.2e7}, "missed", "missed: parameters 13,000,000 (target at most 12,000,000)"),
        ({"latency_ms": {"value": 6.4}}, "met", "met: latency 6.4 ms (target at most 6.4 ms)"),
        ({"latency_ms": {"value": 6.3, "device": "worker"}}, "missed", "missed: latency 6.4 ms (target at most 6.3 ms)"),
        ({"score": 79.8}, "met", "met: score 79.80 % on test (target 79.80 %)"),
        ({"score": 79.9}, "missed", "missed: score 79.80 % on test (target 79.90 %)"),
    ],
)
def test_a_figure_is_held_against_its_target_and_shown_in_its_unit(asked: dict[str, object], status: str, text: str) -> None:
    ((name, found),) = [item for item in verdicts(distilled(), easy(**asked)).items() if item[0] in asked]
    assert (found.status, verdict_text(name, found)) == (status, text)
    assert Verdict.model_validate_json(found.model_dump_json()) == found


def test_a_perplexity_may_be_at_most_its_target() -> None:
    first = perplexity_of(20.0, 0.1, 100, 900.0)
    last = scored(distilled(), perplexity_of(22.0, 0.1, 100, 900.0), BASELINE, first)
    found = verdicts(last, easy(score=21))["score"]
    assert (found.status, found.value) == ("missed", 22.0)
    assert verdict_text("score", found) == "missed: score 22 on test (target at most 21)"
    assert verdicts(last, easy(score=22))["score"].met
    # 20/21 = 95.2 % may be kept, 90.9 % is: 4.3 points too few, of 4.8 that may go
    assert shortfall(last, easy(score=21)) == pytest.approx((20 / 21 - 20 / 22) / (1 - 20 / 21))


def test_what_reaches_the_absolute_targets_too_is_shipped() -> None:
    rows = [BASELINE, QUANTIZED, pruned(0.75), distilled(0.79)]
    assert choose(rows, easy())[0].stage == "distilled"
    assert choose(rows, easy(score=79.5))[0].stage == "quantized"
    chosen, why = choose(rows, easy(score=79.5, parameters=14e6, latency_ms=HERE))
    assert chosen.stage == "distilled"
    assert "it meets 6 of 7 (parameter reduction, size reduction, speed up, retention, parameters, latency)" in why
    assert why.endswith("missed: score 79.00 (target 79.5).")


def test_what_another_device_must_show_is_neither_met_nor_missed_and_decides_nothing() -> None:
    rows, there = [BASELINE, QUANTIZED, distilled(0.79)], easy(latency_ms={"value": 1, "device": "A100"})
    found = verdicts(rows[-1], there)["latency_ms"]
    assert (found.status, found.code, found.value, found.device) == ("unproven", "not_measured", None, "A100")
    assert found.reason is not None
    assert "evaluate.devices" in found.reason
    assert verdict_text("latency_ms", found) == "unproven: latency not measured on A100 (target at most 1 ms)"
    assert choose(rows, there) == choose(rows, easy())
    assert "latency_ms" not in reached(rows[-1], there)
    assert judged(rows[-1], rows[:-1], RECIPE, there).verdict.unproven == ("latency_ms",)


def test_remedies_aim_at_the_absolute_targets() -> None:
    rows = (BASELINE, QUANTIZED, pruned(), distilled())
    smaller = offered(RECIPE, *rows, targets=easy(parameters=1e7))["recipe.prune.ratio"]
    same = offered(RECIPE, *rows, targets=easy(parameter_reduction=0.5))["recipe.prune.ratio"]
    assert smaller.proposed == same.proposed
    assert "parameters is 13,000,000, not 10,000,000" in smaller.why
    faster = offered(RECIPE, *rows, targets=easy(latency_ms={"value": 4}))["recipe.prune.ratio"]
    assert faster.proposed == offered(RECIPE, *rows, targets=easy(speed_up=4))["recipe.prune.ratio"].proposed
    aimed = Recipe.model_validate({"prune": {"target_params": 13e6}})
    assert offered(aimed, *rows, targets=easy(parameters=1e7))["recipe.prune.target_params"].proposed == 1e7
    timed = Recipe.model_validate({"prune": {"target_latency": {"speed_up": 2}}})
    remedy = offered(timed, *rows, targets=easy(latency_ms={"value": 4}))["recipe.prune.target_latency"]
    assert remedy.proposed == {"milliseconds": 4}
    lost = (BASELINE, QUANTIZED, pruned(), distilled(0.75))
    longer = offered(RECIPE, *lost, targets=easy(score=79.36))
    assert longer == offered(RECIPE, *lost, targets=easy(retention=0.992))
    assert "0.7500 is the score, and 0.7936 is needed" in next(iter(longer.values())).why


def test_the_command_line_names_a_latency_and_its_device() -> None:
    assert given(["latency_ms=120@jetson", "parameters=1.5e9"]) == {
        "latency_ms": {"value": 120, "device": "jetson"},
        "parameters": 1.5e9,
    }
    assert given(["latency_ms=4.5", "score=74.3"]) == {"latency_ms": {"value": 4.5}, "score": 74.3}
    assert given(['latency_ms={"value": 3}']) == {"latency_ms": {"value": 3}}
