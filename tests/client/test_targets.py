"""`lathe target` and both halves of the library against the real API and the real solver."""

from typing import Any

import pytest

from client.errors import Problem
from client.terminal.targets import answer_lines, front_lines, score_text
from compression.schema.target_answer import PredictedScore, TargetAnswer, TargetFront
from tests.client.conftest import Command, Live, document
from tests.client.halves import HALVES
from tests.client.test_cli import succeed
from tests.client.test_render import shown
from tests.support.saying import says
from tests.support.solved_tables import store_tables

SCORE = PredictedScore(
    metric="accuracy", value=0.8412, standard_error=0.009, lower_is_better=False, extrapolated=True, basis="five cuts."
)


@pytest.fixture
def solved(live: Live, job: str) -> str:
    live.end(job, succeed)
    store_tables(live.service, job)
    return job


def test_a_target_is_printed_beside_the_whole_model(command: Command, solved: str) -> None:
    ran = command("target", solved, "--params", "-0.5")
    assert ran.code == 0
    says(ran.out, "parameters", "size", "layers' error", "No milliseconds", "Predicted, not measured")
    found = TargetAnswer.model_validate(document(command("target", solved, "--params", "-0.5", "--bytes", "-0.1", "--json")))
    assert found.reached
    assert found.point.parameters.total <= 0.5 * found.whole.parameters.total
    found = TargetAnswer.model_validate(document(command("target", solved, "--flops", "-0.5", "--json")))
    assert found.reached
    assert found.point.flops <= 0.5 * found.whole.flops
    says(command("target", solved, "--bytes", "1").out, "Out of reach: ", "The nearest point:")


def test_without_a_target_the_front_is_listed(command: Command, solved: str) -> None:
    says(command("target", solved).out, "parameters", "change", "error")
    found = TargetFront.model_validate(document(command("target", solved, "--json")))
    assert len(found.points) > 4


def test_what_is_asked_wrongly_is_refused(command: Command, solved: str) -> None:
    assert document(command("target", solved, "--latency", "4", "--json"))["error"]["code"] == "missing_resource"
    assert command("target", solved, "--latency", "4", "--speed-up", "2").code == 2
    percent = command("target", solved, "--params", "-30")  # not 30 parameters
    assert percent.code == 2
    says(percent.err, "-0.3 is 30 percent")
    assert command("target", solved, "--params", "-0.5", "--by", "milliseconds").code == 2


def test_a_job_without_tables_is_told_which_command_makes_them(live: Live, command: Command, job: str) -> None:
    live.end(job, succeed)
    says(command("target", job, "--params", "-0.5").err, "prune.search=solver")


@pytest.mark.parametrize("half", list(HALVES))
def test_both_halves_ask(live: Live, solved: str, half: str) -> None:
    with HALVES[half](live.service.url, live.service.database.key) as lathe:
        found = lathe.target(solved, target_params=0.5)
        assert found.point.parameters.total <= 0.5 * found.whole.parameters.total
        assert lathe.front(solved).points[-1].error > found.point.error
        with pytest.raises(Problem, match="part"):
            lathe.front(solved, part="mood")


def changed(found: Any, **changes: Any) -> Any:
    return found.model_copy(update=changes)


def test_a_score_is_told_with_its_error_and_what_it_rests_on(command: Command, solved: str) -> None:
    assert score_text(SCORE) == "≈ 84.12 % ± 0.90 % (beyond what was tried)"
    assert score_text(None) == "–"
    answer = TargetAnswer.model_validate(document(command("target", solved, "--params", "-0.5", "--json")))
    point = changed(answer.point, score=SCORE, milliseconds=2.0, flops=10, proven=False)
    whole = changed(answer.whole, milliseconds=4.0, flops=20)
    told = answer_lines(changed(answer, point=point, whole=whole, no_score=None, no_milliseconds=None))
    says("".join(map(shown, told)), "2.00×", "multiply-adds", "≈ 84.12 %", "rests on five cuts.", "not proven")
    front = TargetFront.model_validate(document(command("target", solved, "--json")))
    says("".join(map(shown, front_lines(changed(front, points=(point,))))), "≈ 84.12 %", "2.00")
