"""A home that an older release left is opened by this one: what was finished stays, what was interrupted goes on.

`tests/golden/home-66328f8.tar.xz` is what `lathe up` of commit 66328f8 left of two tiny jobs when every process of it was
killed while the second one distilled; its logs, its scratch folder and Valkey's are not in it.
"""

import contextlib
import json
import sqlite3
import tarfile
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
from tokenizers import Tokenizer

from tests.client.embedded import Up, running
from tests.conftest import ROOT

LEFT = ROOT / "tests/golden/home-66328f8.tar.xz"


def jobs(up: Up) -> dict[str, dict[str, object]]:
    return {job["name"]: job for job in json.loads(up.lathe("ls", "--json").stdout)}


@pytest.fixture
def home(tmp_path: Path) -> Path:
    with tarfile.open(LEFT) as left:
        left.extractall(tmp_path / "home", filter="data")
    with contextlib.closing(sqlite3.connect(tmp_path / "home" / "lathe.db")) as database, database:
        (final,) = database.execute("SELECT sql FROM sqlite_master WHERE name = 'jobs_outcome_is_final'").fetchone()
        database.execute("DROP TRIGGER jobs_outcome_is_final")
        for column, place in (("recipe", "$"), ("report", "$.recipe")):  # keys that recipes have no more
            database.execute(
                f"UPDATE jobs SET {column} = json_set({column}, '{place}.distill.gate', json('{{\"steps\":50}}'), "
                f"'{place}.remedy', 'apply') WHERE name = 'finished'"
            )
        # Its hundred epochs begin anew, as what was saved of them is not there, and prove no more than three.
        database.execute("UPDATE jobs SET recipe = json_set(recipe, '$.distill.epochs', 3) WHERE name = 'interrupted'")
        database.execute(final)
    return tmp_path / "home"


def test_a_home_of_an_older_release_opens_and_its_jobs_end_well(home: Path, tmp_path: Path) -> None:
    with running(home) as up:
        before = jobs(up)
        assert before["finished"]["state"] == "succeeded"
        for command in ("show", "report"):
            recipe = json.loads(up.lathe(command, str(before["finished"]["id"]), "--json").stdout)["recipe"]
            assert (recipe["distill"]["gate"], recipe["remedy"]) == ({"steps": 50}, "apply")
        again = up.lathe("retry", str(before["finished"]["id"]), "--json")
        assert json.loads(again.stdout)["error"]["cause"] == "recipe.distill.gate has been removed"
        got = up.lathe("download", str(before["finished"]["id"]), "--out", str(tmp_path / "out"))
        assert got.returncode == 0, got.stderr
        folder = next(tmp_path.glob("out/**/model.onnx")).parent
        encoded = Tokenizer.from_file(str(folder / "tokenizer.json")).encode("a great film")
        feed = {"input_ids": encoded.ids, "attention_mask": encoded.attention_mask, "token_type_ids": encoded.type_ids}
        session = onnxruntime.InferenceSession(folder / "model.onnx")
        logits = session.run(None, {name: np.array([value], dtype=np.int64) for name, value in feed.items()})[0]
        assert logits.shape == (1, 2)

        ended = up.lathe("wait", str(before["interrupted"]["id"]), "--timeout", "400")
        assert ended.returncode == 0, ended.stderr
        shown = json.loads(up.lathe("show", str(before["interrupted"]["id"]), "--json").stdout)
        assert [row["stage"] for row in shown["rows"]] == ["baseline", "quantized", "pruned", "distilled"]
        assert shown["attempt"] > 1
