"""A job of several sizes, over HTTP with real workers: every size is downloaded, and the page says which is recommended."""

import json
from pathlib import Path

import httpx
import pytest

from tests.conftest import Service
from tests.support.examples import TINY_RECIPE, send_data, send_model, tiny_model, tiny_splits
from tests.workers.test_whole import ONCE, download, finished, stock_labels

PRUNE = {**TINY_RECIPE["prune"], "search": "solver", "points": 2, "axes": ["ffn"]}


@ONCE
def test_each_size_of_a_job_is_a_download_with_the_score_of_its_row(
    service: Service, http: httpx.Client, tmp_path: Path
) -> None:
    service.start_workers("jobs")
    files = tiny_splits()
    model, dataset = send_model(http, tiny_model(tmp_path / "model")), send_data(http, files)
    body = {"models": {"base": model["id"]}, "datasets": [dataset["id"]], "evaluate": {"length": 8}}
    answer = http.post(
        "/v1/jobs", json={**body, "recipe": {**TINY_RECIPE, "prune": PRUNE, "artifacts": []}, "targets": {"retention": 0.6}}
    )
    assert answer.status_code == 202, answer.text
    done = finished(http, answer.json()["id"])
    assert done["state"] == "succeeded", (done["error"], service.log("jobs"))
    rows = {row["stage"]: row for row in done["rows"]}
    assert [*rows] == ["baseline", "quantized", "pruned", "distilled", "point2"]
    report = http.get(f"/v1/jobs/{done['id']}/report").json()
    assert report["front"]["stages"] == ["distilled", "point2"]
    artifacts = {one["name"]: one for one in http.get(f"/v1/jobs/{done['id']}/artifacts").json()["items"]}
    test = [json.loads(line) for line in files["test.jsonl"].decode().splitlines()]
    for stage in report["front"]["stages"]:
        row = rows[stage]
        folder = download(http, artifacts[row["artifact"]], tmp_path / stage)
        answers = stock_labels(folder, [one["text"] for one in test])
        right = sum(given == one["label"] for given, one in zip(answers, test, strict=True))
        assert right / len(test) == pytest.approx(row["score"]["value"], abs=1e-9)
    page = http.get(f"/v1/jobs/{done['id']}/report.html").text
    assert "Size against score" in page
    assert report["front"]["why"] in page
    solved = http.post(f"/v1/jobs/{done['id']}/targets", json={"target_params": 0.2})
    assert solved.status_code == 200, solved.text
