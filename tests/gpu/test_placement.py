"""The scenarios of tests/compression/engine/test_placement.py on a card: the same stages, in the precision that it has."""

from pathlib import Path

import pytest
import torch

from compression.distillation import teacher
from tests.compression.training.conftest import Listener, listener  # noqa: F401 (a fixture)
from tests.support import placement

SCENARIOS = placement.scenarios()
TOLERANCE = 1e-2
"""Of a weight after a training that was taken up on a card, against one that was not: kernels of a card may add in another
order each time, and an Adam step that follows a tiny gradient has its rate's size, 1e-3, whatever the gradient's."""


@pytest.fixture(autouse=True)
def usual_attention(monkeypatch: pytest.MonkeyPatch) -> None:
    """Take the kernels of attention that jobs have on a card."""
    monkeypatch.setattr(placement, "ATTENTION", "sdpa")


@pytest.mark.parametrize("name", SCENARIOS)
def test_all_stages_stay_on_the_card(name: str, card: torch.device, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if name.endswith("asked"):
        monkeypatch.setattr(teacher, "TEACHER_BYTES", 0)
    opened, recipe = SCENARIOS[name]
    state = opened(card, recipe)
    before = sum(parameter.numel() for parameter in state.model.parameters())
    for done in placement.run(state, tmp_path):
        assert not placement.misplaced(done, card)
        assert all(value.isfinite().all() for value in done.model.parameters())
    assert sum(parameter.numel() for parameter in state.model.parameters()) < before


@pytest.mark.parametrize(("name", "place"), [*(("encoder cached", place) for place in range(4)), ("decoder cached", 3)])
def test_a_training_is_saved_and_taken_up_on_the_card(
    name: str,
    place: int,
    card: torch.device,
    tmp_path: Path,
    listener: Listener,  # noqa: F811
) -> None:
    opened, recipe = SCENARIOS[name]
    before = opened(card, recipe)
    _, found, expected = placement.taken_up(before, place, tmp_path, listener)
    assert all((found[key].float() - expected[key].float()).abs().max() < TOLERANCE for key in expected)


def test_several_teachers_come_to_the_card_in_turns(card: torch.device) -> None:
    state = placement.seeds_of(placement.trained_on(card))
    list(placement.distill(state))
    assert not placement.misplaced(state, card)
