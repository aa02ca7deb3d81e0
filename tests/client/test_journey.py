"""From two local folders to a checked download, with nothing but the commands that the README names."""

import hashlib
import json
from pathlib import Path

from tests.client.embedded import Up
from tests.support.examples import TINY_RECIPE, tiny_model, write_splits


def test_a_job_travels_from_folders_to_a_download(up: Up, tmp_path: Path) -> None:
    model, data = tiny_model(tmp_path / "tiny"), write_splits(tmp_path / "data")
    recipe = tmp_path / "recipe.json"
    recipe.write_text(json.dumps({**TINY_RECIPE, "quantize": None}))

    here = ("--model", str(model), "--data", str(data), "--recipe", str(recipe))
    done = up.lathe("submit", *here, "--evaluate", "length=32", "--label", "kind=test", "--wait")
    assert done.returncode == 0, done.stdout + done.stderr
    for stage in ("baseline", "pruned", "distilled"):
        assert f"{stage} done" in done.stderr
        assert stage in done.stdout

    (job,) = json.loads(up.lathe("ls", "--label", "kind=test", "--json").stdout)
    report = json.loads(up.lathe("report", job["id"], "--json").stdout)
    first, last = report["rows"][0], report["rows"][-1]
    assert last["parameters"]["total"] < first["parameters"]["total"]
    assert last["size"]["bytes"] < first["size"]["bytes"]

    got = json.loads(up.lathe("download", job["id"], "--all", "--out", str(tmp_path / "out"), "--json").stdout)
    assert {item["name"] for item in got["artifacts"]} == {item["name"] for item in report["artifacts"]}
    for item in got["artifacts"]:
        for file in item["files"]:
            found = (Path(item["folder"]) / file["path"]).read_bytes()
            assert hashlib.sha256(found).hexdigest() == file["sha256"]
    best = json.loads(up.lathe("download", job["id"], "--kind", "onnx", "--out", str(tmp_path / "best"), "--json").stdout)
    assert [item["name"] for item in best["artifacts"]] == [report["headline"]]

    events = [json.loads(line) for line in up.lathe("logs", job["id"], "-f", "--json").stdout.splitlines()]
    assert (events[0]["type"], events[-1]["type"]) == ("queued", "succeeded")
    assert [event["seq"] for event in events] == list(range(1, len(events) + 1))
