"""A job is tried again with what its error or its table speaks for; a recipe is checked by itself."""

import json
from collections.abc import Callable
from typing import Any

import httpx
import pytest
from pydantic import JsonValue

from app.core.errors import InvalidRecipe
from app.core.failures import describe_failure
from app.core.ids import new_id
from app.jobs.remedies import apply_remedies
from compression.schema.errors import CompressionError, OutOfMemory, TrainingDiverged, UnseenLabel, UnsupportedPrecision
from compression.schema.report.measurements import Remedy, StageVerdict
from compression.schema.stages import DISTILLED, PRUNED
from tests.app.api.conftest import MOMENT, Json, insert, problem, sql
from tests.app.api.finished import add_row
from tests.client.figures import row
from tests.conftest import Service

Fail = Callable[..., str]


@pytest.fixture
def fail(service: Service, http: httpx.Client, request_body: Json) -> Fail:
    """Submits a job, and ends it with an error as its worker would."""

    def failed(error: Json, **changes: Any) -> str:
        job = str(http.post("/v1/jobs", json={**request_body, **changes}).json()["id"])
        sql(service, "UPDATE jobs SET state = 'failed', error = %s WHERE id = %s", json.dumps(error), job)
        return job

    return failed


def whole(http: httpx.Client, **changes: Any) -> Json:
    presets = {item["name"]: item["recipe"] for item in http.get("/v1/recipes").json()["items"]}
    return {**presets["quick"], **changes}


def test_a_chosen_rate_that_diverged_is_replaced_by_a_given_one(fail: Fail, http: httpx.Client) -> None:
    recipe = whole(http, prepare={"epochs": None, "rate": None})
    error = TrainingDiverged("NaN", param="recipe.prepare.rate")
    job = fail(error.as_dict(), recipe=recipe)
    again = http.post(f"/v1/jobs/{job}/retry", json={"remedies": "all"}).json()
    assert again["recipe"]["prepare"] == {"epochs": None, "rate": pytest.approx(1.5e-5), "patience": None}


@pytest.mark.parametrize(
    ("error", "place", "before", "after"),
    [
        (OutOfMemory("no room"), "train.batch", 32, 16),
        (OutOfMemory("no room"), "train.accumulate", 1, 2),
        (TrainingDiverged("NaN", param="recipe.prepare.rate"), "prepare.rate", 1e-4, pytest.approx(3e-5)),
        (UnsupportedPrecision("no bfloat16"), "train.precision", "bfloat16", "auto"),
    ],
    ids=["half the batch", "twice as many", "a gentler rate", "any precision"],
)
def test_an_error_that_a_recipe_can_mend_is_mended(
    fail: Fail, http: httpx.Client, request_body: Json, error: CompressionError, place: str, before: object, after: object
) -> None:
    recipe, (part, key) = whole(http), place.split(".")
    recipe["train"] = {**recipe["train"], "precision": "bfloat16"}
    job = fail(error.as_dict(), recipe=recipe, labels={"of": "mine"})
    again = http.post(f"/v1/jobs/{job}/retry", json={"remedies": "all"}).json()
    assert again["retry_of"] == job
    assert (again["labels"], again["models"]["base"]) == ({"of": "mine"}, request_body["models"]["base"])
    assert (recipe[part][key], again["recipe"][part][key]) == (before, after)
    plain = http.post(f"/v1/jobs/{job}/retry").json()
    assert plain["recipe"] == http.get(f"/v1/jobs/{job}").json()["recipe"]


def test_rows_are_halved_alone_where_no_more_batches_can_be_added_up(fail: Fail, http: httpx.Client) -> None:
    recipe = whole(http)
    recipe["train"] = {**recipe["train"], "accumulate": 600}
    job = fail(OutOfMemory("no room").as_dict(), recipe=recipe)
    answer = http.post(f"/v1/jobs/{job}/retry", json={"remedies": "all"})
    assert answer.status_code == 202, answer.text
    again = answer.json()["recipe"]["train"]
    assert (again["batch"], again["accumulate"]) == (16, 600)


