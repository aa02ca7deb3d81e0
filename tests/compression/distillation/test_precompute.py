"""Teachers and artifacts are asked step by step: a job's events tell how far that is; a pause is heeded between a teacher's."""

from collections.abc import Iterable
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from compression.engine.pipeline import compress
from compression.engine.stages import general_distillation
from compression.engine.stages.registry import LAST, SHIP
from compression.engine.stages.teacher_ensemble import ASK
from compression.schema.events import Event, Progress
from compression.schema.recipe.distill import Distill
from compression.schema.recipe.recipe import Recipe, Train
from compression.system import progress
from compression.system.interrupts import Pause
from tests.compression.quantization import test_frozen_int8 as test_held
from tests.support.engine_jobs import RECIPE, spec_of
from tests.support.stage_runs import distill
from tests.support.tiny_language import model

BRIEF: dict[str, Any] = {**RECIPE, "prepare": {"epochs": 0}, "quantize": None, "prune": None}


@pytest.fixture(autouse=True)
def here(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "SECONDS_BETWEEN", 0.0)


def told(events: Iterable[Event], stage: str, phase: str) -> list[Progress]:
    """Return the steps that are told of a phase, without the marks of its beginning and end; they go up to their total."""
    whole = [one for one in events if isinstance(one, Progress) and (one.stage, one.phase) == (stage, phase)]
    found = [one for one in whole if one.total > 1]
    assert {one.total for one in found} == {found[-1].step}
    assert len({one.step for one in found}) > 2
    assert all(one.step <= other.step for one, other in pairwise(found))
    return found


def test_every_asking_of_a_job_is_told(encoder: Path, reviews: Path, tmp_path: Path) -> None:
    recipe = {
        **BRIEF,
        "prepare": {"epochs": 1, "rate": 3e-3},
        "prune": {**RECIPE["prune"], "steps": 2, "recovery": {"epochs": 2, "rate": 1e-3, "by": "teacher"}},
        "distill": {"epochs": 1, "rate": 3e-3, "general": {"epochs": 1}, "teachers": {"seeds": 2}},
    }
    events = list(compress(spec_of(encoder, reviews, recipe=recipe, split_batches=2), tmp_path))
    rows = [told(events, "pruned", f"{ASK}, step {step} of 2")[-1].total for step in (1, 2)]
    assert rows[0] == rows[1]
    shipped = {stage: told(events, stage, SHIP)[-1].total for stage in ("baseline", "pruned", "distilled")}
    carved = 32  # of the 320 rows of train, for validation, which is scored first
    assert set(shipped.values()) == {2 * (carved + len((reviews / "test.jsonl").read_text().splitlines()))}
    assert told(events, "distilled", LAST)[-1].total == shipped["distilled"]
    # Two teachers for their answers, and the better one for its insides; before that, train and validation as plain texts.
    assert told(events, "distilled", ASK)[-1].total == 3 * rows[0]
    assert told(events, "distilled", general_distillation.ASK)[-1].total > rows[0]


@pytest.mark.parametrize(("kept", "hidden", "times"), [(None, 0.0, 1), (8, 0.0, 1), (8, 0.5, 2)])
def test_a_language_model_s_is_told_whatever_is_kept_of_it(kept: int | None, hidden: float, times: int, tmp_path: Path) -> None:
    recipe = Recipe(distill=Distill(epochs=1, rate=1e-2, hidden=hidden, kept=kept), train=Train(batch=4, max_length=32))
    state = test_held.state_of(recipe, model(hidden_size=16), tied=False)
    state.scratch, state.parts = tmp_path, 16  # batches of four rows
    assert told(distill(state), "distilled", ASK)[-1].total == times * len(state.rows["train"])


def test_a_pause_is_heeded_between_two_batches(encoder: Path, reviews: Path, tmp_path: Path) -> None:
    seen = list[Event]()

    def asked() -> bool:
        return any(isinstance(one, Progress) and one.phase == ASK and one.step for one in seen)

    with pytest.raises(Pause):
        for event in compress(spec_of(encoder, reviews, recipe=BRIEF), tmp_path, asked):
            seen.append(event)
    last = seen[-1]
    assert isinstance(last, Progress)
    assert (last.stage, last.phase) == ("distilled", ASK)
    assert 0 < last.step < last.total
