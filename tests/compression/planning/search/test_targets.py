"""Other targets of a job by its tables, as the solver's process answers them: within limits, the nearest, with a score."""

import json
from typing import Any

import pytest

from compression.planning.search.score_prediction import fit_power, predict_score
from compression.planning.search.solver_process import reply
from compression.planning.search.solver_request import SolverReply, SolverRequest
from compression.planning.search.within import solve_within
from compression.schema.errors import TargetOutOfReach
from compression.schema.solved_search import CutOutcome, SolvedSearch, TablesCheckpoint
from compression.schema.target_answer import FRONT_POINTS, PredictedScore, ScoreFacts, TargetQuestion
from compression.system.sealed_folder import seal, unseal_text
from tests.client.figures import row
from tests.support.device_tables import made_table
from tests.support.solved_tables import solved_tables

SECONDS = 60.0
POWERS = tuple(CutOutcome(error=error, change=3 * error**1.5) for error in (0.1, 0.2, 0.4, 0.8))


def text(name: str) -> str:
    return solved_tables()[name].decode()


def search(**changes: Any) -> SolvedSearch:
    found = SolvedSearch.model_validate_json(unseal_text(text("solved.json"), ""))
    return found.model_copy(update=changes)


def scores(before: float = 0.9, after: float = 0.88, **changes: Any) -> ScoreFacts:
    found = [row("pruned", 1, 1, 1.0, value).score for value in (before, after)]
    first, last = (each.model_copy(update={"standard_error": 0.01, "chance": 0.5, **changes}) for each in found)
    return ScoreFacts(before=first, after=last)


def ask(asked: Any, **changes: Any) -> SolverReply:
    question = asked if isinstance(asked, str) else TargetQuestion.model_validate(asked)
    own: dict[str, Any] = {"tables": text("state.json"), "search": text("solved.json"), "device_table": None, "scores": None}
    own |= {"tokens": 32, "batch": 1, "asked": question, "seconds": SECONDS, **changes}
    return reply(SolverRequest(**own))


def test_a_cut_keeps_within_all_targets_and_a_milder_one_errs_less() -> None:
    deep, mild = (ask({"target_params": share}).answer for share in (0.5, 0.2))
    assert deep is not None
    assert mild is not None
    for found, share in ((deep, 0.5), (mild, 0.2)):
        assert found.reached
        assert found.point.proven
        assert found.point.parameters.total <= (1 - share) * found.whole.parameters.total
        assert found.point.bytes < found.whole.bytes
        assert found.point.milliseconds is None
        assert found.point.flops < found.whole.flops
    assert mild.point.error < deep.point.error
    both = ask({"target_params": 0.2, "target_bytes": 0.5}).answer
    assert both is not None
    assert both.point.bytes <= 0.5 * both.whole.bytes


def test_the_jobs_own_target_comes_to_its_own_cut() -> None:
    own = ask({"target_params": 0.4}).answer
    assert own is not None
    assert own.point.error == pytest.approx(search().error, rel=2e-3)  # the solver's gap is 0.1 %


def test_a_target_out_of_reach_is_answered_by_the_nearest_point() -> None:
    found = ask({"target_params": 1}).answer
    assert found is not None
    assert not found.reached
    assert found.missed is not None
    assert "cannot be reached" in found.missed
    assert found.point.parameters.total > 1


def test_milliseconds_are_those_of_a_device_table_and_limit_if_asked() -> None:
    table = made_table()
    free = ask({"target_params": 0.1}, device_table=table).answer
    assert free is not None
    assert free.no_milliseconds is None
    most = 0.8 * free.whole.milliseconds
    found = ask({"target_latency": {"milliseconds": most}}, device_table=table).answer
    faster = ask({"target_latency": {"speed_up": 1.25}}, device_table=table).answer
    assert found is not None
    assert faster is not None
    assert found.point.milliseconds <= most
    assert faster.point == found.point  # of a model in floating point
    without = ask({"target_latency": {"milliseconds": most}}).refused
    assert without is not None
    assert (without["code"], without["param"]) == ("missing_resource", "target_latency")


def test_multiply_adds_are_of_a_text_of_the_jobs_length_and_limit_if_asked() -> None:
    short, long = (ask({"target_flops": 0.5}, tokens=tokens).answer for tokens in (32, 64))
    assert short is not None
    assert long is not None
    for found in (short, long):
        assert found.reached
        assert found.point.flops <= 0.5 * found.whole.flops
    assert long.whole.flops > 2 * short.whole.flops  # each token is compared with all others
    out = ask({"target_flops": 1}).answer
    assert out is not None
    assert "multiply-adds" in (out.missed or "")


def test_a_front_goes_from_mild_to_deep() -> None:
    front = ask("parameters").front
    assert front is not None
    assert len(front.points) > 4
    sizes, errors = ([getattr(point, name) for point in front.points] for name in ("parameters", "error"))
    totals = [each.total for each in sizes]
    assert totals == sorted(totals, reverse=True)
    assert errors == sorted(errors)
    refused = ask("milliseconds").refused
    assert refused is not None
    timed = ask("milliseconds", device_table=made_table()).front
    assert timed is not None
    times = [point.milliseconds for point in timed.points]
    assert times == sorted(times, reverse=True)


