"""A job is asked for: accepted once, or refused by the name of the field; preflight says the same and stores nothing."""

import json
from pathlib import Path
from typing import Any

import httpx
import pytest

from app.core.ids import new_id
from app.jobs.preflight import resolve_recipe
from tests.app.api.conftest import Json, job_body, problem, ready_dataset, ready_model, sql
from tests.client.figures import DATA_FACTS, LLAMA_FACTS, MODEL_FACTS
from tests.conftest import Database, Service, started, wait_for


def test_a_job_is_accepted_once_a_key(http: httpx.Client, request_body: Json) -> None:
    key = {"Idempotency-Key": new_id("k")}
    first = http.post("/v1/jobs", json=request_body, headers=key)
    again = http.post("/v1/jobs", json=request_body, headers=key)
    assert (first.status_code, first.json()["state"]) == (202, "queued")
    assert first.json()["queue_position"] >= 1
    assert again.json() == first.json()
    assert again.headers["idempotency-replayed"] == "true"
    other = http.post("/v1/jobs", json={**request_body, "name": "x"}, headers=key)
    problem(other, 422, "idempotency_key_reused", "Idempotency-Key")
    assert len(http.get("/v1/jobs").json()["items"]) == 1


def test_a_failed_request_does_not_burn_its_key(http: httpx.Client, request_body: Json) -> None:
    key = {"Idempotency-Key": new_id("k")}
    problem(http.post("/v1/jobs", json={**request_body, "recipe": "nope"}, headers=key), 422, "invalid_recipe", "recipe")
    assert http.post("/v1/jobs", json=request_body, headers=key).status_code == 202


def test_a_job_is_accepted_while_the_broker_is_down(database: Database, tmp_path: Path) -> None:
    with started(Service(tmp_path / "home", database, broker="redis://127.0.0.1:1/0")) as service:
        with service.client() as http:
            assert http.post("/v1/jobs", json=job_body(service, http)).status_code == 202
        wait_for(lambda: "wake_up_lost" in service.log("api"))


def test_preflight_stores_nothing(http: httpx.Client, request_body: Json) -> None:
    answer = http.post("/v1/jobs?validate_only=true", json=request_body)
    assert answer.status_code == 200
    assert answer.json()["shape"]["hidden"] == 256
    assert answer.json()["estimate"]["minutes"] > 0
    assert http.get("/v1/jobs").json()["items"] == []


def test_a_name_has_something_that_can_be_seen(http: httpx.Client, request_body: Json) -> None:
    problem(http.post("/v1/jobs", json={**request_body, "name": " \n\t"}), 422, "invalid_request", "name")
    assert http.post("/v1/jobs", json={**request_body, "name": " a b "}).json()["name"] == " a b "


def test_a_retention_in_percent_is_refused(http: httpx.Client, request_body: Json) -> None:
    refused = http.post("/v1/jobs?validate_only=true", json={**request_body, "targets": {"retention": 98}})
    assert "0.98" in problem(refused, 422, "invalid_request", "targets.retention")["remedy"]
    assert http.post("/v1/jobs?validate_only=true", json={**request_body, "targets": {"retention": 1.1}}).status_code == 200


@pytest.mark.parametrize("prune", [{"multiple": "auto"}, None])
def test_what_the_device_table_decides_is_left_open_in_a_request(
    prune: Json | None, http: httpx.Client, request_body: Json
) -> None:
    body = {**request_body, "recipe": {"quantize": {"scheme": "auto"}, "prune": prune, "artifacts": ["openvino-int8"]}}
    forecast = http.post("/v1/jobs?validate_only=true", json=body)
    assert forecast.status_code == 200, forecast.text
    usual = {**body, "recipe": {**body["recipe"], "quantize": {}, "prune": prune and {}}}
    assert forecast.json()["estimate"] == http.post("/v1/jobs?validate_only=true", json=usual).json()["estimate"]
    # A bound by a data sheet reads the scheme too.
    aimed = {**body, "targets": {"latency_ms": {"value": 1, "device": "H100-SXM"}}}
    assert "at best" in " ".join(http.post("/v1/jobs?validate_only=true", json=aimed).json()["warnings"])
    made = http.post("/v1/jobs", json=body)
    assert made.status_code == 202, made.text
    assert made.json()["recipe"]["quantize"]["scheme"] == "auto"


