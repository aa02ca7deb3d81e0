"""What an engine writes is stored as it was hashed, within bounds, whatever the engine does to it meanwhile."""

import hashlib
from pathlib import Path
from typing import cast

import pytest

from app.db import writing
from app.settings import Settings
from app.storage import LocalStorage, Source
from compression import report as told
from tests.rows import submitted
from tests.workers.test_several import Telling, claimed, file
from workers.engine import Engine
from workers.folders import Untrustworthy
from workers.lease import Lease
from workers.watch import Watch

pytestmark = pytest.mark.parametrize("database", ["sqlite"], indirect=True)


class Meddled(LocalStorage):
    """A storage in which the engine writes to its file once that was opened and looked at, and before it is copied."""

    def __init__(self, root: Path, place: Path, data: bytes) -> None:
        super().__init__(root)
        self.place, self.data = place, data

    def put_file(self, key: str, source: Source) -> None:
        with self.place.open("r+b") as out:  # the same file, not another of its name
            out.write(self.data)
        super().put_file(key, source)


def saved(*files: told.File) -> told.TrainingSaved:
    return told.TrainingSaved(stage="baseline", phase="tune", step=1, total=2, folder="training-1", files=files)


@pytest.mark.parametrize("data", [b"lies", b"weights and no end"], ids=["changed", "longer"])
def test_a_file_that_changes_under_the_copy_is_not_stored(data: bytes, settings: Settings, tmp_path: Path) -> None:
    with writing() as session:
        submitted(session)
    claim = claimed(settings, tmp_path / "1")
    promised = file(tmp_path / "1/out/checkpoints/training-1", "state", b"weights")
    place = tmp_path / "1/out/checkpoints/training-1/state"
    storage = Meddled(tmp_path / "store", place, data)
    lease, engine = Lease(claim, settings, on_lost=lambda: None), cast("Engine", Telling(saved(promised)))
    with pytest.raises(Untrustworthy, match="not the file"):
        Watch(claim, tmp_path / "1", storage, lease, engine, settings).follow()
    assert hashlib.sha256(place.read_bytes()).hexdigest() != promised.sha256
    assert [path for path in (tmp_path / "store").rglob("*") if path.is_file()] == []
