"""Bars of stages: a latency was measured in turns with the baseline, and is drawn against that."""

import pytest

from app.pages.dashboard.figures import pictures
from tests.client.figures import changed, report


def test_a_latency_is_drawn_against_the_baseline_of_its_own_turns() -> None:
    first, *_, last = report().rows
    # A tiny model: the baseline took 0.4 ms by itself, and 0.8 beside a stage that is twice as fast.
    rows = [changed(first, "latency", median_ms=0.4, baseline_median_ms=0.4)]
    rows.append(changed(last, "latency", median_ms=0.4, baseline_median_ms=0.8))
    (bars,) = (picture.bars for picture in pictures(rows) if picture.title == "Latency")
    assert [bar.share for bar in bars] == pytest.approx([1.0, 0.5])
    assert bars[1].text == "0.4 ms of 0.8 ms"
