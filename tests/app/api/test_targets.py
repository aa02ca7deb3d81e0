"""Other targets of a finished job over HTTP: by the real solver in its process, on tables that a tiny engine made."""

import json
import sys
import time
from pathlib import Path
from typing import Any

import httpx
import pytest

from app.core.errors import NoAnswer, TooManyTargets
from app.jobs.target_solver import FRONT_SECONDS, GRACE_SECONDS, MOST_OF_TEAM, SolverProcess
from app.jobs.targets import SECONDS
from compression.planning.search.solver_request import SolverReply, SolverRequest
from compression.schema.target_answer import TargetAnswer
from tests.app.api.conftest import Json, new_team, problem, sql
from tests.app.api.finished import done
from tests.app.api.test_device_tables import TABLE, store as store_device_table
from tests.client.figures import report
from tests.conftest import Service
from tests.support.device_tables import HERE
from tests.support.solved_tables import store_tables


@pytest.fixture
def http(http: httpx.Client, monkeypatch: pytest.MonkeyPatch) -> httpx.Client:
    """A client that asks again where the solver had no answer in its second and a half, as on a machine that stood still."""
    send = http.send

    def patient(request: httpx.Request, **how: Any) -> httpx.Response:
        end = time.monotonic() + 60
        while (answer := send(request, **how)).status_code == 422 and answer.json().get("code") == "no_answer":
            assert time.monotonic() < end
        return answer

    monkeypatch.setattr(http, "send", patient)
    return http


@pytest.fixture
def job(service: Service, http: httpx.Client, request_body: Json) -> str:
    found = done(service, http, request_body)
    store_tables(service, found)
    return found


@pytest.fixture
def place(job: str) -> str:
    return f"/v1/jobs/{job}/targets"


def test_another_target_is_answered_without_training(service: Service, http: httpx.Client, job: str, place: str) -> None:
    before = http.get(f"/v1/jobs/{job}").json()["version"]
    found = http.post(place, json={"target_params": 0.5})
    assert found.status_code == 200, found.text
    answer = found.json()
    assert answer["reached"]
    assert answer["point"]["parameters"]["total"] <= 0.5 * answer["whole"]["parameters"]["total"]
    assert answer["point"]["shape"]["layers"] == 3
    assert (answer["point"]["milliseconds"], answer["device_table"]) == (None, None)
    assert "device table" in answer["no_milliseconds"]
    assert answer["point"]["score"] is not None or answer["no_score"]
    assert http.get(f"/v1/jobs/{job}").json()["version"] == before
    near = http.post(place, json={"target_bytes": 1}).json()
    assert (near["reached"], near["point"]["bytes"] > 1) == (False, True)
    assert "cannot be reached" in near["missed"]


def test_another_target_of_a_job_with_free_widths_has_each_layers_own(
    service: Service, http: httpx.Client, request_body: Json
) -> None:
    prune = {"search": "solver", "free_widths": True, "recovery": None, "reconstruct": False}
    found = done(service, http, {**request_body, "recipe": {"preset": "standard", "prune": prune}})
    store_tables(service, found, free=True)
    shapes = [
        http.post(f"/v1/jobs/{found}/targets", json={"target_params": share}).json()["point"] for share in (0.2, 0.35, 0.5)
    ]
    assert all(len(one["shape"]["ffns"] or [0] * 3) == 3 for one in shapes)
    assert any(one["shape"]["ffns"] for one in shapes)


def test_no_score_is_predicted_by_a_size_that_was_not_made(service: Service, http: httpx.Client, request_body: Json) -> None:
    """The error that is stored is the smallest size's, and no row has its score."""
    found = []
    for points in (1, 2):
        prune = {"search": "solver", "points": points, "recovery": None, "reconstruct": False}
        job = done(service, http, {**request_body, "recipe": {"preset": "standard", "prune": prune}})
        store_tables(service, job)
        found.append(http.post(f"/v1/jobs/{job}/targets", json={"target_params": 0.5}).json())
    unknown = "The job has no scores on validation of before and after its cut."
    assert [one["no_score"] == unknown for one in found] == [False, True]


def test_a_front_and_milliseconds_by_the_table_that_is_named(service: Service, http: httpx.Client, place: str) -> None:
    front = http.get(place).json()
    assert (front["by"], len(front["points"]) > 4) == ("parameters", True)
    table = store_device_table(service, f"dtb_{place[-12:-8]}")
    asked = {"target_latency": {"speed_up": 1.2}, "device_table": table}
    answer = http.post(place, json=asked).json()
    assert answer["device_table"] == table
    assert answer["point"]["milliseconds"] <= answer["whole"]["milliseconds"] / 1.2
    timed = http.get(place, params={"by": "milliseconds", "device_table": table}).json()
    assert timed["points"][0]["milliseconds"] < timed["whole"]["milliseconds"]
    problem(http.post(place, json={**asked, "device_table": "dtb_none"}), 404, "not_found", "device_table")
    problem(http.post(place, json={"target_latency": {"milliseconds": 5}}), 422, "missing_resource", "target_latency")


