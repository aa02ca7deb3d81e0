"""A job of several sizes over HTTP: what it is forecast to take, what is refused with its key, and its rows on the page."""

import httpx
import pytest

from tests.app.api.conftest import Json

PRUNE: Json = {"search": "solver", "points": 3, "target_params": 0.3, "multiple": 8, "reconstruct": False}
SIZES: Json = {"preset": "standard", "prune": PRUNE}


def recipe(**change: Json | None) -> Json:
    return {**SIZES, **change, "prune": {**SIZES["prune"], **(change.get("prune") or {})}}


def test_a_job_of_several_sizes_is_forecast_to_take_longer_and_its_page_awaits_their_rows(
    http: httpx.Client, browser: httpx.Client, request_body: Json
) -> None:
    def minutes(points: int) -> float:
        body = {**request_body, "recipe": recipe(prune={"points": points})}
        answer = http.post("/v1/jobs?validate_only=true", json=body)
        assert answer.status_code == 200, answer.text
        return float(answer.json()["estimate"]["minutes"])

    assert minutes(3) > minutes(2) > minutes(1)
    made = http.post("/v1/jobs", json={**request_body, "recipe": SIZES})
    assert made.status_code == 202, made.text
    job = made.json()["id"]
    assert http.get(f"/v1/jobs/{job}").json()["recipe"]["prune"]["points"] == 3
    page = browser.get(f"/jobs/{job}").text
    assert "Point 2" in page
    assert "Point 3" in page
    assert "Point 4" not in page
    plain = http.post("/v1/jobs", json=request_body).json()["id"]
    assert "Point 2" not in browser.get(f"/jobs/{plain}").text


@pytest.mark.parametrize(
    ("change", "param"),
    [
        ({"auto": {}, "prune": {"target_params": None}}, "recipe.prune.points"),
        ({"distill": None}, "recipe.prune.points"),
        ({"prune": {"recovery": {"epochs": 2}}}, "recipe.prune.recovery"),
        ({"train": {"max_steps": 600}}, "recipe.train.max_steps"),
        ({"prune": {"search": "tpe"}}, "recipe.prune.points"),
    ],
)
def test_what_several_sizes_cannot_be_made_by_is_refused_with_its_key(
    http: httpx.Client, request_body: Json, change: Json, param: str
) -> None:
    answer = http.post("/v1/jobs", json={**request_body, "recipe": recipe(**change)})
    assert (answer.status_code, answer.json()["code"], answer.json()["param"]) == (422, "invalid_recipe", param)
