"""Work without steps of its own says that it goes on."""

from itertools import pairwise
from pathlib import Path

import pytest
import torch

from compression.engine import heartbeat
from compression.schema.events import Progress, Working, parse_event
from tests.support.engine_jobs import RECIPE, fork, write_spec


def test_a_sign_is_given_where_layers_are_called_and_not_more_often_than_it_may(monkeypatch: pytest.MonkeyPatch) -> None:
    now, given = [100.0], []
    monkeypatch.setattr(heartbeat, "time", type("Clock", (), {"monotonic": staticmethod(lambda: now[0])}))
    layer = torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.ReLU())
    with heartbeat.heartbeat(lambda: given.append(now[0])):
        for now[0] in (101.0, 109.9, 110.0, 110.5, 119.9, 121.0):
            layer(torch.ones(1, 2))
        for now[0] in (130.9, 131.0):
            heartbeat.beat()  # work without layers
    now[0] = 200.0
    layer(torch.ones(1, 2))
    heartbeat.beat()
    assert given == [110.0, 121.0, 131.0]


def test_a_cut_says_that_it_goes_on_while_it_looks_for_what_to_keep(
    tmp_path: Path, encoder: Path, reviews: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(heartbeat, "SECONDS", 0.0)  # a sign of life at each call of a layer
    recipe = {**RECIPE, "prepare": {"epochs": 0}, "quantize": None, "distill": None}
    spec = write_spec(tmp_path / "job", encoder, reviews, recipe=recipe)
    with (tmp_path / "events").open("wb") as out:
        assert fork(spec, stdout=out.fileno()).wait() == 0
    told = [parse_event.validate_json(line) for line in (tmp_path / "events").read_text().splitlines()]
    steps = [number for number, one in enumerate(told) if isinstance(one, Progress) and one.phase == "cut"]
    first, last = next((a, b) for a, b in pairwise(steps))
    assert sum(isinstance(one, Working) for one in told[first:last]) > 10