def test_a_preset_may_be_named_beside_the_keys_to_change_in_it(http: httpx.Client, request_body: Json) -> None:
    presets = {item["name"]: item["recipe"] for item in http.get("/v1/recipes").json()["items"]}
    asked = {"preset": "smallest", "prune": {"ratio": {"ffn": 0.5}}, "distill": {"general": None}, "train": {"seed": 3}}
    stored = http.post("/v1/jobs", json={**request_body, "recipe": asked}).json()["recipe"]
    expected = presets["smallest"]
    assert expected["prune"]["ratio"]["hidden"] == expected["prune"]["ratio"]["ffn"] == 0.75
    expected["prune"]["ratio"]["ffn"], expected["distill"]["general"], expected["train"]["seed"] = 0.5, None, 3
    assert stored == expected
    assert http.post("/v1/recipes/check", json=asked).json()["recipe"] == expected
    # A number in place of an object.
    assert http.post("/v1/recipes/check", json={**asked, "prune": {"ratio": 0.3}}).json()["recipe"]["prune"]["ratio"] == 0.3


@pytest.mark.parametrize(
    ("changes", "axes"),
    [
        ({"preset": "standard", "prune": {"ratio": {"layers": 0.5}}, "distill": None}, ["layers"]),  # an object for a number
        ({"preset": "smallest", "prune": {"ratio": {"layers": 0.5}}}, ["hidden", "heads", "ffn", "layers"]),
        ({"preset": "language", "prune": {"ratio": 0.3}}, ["ffn"]),
        ({"preset": "language", "prune": {"ratio": 0.3, "axes": ["layers"]}}, ["layers"]),
    ],
)
def test_axes_follow_from_a_ratio_that_names_them_anew(changes: Json, axes: list[str]) -> None:
    recipe = resolve_recipe(changes, ())
    assert list(recipe.prune.axes) == axes
    asked = changes["prune"]["ratio"]
    assert recipe.prune.ratios["layers"] == 0.5 if isinstance(asked, dict) else recipe.prune.ratio == asked
    assert recipe.prune.reconstruct
    assert (recipe.distill is None) == ("distill" in changes)


def test_a_language_model_is_foretold_as_a_classifier(service: Service, http: httpx.Client, request_body: Json) -> None:
    base, data = request_body["models"]["base"], request_body["datasets"][0]
    sql(service, "UPDATE models SET facts = %s WHERE id = %s", json.dumps(LLAMA_FACTS), base)
    cut = {"ratio": {"hidden": 0.2, "heads": 0.3, "ffn": 0.3}}
    found = http.post("/v1/jobs?validate_only=true", json={**request_body, "recipe": {"prune": cut}}).json()
    shape = found["shape"]
    assert (shape["hidden"], shape["heads"], shape["groups"], shape["ffn"]) == (480, 6, 2, 1088)
    assert found["baseline_parameters"]["total"] == 134515008 + 2 * 576
    layer = 480 * (2 * 6 * 64 + 2 * 2 * 64) + 3 * 480 * 1088 + 2 * 480
    assert found["parameters"]["total"] == 49152 * 480 + 30 * layer + 480 + 2 * 480
    wrong: list[tuple[Json, str, str]] = [
        ({"axes": ["experts"]}, "unsupported_shape", "recipe.prune.axes"),
        ({"importance": "bn_scale"}, "invalid_spec", "recipe.prune.importance"),
        ({"ratio": 0.99}, "unsupported_shape", "recipe.prune.ratio"),
    ]
    for settings, code, param in wrong:
        problem(http.post("/v1/jobs", json={**request_body, "recipe": {"prune": settings}}), 422, code, param)
    tags = {**DATA_FACTS, "task": "token-classification", "labels": ["O", "B-X"]}
    sql(service, "UPDATE datasets SET facts = %s, task = 'token-classification' WHERE id = %s", json.dumps(tags), data)
    problem(http.post("/v1/jobs", json=request_body), 422, "unsupported_task", "models.base")


