"""A network of images whose worker and engine die in every stage: what it ends with is what an undisturbed job ends with."""

from pathlib import Path
from typing import Any

import pytest

from compression.schema.stages import wanted
from tests.faults.conftest import SQLITE, Stand
from tests.support.examples import send_data, send_model
from tests.support.image_uploads import NETWORK_RECIPE, OF_IMAGES, image_splits, tiny_network

IN_STAGES = tuple(f"worker_in_{stage}" for stage in wanted(NETWORK_RECIPE))
Figures = dict[str, Any]


@pytest.fixture
def uploads(stand: Stand, tmp_path: Path) -> Figures:
    """The body of a job on a network and images that the stand has."""
    stand.service.start_workers("checks")
    model, data = send_model(stand.http, tiny_network(tmp_path / "network")), send_data(stand.http, image_splits(), **OF_IMAGES)
    assert (model["state"], data["state"]) == ("ready", "ready"), (model["reasons"], data["reasons"])
    stand.service.kill("checks")
    del stand.service.processes["checks"]
    return {"models": {"base": model["id"]}, "datasets": [data["id"]], "evaluate": {}}


def outcome(stand: Stand, job_id: str) -> tuple[dict[str, str], list[Figures]]:
    """Return the digest of each file of weights, and of each row what does not depend on the clock."""
    artifacts = stand.http.get(f"/v1/jobs/{job_id}/artifacts").json()["items"]
    digests = {one["name"]: file["sha256"] for one in artifacts for file in one["files"] if file["path"] == "model.onnx"}
    rows = stand.http.get(f"/v1/jobs/{job_id}/report").json()["rows"]
    return digests, [{key: row[key] for key in ("stage", "shape", "parameters", "validation", "score")} for row in rows]


@SQLITE
def test_a_job_on_images_that_dies_in_every_stage_ends_as_one_that_does_not(stand: Stand, uploads: Figures) -> None:
    calm = stand.start_worker()
    undisturbed = stand.job(NETWORK_RECIPE, **uploads)
    stand.over(undisturbed)
    stand.service.kill(calm)
    settings, marks = stand.crash_at(*IN_STAGES, "worker_training_saved")
    stand.start_worker(**settings, LATHE_SAVE_SECONDS="0.05")
    disturbed = stand.job(NETWORK_RECIPE, **uploads)
    assert stand.over(disturbed)["attempt"] > len(IN_STAGES)
    assert [mark.name for mark in marks if not mark.exists()] == []
    digests, rows = outcome(stand, disturbed)
    assert len(digests) == len(rows) == 4
    assert (digests, rows) == outcome(stand, undisturbed)
    stand.nothing_runs()
    stand.bytes_are_those_of_rows()
