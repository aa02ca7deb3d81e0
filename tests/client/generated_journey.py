"""A user's program that knows nothing but a client that openapi-python-client made of the OpenAPI document.

    python generated_journey.py URL KEY MODEL_FOLDER DATA_FOLDER RECIPE.json OUT

It signs in, uploads, submits, waits, reads an error and downloads, and prints what it found. The test that runs it is
test_generated.py.
"""

import hashlib
import io
import json
import sys
from pathlib import Path
from typing import Any

from lathe_api import AuthenticatedClient, models as bodies
from lathe_api.api.artifacts import artifacts_download
from lathe_api.api.datasets import datasets_complete, datasets_create, datasets_show, datasets_upload
from lathe_api.api.jobs import jobs_create, jobs_list, jobs_list_artifacts, jobs_list_events, jobs_report, jobs_show
from lathe_api.api.keys import keys_list
from lathe_api.api.models import models_complete, models_create, models_show, models_upload
from lathe_api.models import JobCreate, ManifestEntry, Problem
from lathe_api.types import File

MODELS = (models_upload, models_complete, models_show)
DATASETS = (datasets_upload, datasets_complete, datasets_show)


def manifest(folder: Path) -> list[ManifestEntry]:
    files = {path.name: path.read_bytes() for path in sorted(folder.iterdir()) if path.is_file()}
    return [ManifestEntry(path=name, size=len(data), sha256=hashlib.sha256(data).hexdigest()) for name, data in files.items()]


def until_ready(client: AuthenticatedClient, made: Any, folder: Path, ways: Any) -> str:
    upload, complete, show = ways
    for entry in made.files:
        sent = upload.sync(made.id, entry.path, client=client, body=File(io.BytesIO((folder / entry.path).read_bytes())))
        assert sent.uploaded, sent
    complete.sync(made.id, client=client)
    while (found := show.sync(made.id, client=client, prefer="wait=30")).state.value == "validating":
        pass
    assert found.state.value == "ready", found.reasons
    return str(made.id)


def main(url: str, key: str, model_folder: Path, data_folder: Path, recipe: Path, out: Path) -> dict[str, Any]:
    with AuthenticatedClient(base_url=url, token=key, timeout=70, raise_on_unexpected_status=True) as client:
        mine = [one.name for one in keys_list.sync(client=client).items if one.mine]
        made = models_create.sync(client=client, body=bodies.ModelCreate(name="tiny", files=manifest(model_folder)))
        model = until_ready(client, made, model_folder, MODELS)
        splits = bodies.DatasetCreateSplits.from_dict({path.stem: [path.name] for path in data_folder.iterdir()})
        body = bodies.DatasetCreate("reviews", bodies.DatasetCreateFormat.JSONL, splits, manifest(data_folder))
        dataset = until_ready(client, datasets_create.sync(client=client, body=body), data_folder, DATASETS)
        evaluate = bodies.JobEvaluate(length=32)
        asked = {"models": bodies.JobModels(base=model), "datasets": [dataset], "evaluate": evaluate}
        refused = jobs_create.sync_detailed(client=client, body=JobCreate(**asked, recipe="no such preset"))
        assert isinstance(refused.parsed, Problem), refused
        unknown = jobs_show.sync("job_none", client=client)
        assert isinstance(unknown, Problem), unknown
        wanted = JobCreate(**asked, recipe=bodies.JobCreateRecipeType1.from_dict(json.loads(recipe.read_text())))
        job = jobs_create.sync(client=client, body=wanted, idempotency_key="once")
        again = jobs_create.sync(client=client, body=wanted, idempotency_key="once")
        while job.state.value in ("queued", "running"):
            job = jobs_show.sync(job.id, client=client, prefer="wait=30", version=job.version)
        events = jobs_list_events.sync(job.id, client=client)
        report = jobs_report.sync(job.id, client=client)
        files = {}
        for artifact in jobs_list_artifacts.sync(job.id, client=client).items:
            for file in artifact.files:
                got = artifacts_download.sync_detailed(artifact.id, file.path, client=client)
                assert hashlib.sha256(got.content).hexdigest() == file.sha256
                assert got.parsed.payload.read() == got.content
                assert got.headers["etag"] == f'"{file.sha256}"'
                place = out / artifact.name / file.path
                place.parent.mkdir(parents=True, exist_ok=True)
                place.write_bytes(got.content)
                files[str(place.relative_to(out))] = file.size
        return {
            "mine": mine,
            "refused": [refused.status_code, refused.parsed.code, refused.parsed.param],
            "unknown": [unknown.status, unknown.code],
            "same": again.id == job.id,
            "jobs": [one.id for one in jobs_list.sync(client=client).items],
            "job": job.id,
            "state": job.state.value,
            "error": job.error.to_dict() if job.error else None,
            "stages": [row.stage for row in report.rows],
            "headline": report.headline,
            "events": [event.type_ for event in events.items],
            "files": files,
        }


if __name__ == "__main__":
    address, secret, *places = sys.argv[1:]
    sys.stdout.write(json.dumps(main(address, secret, *map(Path, places))))