BAD: tuple[tuple[Json, str, str], ...] = (
    ({"recipe": {"prune": {"ratoi": 0.3}}}, "invalid_recipe", "recipe.prune.ratoi"),
    ({"recipe": {"prune": {"ratio": 1.5}}}, "invalid_recipe", "recipe.prune.ratio"),
    ({"recipe": {"prune": {"ratio": 0.99}}}, "unsupported_shape", "recipe.prune.ratio"),
    ({"recipe": {"prune": {"ratio": {"layers": 1.5}}}}, "invalid_recipe", "recipe.prune.ratio.layers"),
    ({"recipe": {"prune": {"axes": ["ffn"], "target_params": 0.9}}}, "unsupported_shape", "recipe.prune.target_params"),
    ({"recipe": {"train": {"max_length": 4096}}}, "invalid_spec", "recipe.train.max_length"),
    ({"recipe": "slow"}, "invalid_recipe", "recipe"),
    ({"recipe": {"preset": "slow"}}, "invalid_recipe", "recipe.preset"),
    ({"recipe": {"preset": ["quick"]}}, "invalid_recipe", "recipe.preset"),
    ({"recipe": {"preset": "standard", "prune": {"ratoi": 0.3}}}, "invalid_recipe", "recipe.prune.ratoi"),
    ({"recipe": {"preset": "standard", "prune": 0.3}}, "invalid_recipe", "recipe.prune"),
    ({"recipe": {"preset": "standard", "deep": json.loads(900 * '{"a":' + "1" + 900 * "}")}}, "invalid_recipe", "recipe.deep"),
    ({"models": {"base": "mdl_none"}}, "not_found", "models.base"),
    ({"task": "image-classification"}, "invalid_request", "task"),
    ({"task": "text-regression"}, "invalid_request", "task"),
    ({"priority": 99}, "invalid_request", "priority"),
    ({"surprise": 1}, "invalid_request", "surprise"),
    ({"evaluate": {"length": 100_000}}, "invalid_request", "evaluate.length"),
    ({"evaluate": {"metric": "f2"}}, "invalid_request", "evaluate.metric"),
    ({"evaluate": {"metric": ["f2"]}}, "invalid_request", "evaluate.metric.0"),
    ({"evaluate": {"metric": ["f1", "auto"]}}, "invalid_spec", "evaluate.metric"),
    ({"evaluate": {"devices": ["pi"]}}, "invalid_request", "evaluate.devices.0"),
    ({"evaluate": {"devices": ["pi", "pi"]}}, "invalid_request", "evaluate"),
    ({"targets": {"latency_ms": {"device": "pi"}}}, "invalid_request", "targets.latency_ms.value"),
    ({"targets": {"quality_gate": {"max_drop": 1.5}}}, "invalid_request", "targets.quality_gate.max_drop"),
    ({"targets": {"quality_gate": {"max_drop": -0.1}}}, "invalid_request", "targets.quality_gate.max_drop"),
    ({"targets": {"quality_gate": {"confidence": 0.4}}}, "invalid_request", "targets.quality_gate.confidence"),
    ({"targets": {"quality_gate": {"confidence": 0.9999}}}, "invalid_request", "targets.quality_gate.confidence"),
    ({"targets": {"quality_gate": {"max_dorp": 0.01}}}, "invalid_request", "targets.quality_gate.max_dorp"),
    ({"evaluate": {"positive": ["maybe"]}}, "invalid_spec", "evaluate.positive.0"),
    ({"budget_minutes": 30}, "invalid_request", "budget_minutes"),
    ({"recipe": "auto", "budget_minutes": 0}, "invalid_request", "budget_minutes"),
    ({"recipe": {"preset": "auto", "auto": {"objective": "speed"}}}, "invalid_recipe", "recipe.auto.objective"),
    ({"recipe": {"preset": "auto", "prune": {"search": None}}}, "invalid_recipe", "recipe.prune.search"),
    ({"recipe": {"preset": "auto", "prune": {"target_latency": 4.0}}}, "invalid_recipe", "recipe.prune.target_latency"),
    ({"recipe": {"preset": "auto", "distill": None}}, "invalid_recipe", "recipe.distill"),
    ({"targets": {"quality_gate": {"max_drop": 0.01, "retention": 0.99}}}, "invalid_request", "targets.quality_gate"),
)


def test_bad_jobs_name_the_field(http: httpx.Client, request_body: Json) -> None:
    for change, code, param in BAD:
        answer = http.post("/v1/jobs", json={**request_body, **change})
        found = problem(answer, 404 if code == "not_found" else 422, code, param)
        assert ("there is no such key" in found["cause"]) == param.endswith(("ratoi", "deep", "surprise", "dorp"))
    for target in ("speed_up", "retention"):
        body = json.dumps({**request_body, "targets": {target: 0}}).replace(f'"{target}": 0', f'"{target}": 1e999')
        answer = http.post("/v1/jobs", content=body, headers={"Content-Type": "application/json"})
        problem(answer, 422, "invalid_request", f"targets.{target}")
    assert http.get("/v1/jobs").json()["items"] == []


