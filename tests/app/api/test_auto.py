"""A job that finds its size: its budget, its gate, and a forecast that keeps to the budget."""

import httpx
import pytest

from tests.app.api.conftest import Json

SMALL = {"preset": "auto", "prune": {"multiple": 8}}


def forecast(http: httpx.Client, body: Json) -> Json:
    answer = http.post("/v1/jobs?validate_only=true", json=body)
    assert answer.status_code == 200, answer.text
    found: Json = answer.json()
    return found


def test_the_budget_of_a_request_is_the_recipe_s_and_the_target_s_gate_is_stored(
    http: httpx.Client, request_body: Json
) -> None:
    body = {**request_body, "recipe": SMALL, "targets": {"retention": 0.97}, "budget_minutes": 12}
    made = http.post("/v1/jobs", json=body)
    assert made.status_code == 202, made.text
    job = http.get(f"/v1/jobs/{made.json()['id']}").json()
    assert job["recipe"]["auto"]["budget_minutes"] == 12
    assert job["recipe"]["prune"]["search"] == "solver"
    assert job["targets"]["quality_gate"] == {"retention": 0.97, "confidence": 0.95}
    own = {**body, "targets": {"quality_gate": {"max_drop": 0.02}}}
    job = http.get(f"/v1/jobs/{http.post('/v1/jobs', json=own).json()['id']}").json()
    assert job["targets"]["quality_gate"] == {"max_drop": 0.02, "confidence": 0.95}


def test_the_forecast_keeps_to_the_budget_and_says_if_nothing_is_left_for_the_search(
    http: httpx.Client, request_body: Json
) -> None:
    whole = forecast(http, {**request_body, "recipe": SMALL, "budget_minutes": 100_000})["estimate"]
    budget = whole["minutes"] - whole["training_minutes"] / 4
    less = forecast(http, {**request_body, "recipe": SMALL, "budget_minutes": budget})
    assert abs(less["estimate"]["minutes"] - budget) <= 0.1
    assert not [warning for warning in less["warnings"] if "auto.budget_minutes" in warning]
    little = forecast(http, {**request_body, "recipe": SMALL, "budget_minutes": 0.1})
    (warning,) = [warning for warning in little["warnings"] if "there are 0.1 (auto.budget_minutes" in warning]
    assert "no size is tried" in warning
    assert little["estimate"]["minutes"] < less["estimate"]["minutes"]


def test_a_target_that_one_row_misses_is_warned_of(http: httpx.Client, request_body: Json) -> None:
    found = forecast(http, {**request_body, "recipe": SMALL, "targets": {"retention": 0.99999}})
    assert [warning for warning in found["warnings"] if "weighs more than the target allows to lose" in warning]


@pytest.mark.parametrize(
    ("change", "param"),
    [({"prune": {"search": None}}, "recipe.prune.search"), ({"train": {"max_steps": 600}}, "recipe.train.max_steps")],
)
def test_what_leaves_nothing_to_search_for_is_refused_with_its_key(
    http: httpx.Client, request_body: Json, change: Json, param: str
) -> None:
    answer = http.post("/v1/jobs", json={**request_body, "recipe": {"preset": "auto", **change}})
    assert (answer.status_code, answer.json()["code"], answer.json()["param"]) == (422, "invalid_recipe", param)
    assert answer.json()["cause"].startswith(f"{param.removeprefix('recipe.')}: ")


def test_targets_that_the_search_does_not_read_are_warned_of(http: httpx.Client, request_body: Json) -> None:
    found = forecast(http, {**request_body, "recipe": SMALL, "targets": {"parameters": 5e6}})
    (warning,) = [warning for warning in found["warnings"] if "by targets.retention" in warning]
    assert "'targets.parameters'" in warning
    assert not [warning for warning in forecast(http, {**request_body, "recipe": SMALL})["warnings"] if "alone" in warning]