def test_a_job_that_ran_out_of_a_cards_memory_may_compute_layers_again_and_round_moments(
    fail: Fail, service: Service, http: httpx.Client, request_body: Json
) -> None:
    def offered(job: str) -> set[str]:
        return {one["key"].removeprefix("recipe.train.") for one in http.get(f"/v1/jobs/{job}").json()["remedies"]}

    facts = {"device": {"kind": "cuda", "name": "A card"}, "train_devices": 2}
    seen = {"drain": False, "started_at": MOMENT, "seen_at": "2126-01-01 00:00:00.000000"}
    insert(service, "workers", id="wrk_card", kind="jobs", host="h", pid=1, facts=json.dumps(facts), **seen)
    halves, error = {"batch", "accumulate"}, OutOfMemory("no room").as_dict()
    assert offered(fail(error, recipe=whole(http))) == {*halves, "checkpointing"}  # its worker is unknown
    job = fail(error, recipe=whole(http))
    sql(service, "UPDATE jobs SET worker_id = 'wrk_card' WHERE id = %s", job)
    assert offered(job) == {*halves, "checkpointing", "optimizer"}
    again = http.post(f"/v1/jobs/{job}/retry", json={"remedies": "all"}).json()["recipe"]["train"]
    assert (again["checkpointing"], again["optimizer"], again["batch"]) == ("on", "adamw-8bit", 16)
    recipe = whole(http)
    recipe["train"] = {**recipe["train"], "checkpointing": "on", "optimizer": "adamw-8bit", "batch": 1}
    job = fail(error, recipe=recipe)
    sql(service, "UPDATE jobs SET worker_id = 'wrk_card' WHERE id = %s", job)
    assert offered(job) == set()
    recipe["train"] |= {"optimizer": "adamw", "devices": 2}
    job = fail(error, recipe=recipe)
    sql(service, "UPDATE jobs SET worker_id = 'wrk_card' WHERE id = %s", job)
    assert offered(job) == set()  # several devices have their moments in shards
    model, job = request_body["models"]["base"], fail(error)
    known = http.get(f"/v1/models/{model}").json()["facts"]
    sql(service, "UPDATE models SET facts = %s WHERE id = %s", json.dumps({**known, "family": "mpnet"}), model)
    assert offered(job) == halves
    sql(service, "UPDATE models SET facts = %s WHERE id = %s", json.dumps(known), model)


def test_a_job_that_was_late_is_sent_again_without_its_deadline(fail: Fail, http: httpx.Client) -> None:
    job = fail(describe_failure("deadline_exceeded"), deadline_seconds=60)
    again = http.post(f"/v1/jobs/{job}/retry", json={"remedies": "all"}).json()
    assert again["deadline_at"] is None
    assert http.post(f"/v1/jobs/{job}/retry").json()["deadline_at"] is not None


def test_a_table_that_misses_its_targets_says_what_to_change(service: Service, http: httpx.Client, request_body: Json) -> None:
    job = str(http.post("/v1/jobs", json=request_body).json()["id"])
    longer = Remedy(key="recipe.distill.epochs", now=8, proposed=14, why="0.74 is scored where 0.79 is needed")
    milder = Remedy(key="recipe.prune.ratio", now=0.3, proposed=0.2, why="the cut cost more than training brought back")
    done = Remedy(key="recipe.distill.rate", now=3e-5, proposed=1e-5, why="it was tried", applied=True)
    for position, stage, remedies in ((2, PRUNED, (milder,)), (3, DISTILLED, (longer, done))):
        verdict = StageVerdict(met=(), missed=("retention",), best_before=None, worse_than=None, remedies=remedies)
        add_row(service, job, position, row(stage, 13_000_000, 14_000_000, 6.4, 0.6, verdict=verdict))
    sql(service, "UPDATE jobs SET state = 'succeeded', started_at = created_at, finished_at = created_at WHERE id = %s", job)
    before = http.get(f"/v1/jobs/{job}").json()["recipe"]
    answer = http.post(f"/v1/jobs/{job}/retry", json={"remedies": "all"})
    assert answer.status_code == 202, answer.text
    again = answer.json()["recipe"]
    assert (again["distill"]["epochs"], again["prune"]["ratio"]) == (14, 0.2)
    assert again["distill"]["rate"] == before["distill"]["rate"]
    again["distill"]["epochs"], again["prune"]["ratio"] = before["distill"]["epochs"], before["prune"]["ratio"]
    assert again == before