@pytest.mark.parametrize("proven", [True, False])
def test_a_front_goes_on_past_a_point_that_is_not_proven_to_be_out_of_reach(
    proven: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []

    def some(space: Any, limits: Any, solve: Any) -> Any:
        asked.append(limits)
        if len(asked) == 2:
            raise TargetOutOfReach("nothing", proven=proven)
        return solve_within(space, limits, solve)

    monkeypatch.setattr("compression.planning.search.targets.solve_within", some)
    front = ask("parameters").front
    assert front is not None
    assert len(asked) == (2 if proven else FRONT_POINTS)
    assert (len(front.points) > 1) == (not proven)


def test_what_is_not_solved_in_its_time_is_late() -> None:
    assert ask({"target_params": 0.5}, seconds=1e-9).late


@pytest.mark.parametrize("damage", ["digest", "other tables", "nonsense", "keys"])
def test_texts_that_no_engine_wrote_are_not_used(damage: str) -> None:
    checkpoint = TablesCheckpoint.model_validate_json(unseal_text(text("state.json"), ""))
    other = checkpoint.model_copy(update={"tables": checkpoint.tables.model_copy(update={"digest": "0" * 64})})
    fewer = checkpoint.model_copy(update={"tables": checkpoint.tables.model_copy(update={"groups": ()})})
    texts = {
        "digest": json.dumps({**json.loads(text("state.json")), "body": "{}"}),
        "other tables": seal(other.model_dump_json()),
        "nonsense": "[1]",
        "keys": seal(fewer.model_dump_json()),
    }
    found = ask({"target_params": 0.5}, tables=texts[damage])
    assert found.answer is None
    assert found.unreadable is not None or found.refused is not None


def test_a_score_follows_the_power_by_which_cuts_changed_answers() -> None:
    power = fit_power(POWERS)
    assert power is not None
    assert power.exponent == pytest.approx(1.5)
    assert power.scatter == pytest.approx(0, abs=1e-9)
    own = search(error=0.2, outcomes=POWERS)
    found = predict_score(0.4, own, scores())
    assert isinstance(found, PredictedScore)
    assert found.value == pytest.approx(0.9 - 0.02 * 2**1.5)
    assert not found.extrapolated
    assert predict_score(0.2, own, scores()).value == pytest.approx(0.88)  # type: ignore[union-attr]
    assert predict_score(0.0, own, scores()).value == pytest.approx(0.9)  # type: ignore[union-attr]
    far = predict_score(50.0, own, scores())
    assert isinstance(far, PredictedScore)
    assert far.extrapolated
    assert far.value == 0.5  # chance
    assert found.standard_error < far.standard_error <= 0.9 - 0.5
    small = tuple(each.model_copy(update={"error": each.error / 100}) for each in POWERS)
    near = predict_score(0.004, search(error=0.002, outcomes=small), scores())
    assert isinstance(near, PredictedScore)
    assert near.standard_error > max(each.error for each in small)
    assert not near.extrapolated, "it lies within the errors that were judged"
    noisy = tuple(
        each.model_copy(update={"change": each.change * factor}) for each, factor in zip(POWERS, (1, 2, 1, 2), strict=True)
    )
    rough = predict_score(0.4, search(error=0.2, outcomes=noisy), scores())
    assert isinstance(rough, PredictedScore)
    assert rough.standard_error > found.standard_error


def test_of_a_perplexity_more_is_lost_by_a_larger_value() -> None:
    found = predict_score(0.4, search(error=0.2, outcomes=POWERS), scores(20.0, 24.0, lower_is_better=True, chance=1000.0))
    assert isinstance(found, PredictedScore)
    assert found.value == pytest.approx(20 * (24 / 20) ** (2**1.5))  # nats add up, perplexities do not
    deep = predict_score(50.0, search(error=0.2, outcomes=POWERS), scores(20.0, 24.0, lower_is_better=True, chance=1000.0))
    assert isinstance(deep, PredictedScore)
    assert deep.value == pytest.approx(1000)


@pytest.mark.parametrize(
    ("changes", "facts", "why"),
    [
        ({"outcomes": POWERS}, None, "no scores on validation"),
        ({"outcomes": POWERS, "error": 0.0}, scores(), "cut nothing"),
        ({"outcomes": POWERS[:2]}, scores(), "Fewer than 3"),
        ({"outcomes": tuple(CutOutcome(error=each.error, change=1 / each.error) for each in POWERS)}, scores(), "no more"),
    ],
)
def test_without_what_it_rests_on_no_score_is_predicted(changes: dict[str, Any], facts: Any, why: str) -> None:
    found = predict_score(0.3, search(**changes), facts)
    assert isinstance(found, str)
    assert why in found


def test_a_question_names_a_target() -> None:
    with pytest.raises(ValueError, match="name a target"):
        TargetQuestion(part="a")
