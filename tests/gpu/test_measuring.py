"""Measuring on a card: events, memory, clocks, and a row of each runtime that is installed."""

from pathlib import Path

import torch

from compression.evaluation.on_card.measure import CardSpec, TimedModel, measure_card
from compression.evaluation.on_card.timing import EVENTS, by_clock, by_events, repeat
from tests.support import tiny_language


def test_events_tell_the_time_of_kernels(card: torch.device) -> None:
    large = torch.randn(4096, 4096, device=card)

    def product() -> object:
        return large @ large

    found = min(repeat(product, by_events, seconds=0.2))
    flops = 2 * 4096**3 / found * 1000
    assert 1e11 < flops < 1e16
    assert found > 0.9 * by_clock(lambda: None)


def test_a_language_model_has_its_rows(card: torch.device, tmp_path: Path) -> None:
    tiny_language.model("llama").save_pretrained(tmp_path / "model")
    spec = CardSpec(
        task="causal-lm",
        models=(TimedModel(stage="baseline", folder=str(tmp_path / "model")),),
        batches=(1, 2),
        length=16,
        seconds=0.1,
    )
    *_, found = measure_card(spec)
    plain = next(row for row in found.rows if row.runtime == "PyTorch bfloat16")
    assert plain.timed_by == EVENTS
    assert [figures.batch for figures in plain.figures] == [1, 2]
    for figures in plain.figures:
        assert figures.peak_bytes
        assert figures.decode_ms is not None
    assert all(row.figures or row.not_measured for row in found.rows)
    assert found.before.sm_mhz or found.before.missing