def test_what_no_recipe_mends_is_refused(fail: Fail, http: httpx.Client, request_body: Json) -> None:
    waiting = http.post("/v1/jobs", json=request_body).json()["id"]
    problem(http.post(f"/v1/jobs/{waiting}/retry", json={"remedies": "all"}), 409, "wrong_state")
    job = fail(UnseenLabel("label x").as_dict())
    problem(http.post(f"/v1/jobs/{job}/retry", json={"remedies": "all"}), 409, "no_remedy")
    problem(http.post(f"/v1/jobs/{job}/retry", json={"remedy": True}), 422, "invalid_request", "remedy")
    http.post(f"/v1/jobs/{waiting}/cancel")
    problem(http.post(f"/v1/jobs/{waiting}/retry", json={"remedies": "all"}), 409, "no_remedy")


def test_a_retry_with_its_remedy_happens_once_a_key(fail: Fail, http: httpx.Client) -> None:
    job = fail(OutOfMemory("no room").as_dict())
    key = {"Idempotency-Key": new_id("k")}
    first = http.post(f"/v1/jobs/{job}/retry", json={"remedies": "all"}, headers=key).json()
    assert http.post(f"/v1/jobs/{job}/retry", json={"remedies": "all"}, headers=key).json() == first
    problem(http.post(f"/v1/jobs/{job}/retry", headers=key), 422, "idempotency_key_reused")


def test_a_recipe_is_checked_by_itself(http: httpx.Client) -> None:
    short = http.post("/v1/recipes/check", json={"prune": {"ratio": 0.4}, "distill": None})
    assert short.status_code == 200
    recipe = short.json()["recipe"]
    assert (recipe["prune"]["ratio"], recipe["distill"], recipe["train"]["batch"]) == (0.4, None, 32)
    problem(http.post("/v1/recipes/check", json={"prune": {"rato": 0.4}}), 422, "invalid_recipe", "recipe.prune.rato")
    problem(http.post("/v1/recipes/check", json={"prune": {"ratio": 1.4}}), 422, "invalid_recipe", "recipe.prune.ratio")


def change(key: str, proposed: JsonValue) -> Remedy:
    return Remedy(key=key, now=None, proposed=proposed, why="the figures")


def test_a_stage_that_is_left_out_takes_the_changes_of_its_keys_with_it() -> None:
    recipe: Json = {"prune": {"ratio": 0.3, "axes": ["ffn"]}, "quantize": {"qat": {"quantized": 5}}}
    values = {"prune.ratio": 0.1, "quantize.qat.quantized": 10, "prune": None, "quantize.smoothing": None, "train.batch": 8}
    chosen = [change(f"recipe.{key}", value) for key, value in values.items()]
    expected = {"prune": None, "quantize": {"qat": {"quantized": 10}, "smoothing": None}, "train": {"batch": 8}}
    for order in (chosen, chosen[::-1]):
        assert apply_remedies(recipe, order) == expected
    assert recipe["prune"] == {"ratio": 0.3, "axes": ["ffn"]}


def test_a_whole_stage_is_exchanged_before_its_keys_are_changed() -> None:
    chosen = [change("recipe.quantize.smoothing", "search"), change("recipe.quantize", {"observer": "percentile"})]
    assert apply_remedies({"quantize": {}}, chosen) == {"quantize": {"observer": "percentile", "smoothing": "search"}}


def test_a_remedy_that_an_engine_made_up_is_refused() -> None:
    with pytest.raises(InvalidRecipe):
        apply_remedies({"train": {"batch": 8}}, [change("recipe.train.batch.size", 1)])
