"""What is fetched for longer than a lease lasts stays with who fetches it, and is let go of where another has it."""

import io
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select, update

from app.core.settings import Settings
from app.jobs import predictions
from app.store import resources
from app.store.clock import now
from app.store.db import reading, writing
from app.store.models import File, Model, Prediction, Team
from app.store.storage import LocalStorage
from compression.schema.prediction_request import Question
from tests.workers.test_answers import asked
from workers import checks, engine
from workers.predictions import predict_next

REASON = {"code": "c", "cause": "a", "remedy": "r"}
SAYS = f"from compression.schema.validation import Rejected; print(Rejected(reasons=({REASON!r},)).model_dump_json())"
LEASES: dict[type[Any], Any] = {Model: Model.check_lease_until, Prediction: Prediction.lease_until}


def claimed(kind: type[Any]) -> bool:
    """Let another worker look for such work."""
    with writing() as session:
        return (resources.claim_check(session, 60) if kind is Model else predictions.claim(session, 60)) is not None


class Slow(LocalStorage):
    """A storage that takes as long for each piece as the lease lasts: `late` is done before it is there, `then` after."""

    def __init__(
        self, root: Path, kind: type[Any], *, late: Callable[[], None] = lambda: None, then: Callable[[], None] = lambda: None
    ) -> None:
        super().__init__(root)
        self.kind, self.late, self.then, self.pieces = kind, late, then, 0

    def read(self, key: str, start: int, size: int) -> Iterator[bytes]:
        for byte in b"".join(super().read(key, start, size)):
            with writing() as session:
                session.execute(update(self.kind).values({LEASES[self.kind].key: now(-1)}))
            self.late()
            self.pieces += 1
            yield bytes([byte])
            self.then()


def waits(kind: type[Any], storage: LocalStorage) -> str:
    """Store an upload that waits for its check, or a question that waits for its answer."""
    if kind is Prediction:
        return asked(storage, Question(text="good"))
    storage.put_file("uploads/x", io.BytesIO(b"four"))
    with writing() as session:
        file = File(path="config.json", size=4, sha256="0" * 64, key="uploads/x")
        model = Model(team_id=session.scalars(select(Team.id)).one(), name="m", state=resources.VALIDATING, files=[file])
        session.add(model)
    return model.id


def work(kind: type[Any], settings: Settings, storage: LocalStorage) -> None:
    assert (checks.check_next if kind is Model else predict_next)(settings, storage)


@pytest.mark.parametrize("kind", [Model, Prediction])
@pytest.mark.parametrize("often", [True, False])
def test_a_lease_outlives_the_fetching_and_covers_the_child(
    kind: type[Any], often: bool, settings: Settings, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    others, covered = list[bool](), list[bool]()
    storage = Slow(tmp_path / "store", kind, then=lambda: others.append(often and claimed(kind)))
    waits(kind, storage)

    def command(*_: object) -> list[str]:
        child = settings.validation_seconds if kind is Model else settings.answer_seconds
        with reading() as session:
            covered.append(bool(session.scalar(select(LEASES[kind] > now(child)))))
        return [sys.executable, "-c", SAYS]

    monkeypatch.setattr(engine, "engine_command", command)
    # Where the next beat is far, all is renewed before the child begins.
    work(kind, settings.model_copy(update={"heartbeat_seconds": 0.0 if often else 1e9}), storage)
    assert storage.pieces >= 4
    assert (any(others), covered) == (False, [True])


@pytest.mark.parametrize("kind", [Model, Prediction])
def test_what_others_took_is_left(kind: type[Any], settings: Settings, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    taken = list[bool]()
    storage = Slow(tmp_path / "store", kind, late=lambda: taken.append(claimed(kind)))
    row = waits(kind, storage)
    monkeypatch.setattr(engine, "engine_command", lambda *_: pytest.fail("the other's child checks it"))
    work(kind, settings.model_copy(update={"heartbeat_seconds": 0.0}), storage)
    assert taken == [True]
    assert list(settings.scratch.glob("*_*")) == []
    with reading() as session:
        found = session.get_one(kind, row)
        assert found.state == (resources.VALIDATING if kind is Model else "running")
        assert getattr(found, "check_attempts" if kind is Model else "attempt") == 2