SEARCHED = (
    ({"axes": ["ffn"], "target_params": 0.9}, {}, "target_out_of_reach", "prune.target_params"),
    ({"target_latency": {"speed_up": 2}}, {"quantize": {"scheme": "weight-only-int4"}}, "invalid_spec", "quantize.scheme"),
    ({"axes": ["layers"]}, {"distill": {"hidden": 1, "layers": [[2, 2]]}}, "invalid_spec", "distill.layers"),
)


def test_what_a_search_could_not_end_with_is_refused_with_the_nearest_point(http: httpx.Client, request_body: Json) -> None:
    for prune, keys, code, param in SEARCHED:
        recipe = {"quantize": None, "distill": None, **keys, "prune": {"search": "solver", **prune}}
        for path in ("/v1/jobs", "/v1/jobs?validate_only=true"):
            found = problem(http.post(path, json={**request_body, "recipe": recipe}), 422, code, f"recipe.{param}")
            assert ("cannot be reached; the nearest point has" in found["cause"]) == (code == "target_out_of_reach")
    assert http.get("/v1/jobs").json()["items"] == []


def test_a_model_that_is_not_ready_is_refused(service: Service, http: httpx.Client, request_body: Json) -> None:
    reasons = json.dumps([{"code": "unsafe_checkpoint", "cause": "it is a pickle"}])
    sql(service, "UPDATE models SET state = 'rejected', reasons = %s WHERE id = %s", reasons, request_body["models"]["base"])
    assert "it is a pickle" in problem(http.post("/v1/jobs", json=request_body), 409, "not_ready", "models.base")["cause"]


REGRESSION = {"task": "text-regression", "values": {"train": {"least": 0, "most": 5, "mean": 2}}}
NUMBERS = {**DATA_FACTS, **REGRESSION, "labels": [], "label_counts": {"train": {}}}


def test_a_job_names_several_datasets(service: Service, http: httpx.Client, request_body: Json) -> None:
    one, other = request_body["datasets"][0], ready_dataset(service, http)
    sql(service, "UPDATE datasets SET facts = %s, task = 'text-regression' WHERE id = %s", json.dumps(NUMBERS), other)
    evaluate = {"metric": ["accuracy_f1", "auto"], "positive": ["positive", None]}
    body = {**request_body, "datasets": [one, other], "evaluate": evaluate}

    def estimate(**changes: Any) -> Json:
        return http.post("/v1/jobs?validate_only=true", json={**request_body, **changes}).json()["estimate"]

    single, both = [estimate(datasets=[data]) for data in (one, other)], estimate(**body)
    assert both["minutes"] == pytest.approx(sum(estimate["minutes"] for estimate in single), abs=0.11)
    assert both["disk_bytes"] == sum(estimate["disk_bytes"] for estimate in single)
    assert both["memory_bytes"] == max(estimate["memory_bytes"] for estimate in single)
    made = http.post("/v1/jobs", json=body).json()
    shown = http.get(f"/v1/jobs/{made['id']}").json()
    assert (shown["task"], shown["datasets"], shown["parts"]) == ("several", [one, other], ["d", "d-2"])
    assert {key: shown["evaluate"][key] for key in evaluate} == evaluate
    assert made["id"] in problem(http.delete(f"/v1/datasets/{other}"), 409, "in_use")["cause"]
    http.post(f"/v1/jobs/{made['id']}/cancel")
    again = http.post(f"/v1/jobs/{made['id']}/retry").json()
    assert (again["datasets"], again["parts"], again["retry_of"]) == ([one, other], ["d", "d-2"], made["id"])
    assert again["evaluate"] == shown["evaluate"]
    http.post(f"/v1/jobs/{again['id']}/cancel")
    assert http.delete(f"/v1/datasets/{other}").status_code == 204
    problem(http.post(f"/v1/jobs/{made['id']}/retry"), 404, "not_found")


