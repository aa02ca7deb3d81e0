"""The list of workers says what each of them is at, and of one that rests until when and why."""

import datetime as dt
from typing import Any

import pytest

from client.commands.service import workers
from client.types import Worker

UNTIL = dt.datetime(2126, 1, 1, 0, 10, tzinfo=dt.UTC)


class Fleet:
    def __init__(self, **facts: Any) -> None:
        self.one = Worker(id="wkr_one", kind="jobs", **facts)

    def workers(self) -> list[Worker]:
        return [self.one]


@pytest.mark.parametrize(
    ("facts", "state"),
    [
        ({"alive": True}, "alive"),
        ({"alive": True, "drain": True, "rests_until": UNTIL}, "draining"),
        ({"rests_until": UNTIL}, "lost"),
        ({"alive": True, "rests_until": UNTIL}, "rests until 00:10:00 UTC"),
        ({"alive": True, "rests_until": UNTIL, "rest_reason": "disk full"}, "rests until 00:10:00 UTC: disk full"),
    ],
)
def test_each_worker_has_its_state(facts: dict[str, Any], state: str, capsys: pytest.CaptureFixture[str]) -> None:
    workers(Fleet(**facts))  # type: ignore[arg-type]  # of the client it asks for its workers alone
    assert f" {state} " in " ".join(capsys.readouterr().out.split())
