"""Keys that recipes no longer have: sent anew they are refused by name with the remedy; stored ones load and show."""

import json

import httpx
import pytest

from compression.schema.recipe.recipe import Recipe
from tests.app.api.conftest import Json, problem, sql
from tests.app.api.finished import end_well
from tests.app.api.test_report_page import page_of
from tests.client.figures import report
from tests.conftest import Service

OLD: Json = {**Recipe().model_dump(mode="json"), "remedy": "apply"}
OLD["distill"] = {**OLD["distill"], "gate": {"steps": 50}}


@pytest.mark.parametrize(
    ("recipe", "param"), [({"distill": {"gate": {"steps": 50}}}, "recipe.distill.gate"), ({"remedy": "apply"}, "recipe.remedy")]
)
def test_sent_anew_they_are_refused_by_name(http: httpx.Client, request_body: Json, recipe: Json, param: str) -> None:
    for path, body in (
        ("/v1/recipes/check", recipe),
        ("/v1/jobs", {**request_body, "recipe": {**recipe, "preset": "quick"}}),
        ("/v1/jobs?validate_only=true", {**request_body, "recipe": recipe}),
    ):
        found = problem(http.post(path, json=body), 422, "invalid_spec", param)
        assert found["cause"] == f"{param} has been removed"
        assert found["remedy"].startswith("Leave it out.")


def test_values_that_asked_for_nothing_are_left_out(http: httpx.Client) -> None:
    found = http.post("/v1/recipes/check", json={"distill": {"gate": None}, "remedy": "report"})
    assert found.status_code == 200, found.text
    assert found.json()["recipe"] == Recipe().model_dump(mode="json")


def test_stored_ones_show_and_are_sent_again_without_them(service: Service, http: httpx.Client, request_body: Json) -> None:
    job = str(http.post("/v1/jobs", json=request_body).json()["id"])
    sql(service, "UPDATE jobs SET recipe = %s WHERE id = %s", json.dumps(OLD), job)
    end_well(service, job, report(recipe=Recipe.model_validate(OLD)).model_dump_json())
    shown = http.get(f"/v1/jobs/{job}").json()
    assert shown["recipe"] == OLD
    told = http.get(f"/v1/jobs/{job}/report").json()["recipe"]
    assert (told["distill"]["gate"], told["remedy"]) == ({"steps": 50}, "apply")
    page = page_of(http, job).text
    assert '"steps": 50' in page
    assert '"remedy": "apply"' in page
    problem(http.post(f"/v1/jobs/{job}/retry"), 422, "invalid_spec", "recipe.distill.gate")
    assert {one["key"] for one in shown["remedies"]} == {"recipe.distill.gate", "recipe.remedy"}
    again = http.post(f"/v1/jobs/{job}/retry", json={"remedies": "all"})
    assert again.status_code == 202, again.text
    assert again.json()["recipe"] == Recipe().model_dump(mode="json")