def test_of_several_datasets_the_wrong_one_is_named(service: Service, http: httpx.Client, request_body: Json) -> None:
    one, other = request_body["datasets"][0], ready_dataset(service, http)
    several = {**request_body, "datasets": [one, other]}
    problem(http.post("/v1/jobs", json={**several, "datasets": [one, "dat_none"]}), 404, "not_found", "datasets.1")
    problem(http.post("/v1/jobs", json={**several, "datasets": [one, one]}), 422, "invalid_request", "datasets.1")
    problem(http.post("/v1/jobs", json={**several, "datasets": [one] * 17}), 422, "invalid_request", "datasets")
    problem(http.post("/v1/jobs", json={**several, "task": "text-classification"}), 422, "invalid_request", "task")
    sql(service, "UPDATE datasets SET facts = %s, task = 'text-regression' WHERE id = %s", json.dumps(NUMBERS), other)
    for evaluate, param in (
        ({"metric": "matthews"}, "evaluate.metric"),
        ({"metric": ["matthews", "f1"]}, "evaluate.metric.1"),
        ({"positive": [None, "positive"]}, "evaluate.positive.1"),
        ({"metric": ["auto"]}, "evaluate.metric"),
        ({"positive": [None] * 3}, "evaluate.positive"),
    ):
        said = problem(http.post("/v1/jobs", json={**several, "evaluate": evaluate}), 422, "invalid_spec", param)
        own = "a list of" not in said["cause"]  # one that is too short or too long is no dataset's own mistake
        assert said["cause"].startswith("datasets.1 (d-2): text-regression has one headline metric") is own
    labelled = json.dumps({**DATA_FACTS, "labels": ["x", "y"]})
    sql(service, "UPDATE datasets SET facts = %s, task = 'text-classification' WHERE id = %s", labelled, other)
    headed = {**MODEL_FACTS, "architecture": "BertForSequenceClassification", "labels": ["negative", "positive"]}
    sql(service, "UPDATE models SET facts = %s WHERE id = %s", json.dumps(headed), request_body["models"]["base"])
    said = problem(http.post("/v1/jobs", json=several), 422, "label_mismatch", "datasets.1")
    assert said["cause"].startswith("datasets.1 (d-2): the model's head has the labels")
    sql(service, "UPDATE datasets SET state = 'validating' WHERE id = %s", other)
    problem(http.post("/v1/jobs", json=several), 409, "not_ready", "datasets.1")
    assert http.get("/v1/jobs").json()["items"] == []


def test_a_job_names_a_student_and_teachers(service: Service, http: httpx.Client, request_body: Json) -> None:
    base, student, one, other = request_body["models"]["base"], *(ready_model(service, http) for _ in range(3))
    tuned = json.dumps({**MODEL_FACTS, "architecture": "BertForSequenceClassification", "labels": ["positive", "negative"]})
    for teacher in (one, other):
        sql(service, "UPDATE models SET facts = %s WHERE id = %s", tuned, teacher)
    models = {"base": base, "student": student, "teachers": [one, other]}
    body = {**request_body, "models": models, "recipe": {"prune": None}}
    problem(http.post("/v1/jobs", json={**body, "recipe": "quick"}), 422, "invalid_spec", "recipe.prune")
    untaught = {**body, "recipe": {"prune": None, "distill": None}}
    problem(http.post("/v1/jobs", json=untaught), 422, "invalid_spec", "models.student")
    for named, code, param in (
        ({"teachers": [one, one]}, "invalid_request", "models.teachers.1"),
        ({"teachers": [one, student]}, "label_mismatch", "models.teachers.1"),
        ({"teachers": [one] * 9}, "invalid_request", "models.teachers"),
        ({"student": "mdl_none"}, "not_found", "models.student"),
    ):
        answer = http.post("/v1/jobs", json={**body, "models": {**models, **named}})
        problem(answer, 404 if code == "not_found" else 422, code, param)
    assert http.get("/v1/jobs").json()["items"] == []
    made = http.post("/v1/jobs", json=body).json()
    assert http.get(f"/v1/jobs/{made['id']}").json()["models"] == models
    for model in (base, student, other):
        assert made["id"] in problem(http.delete(f"/v1/models/{model}"), 409, "in_use")["cause"]
        assert [job["id"] for job in http.get(f"/v1/jobs?model={model}").json()["items"]] == [made["id"]]
    http.post(f"/v1/jobs/{made['id']}/cancel")
    again = http.post(f"/v1/jobs/{made['id']}/retry").json()
    assert (again["models"], again["retry_of"]) == (models, made["id"])
    http.post(f"/v1/jobs/{again['id']}/cancel")
    gone = http.delete(f"/v1/models/{other}")
    assert (gone.status_code, gone.headers.get("content-type")) == (204, None)
    problem(http.get(f"/v1/models/{other}"), 404, "not_found")
    problem(http.post(f"/v1/jobs/{made['id']}/retry"), 404, "not_found")