def test_a_table_without_times_of_such_a_model_is_not_said_to_predict(service: Service, http: httpx.Client, place: str) -> None:
    table = store_device_table(service, f"dtb_empty{place[-12:-8]}", TABLE.model_copy(update={"rows": ()}).model_dump_json())
    answer = http.post(place, json={"target_params": 0.5, "device_table": table}).json()
    assert (answer["point"]["milliseconds"], answer["device_table"]) == (None, None)
    assert "no times" in answer["no_milliseconds"]
    front = http.get(place, params={"device_table": table}).json()
    assert front["device_table"] is None


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"target_size": 0.5}, "target_size"),
        ({"target_params": -1}, "target_params"),
        ({"target_params": "0.5"}, "target_params"),
        ({"target_latency": {"seconds": 1}}, "target_latency.seconds"),
        ({"target_params": 0.5, "part": "mood"}, "part"),
        ({}, ""),
    ],
)
def test_a_wrong_key_is_named(http: httpx.Client, place: str, body: Json, param: str) -> None:
    problem(http.post(place, json=body), 422, "invalid_request", param)


def test_multiply_adds_are_a_target_too(http: httpx.Client, place: str) -> None:
    found = TargetAnswer.model_validate(http.post(place, json={"target_flops": 0.5}).raise_for_status().json())
    assert found.reached
    assert found.point.flops <= 0.5 * found.whole.flops


def test_a_job_without_tables_says_what_has_them(service: Service, http: httpx.Client, request_body: Json) -> None:
    other = done(service, http, request_body)
    told = problem(http.post(f"/v1/jobs/{other}/targets", json={"target_params": 0.5}), 409, "no_tables")
    assert "prune.search" in told["remedy"]
    assert told["cause"] == f"the recipe of {other} has no prune.search"
    searching = {
        **request_body,
        "recipe": {"preset": "standard", "prune": {"search": "solver", "recovery": None, "reconstruct": False}},
    }
    early = http.post("/v1/jobs", json=searching).json()["id"]
    told = problem(http.post(f"/v1/jobs/{early}/targets", json={"target_params": 0.5}), 409, "no_tables")
    assert told["cause"] == f"the search of {early} was not done"
    assert http.post(f"/v1/jobs/{early}/cancel").is_success  # or the next test would claim it
    problem(http.get(f"/v1/jobs/{other}/targets"), 409, "no_tables")


def test_damaged_tables_are_not_used(service: Service, http: httpx.Client, request_body: Json) -> None:
    damaged, lost = (done(service, http, request_body) for _ in range(2))
    store_tables(service, damaged, state=b"nonsense")
    store_tables(service, lost)
    problem(http.post(f"/v1/jobs/{damaged}/targets", json={"target_params": 0.5}), 409, "no_tables")
    (service.home / "storage" / f"jobs/{lost}/1/checkpoints/tables/solved.json").unlink()
    problem(http.post(f"/v1/jobs/{lost}/targets", json={"target_params": 0.5}), 409, "no_tables")


def test_strangers_find_no_job_and_readers_may_ask(service: Service, http: httpx.Client, place: str) -> None:
    with service.client(new_team(service)) as stranger:
        problem(stranger.post(place, json={"target_params": 0.5}), 404, "not_found")
    reader = http.post("/v1/keys", json={"name": "reader", "scope": "read"}).json()["key"]
    with service.client(reader) as reading:
        assert reading.post(place, json={"target_params": 0.5}).status_code == 200
        assert reading.get(place).status_code == 200


def test_deleted_with_its_job(service: Service, http: httpx.Client, job: str, place: str) -> None:
    assert http.delete(f"/v1/jobs/{job}").status_code == 204
    problem(http.post(place, json={"target_params": 0.5}), 404, "not_found")


def test_without_a_name_the_table_that_is_most_like_the_job_predicts(
    service: Service, http: httpx.Client, request_body: Json
) -> None:
    here = {"processor": HERE.processor, "instructions": HERE.instructions, "onnxruntime": "1"}
    asked = {**request_body, "evaluate": {"threads": HERE.threads}}
    other = done(service, http, asked, report().model_copy(update={"environment": here}))
    store_tables(service, other)
    known = store_device_table(service, "dtb_alike")
    unlike = json.dumps(HERE.model_dump(mode="json") | {"instructions": "SSE", "rows": 1, "exclusive": True})
    store_device_table(service, "dtb_unlike")
    later = "2031-01-01 00:00:00.000000"
    sql(service, "UPDATE device_tables SET facts = %s, measured_at = %s WHERE id = 'dtb_unlike'", unlike, later)
    found = http.post(f"/v1/jobs/{other}/targets", json={"target_params": 0.3}).json()
    assert found["device_table"] == known
    assert found["point"]["milliseconds"] < found["whole"]["milliseconds"]


