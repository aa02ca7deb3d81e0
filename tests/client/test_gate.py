"""`lathe wait --gate`: its exit code tells what the quality gate says of what is shipped."""

import pytest
from sqlalchemy.orm import Session

from app.jobs import fencing, jobs, stage_results
from compression.schema.report.gate import GateVerdict
from tests.client.conftest import Command, Live, document
from tests.client.figures import gate_of, gated
from tests.support.saying import says


@pytest.mark.parametrize(("gate", "code"), [(gate_of(60, 10), 7), (gate_of(6, 5), 7), (gate_of(0, 9), 0)])
def test_wait_ends_with_7_where_the_gate_is_asked_and_does_not_accept(
    live: Live, command: Command, gate: GateVerdict, code: int
) -> None:
    model, dataset = live.ready()
    here = ("submit", "--model", model, "--data", dataset, "--recipe", "quick", "--target", "quality_gate=0.008", "--json")
    job = document(command(*here))
    assert job["targets"]["quality_gate"] == {"max_drop": 0.008, "confidence": 0.95}

    def succeed_with(session: Session, claim: fencing.Claim) -> None:
        found = gated(gate)
        for row in found.rows:
            stage_results.record_stage(session, claim, row, "p", [], [])
        jobs.finish(session, claim, found.model_dump(mode="json"), [])

    live.end(job["id"], succeed_with)
    ran = command("wait", job["id"], "--gate")
    assert ran.code == code
    says(ran.out, f"{gate.status}, against baseline-onnx-float32")
    assert command("wait", job["id"]).code == 0
    assert document(command("wait", job["id"], "--json"))["rows"][1]["gate"]["status"] == gate.status
    assert f"quality gate: distilled {gate.status}" in command("show", job["id"]).out


def test_a_job_without_a_gate_is_not_waited_for_by_it(command: Command, job: str) -> None:
    ran = command("wait", job, "--gate", "--json")
    assert ran.code == 2
    assert document(ran)["error"]["code"] == "no_gate"