# The process by itself.


def module(folder: Path, text: str) -> SolverProcess:
    (folder / "made_solver.py").write_text(text)
    found = SolverProcess(patience=0.2, waiting=4)
    found.command = [sys.executable, str(folder / "made_solver.py")]
    return found


ECHO = (
    "import sys, time, os\n"
    "for line in sys.stdin:\n"
    "    number, _, asked = line.strip().partition(' ')\n"
    "    if 'die' in asked: os._exit(1)\n"
    "    if 'sleep' in asked: time.sleep(60)\n"
    "    if 'stray' in asked: print('a warning')\n"
    "    print(number, asked, os.getpid(), 'LATHE_KEY' in os.environ, flush=True)\n"
    "    if 'last' in asked: time.sleep(0.3); os._exit(1)\n"
)


def test_a_process_that_takes_too_long_or_dies_is_ended_and_begun_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LATHE_KEY", "secret")
    solver = module(tmp_path, ECHO)
    try:
        first = solver.ask("a", b"one", 1.0)
        assert first.split()[2] == b"False"
        assert solver.ask("a", b"two", 1.0).split()[1] == first.split()[1]
        with pytest.raises(NoAnswer):
            solver.ask("a", b"die", 1.0)
        second = solver.ask("a", b"three", 1.0)
        assert second.split()[1] != first.split()[1]
        monkeypatch.setattr("app.jobs.target_solver.GRACE_SECONDS", 0.1)
        with pytest.raises(NoAnswer, match=r"after 0\.2 s"):
            solver.ask("a", b"sleep", 0.1)
    finally:
        solver.close()


def test_a_reply_is_to_its_own_question_whatever_else_is_printed(tmp_path: Path) -> None:
    solver = module(tmp_path, ECHO)
    try:
        solver.ask("a", b"one", 1.0)
        with pytest.raises(NoAnswer):
            solver.ask("a", b"stray", 1.0)
        assert solver.ask("b", b"two", 1.0).startswith(b"two ")
    finally:
        solver.close()


def test_a_process_that_ended_between_two_questions_costs_neither(tmp_path: Path) -> None:
    solver = module(tmp_path, ECHO)
    try:
        first = solver.ask("a", b"last", 1.0)
        assert solver.ask("a", b"next", 1.0).split()[1] != first.split()[1]
    finally:
        solver.close()


def test_what_a_library_prints_is_no_reply(tmp_path: Path) -> None:
    text = (
        "import os\n"
        "from compression.planning.search import solver_process\n"
        "from compression.planning.search.solver_request import SolverReply\n"
        "solver_process.reply = lambda asked: os.write(1, b'Coin0506I Presolve\\n') and SolverReply(late=True)\n"
        "solver_process.main()\n"
    )
    solver = module(tmp_path, f"import sys; sys.path.insert(0, {str(Path.cwd())!r})\n{text}")
    asked = {"tables": "", "search": "", "device_table": None, "scores": None, "tokens": 1, "batch": 1, "asked": "parameters"}
    request = SolverRequest.model_validate({**asked, "seconds": 1.0}).model_dump_json().encode()
    try:
        assert SolverReply.model_validate_json(solver.ask("a", request, 1.0)).late
    finally:
        solver.close()


def test_a_question_waits_as_long_as_any_before_it_may_take() -> None:
    assert SolverProcess().patience >= max(SECONDS, FRONT_SECONDS) + GRACE_SECONDS


def test_more_questions_than_there_are_places_are_refused_at_once(tmp_path: Path) -> None:
    solver = module(tmp_path, ECHO)
    assert solver.turn.acquire(timeout=1)
    with pytest.raises(TooManyTargets, match="took more than"):
        solver.ask("a", b"one", 1.0)
    solver.asking["a"] = MOST_OF_TEAM
    with pytest.raises(TooManyTargets, match="of the team about targets wait already"):
        solver.ask("a", b"one", 1.0)
    solver.turn.release()
    try:
        assert solver.ask("b", b"one", 1.0).startswith(b"one ")  # other teams have places of their own
    finally:
        solver.close()
    assert solver.asking == {"a": MOST_OF_TEAM}
    solver.asking["b"] = 1
    with pytest.raises(TooManyTargets, match="questions about targets wait already"):
        solver.ask("c", b"one", 1.0)
