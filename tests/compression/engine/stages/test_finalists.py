"""Which of the cuts that were distilled shortly is taken, and which recipes cannot have any."""

from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from torch import nn

from compression.engine.stages import finalists
from compression.engine.stages.finalists import RESULTS, best_finalist
from compression.engine.stages.task_training import NamedTraining
from compression.evaluation.validate import Validation
from compression.planning.preflight import preflight
from compression.schema.errors import TrainingDiverged
from compression.schema.events import Event, Log
from compression.schema.recipe.distill import Distill
from compression.schema.recipe.finalists import Finalists
from compression.schema.recipe.prune import Prune
from compression.schema.recipe.recipe import Evaluate, Prepare, Recipe
from compression.system.progress import Returning
from tests.compression.planning.test_planning import DATA, MODEL

CHANGES = (0.4, 0.1, 0.3, 0.2)  # the second one is the first finalist, then the last, then the third


def chosen(
    monkeypatch: pytest.MonkeyPatch, scores: dict[int, Validation | None], saved: dict[str, Any] | None = None
) -> tuple[int, list[int], list[Any], Any]:
    """Return which cut was taken, which were distilled, what saves would hold, and the context. scores: None diverges."""
    trained, beside = list[int](), list[Any]()

    def run(_: object, trial: int, epochs: int, phase: str, training: NamedTraining) -> Iterator[Event]:
        yield Log(message="It trains.")
        trained.append(trial)
        beside.append(training.beside.get(RESULTS))
        if (best := scores[trial]) is None:
            raise TrainingDiverged("the loss is not finite")
        return SimpleNamespace(best=best)

    shorts = SimpleNamespace(
        teachers=[], plan=SimpleNamespace(epochs=1, steps=100), trial_of=lambda cut: cut, run=lambda *given: run(None, *given)
    )
    monkeypatch.setattr(finalists, "ShortDistillations", lambda *_: shorts)
    context = SimpleNamespace(
        recipe=SimpleNamespace(distill=Distill()),
        task=SimpleNamespace(packed=None, metric="accuracy"),
        saved=lambda phase: saved.get(phase) if saved is not None else None,
        notes=[],
        model=nn.Linear(1, 1),
    )
    given: Any = context
    events = list(each := Returning(best_finalist(given, Finalists(cuts=3), CHANGES, lambda at: at)))
    assert events
    return each.result, trained, beside, context


def test_what_keeps_most_on_validation_is_taken_and_of_equals_what_changes_least(monkeypatch: pytest.MonkeyPatch) -> None:
    scores = {1: Validation(0.8, -0.5), 3: Validation(0.9, -0.6), 2: Validation(0.9, -0.4)}
    taken, trained, beside, context = chosen(monkeypatch, scores)
    assert (taken, trained) == (2, [1, 3, 2])
    assert beside[0] is None
    assert beside[2].tolist() == [[0.8, -0.5], [0.9, -0.6]]
    assert context.notes == [
        "The 3 of them that change the answers least were distilled for at most 100 steps each: validation accuracy 0.8000, "
        "0.9000, 0.9000. Number 3 is the best: its weights of layers are taken."
    ]
    assert chosen(monkeypatch, dict.fromkeys((1, 2, 3), Validation(0.9, -0.5)))[0] == 1


def test_an_attempt_that_was_stopped_among_finalists_goes_on_with_the_one_that_it_was_at(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    saved = {"try cut 2": {RESULTS: torch.tensor([[0.8, -0.5]], dtype=torch.float64)}}
    taken, trained, beside, _ = chosen(monkeypatch, {3: Validation(0.7, -0.6), 2: Validation(0.75, -0.4)}, saved)
    assert (taken, trained) == (1, [3, 2])
    assert beside[1].tolist() == [[0.8, -0.5], [0.7, -0.6]]


def test_a_finalist_that_diverges_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    taken, trained, _, context = chosen(monkeypatch, {1: None, 3: Validation(-0.2, -0.6), 2: Validation(-0.3, -0.4)})
    assert (taken, trained) == (3, [1, 3, 2])
    assert "accuracy diverged, -0.2000, -0.3000" in context.notes[-1]


@pytest.mark.parametrize(
    ("recipe", "key"),
    [
        ({"prune": {"search": "solver", "finalists": {}}, "distill": None}, "prune.finalists"),
        ({"prune": {"search": "solver", "finalists": {}}, "train": {"max_steps": 600}}, "train.max_steps"),
        ({"prune": {"search": "solver", "finalists": {}}, "train": {"max_minutes": 5}}, "train.max_minutes"),
    ],
)
def test_recipes_that_leave_finalists_no_training_are_refused_with_their_key(recipe: dict[str, Any], key: str) -> None:
    with pytest.raises(ValidationError, match="finalists") as caught:
        Recipe.model_validate(recipe)
    (error,) = caught.value.errors()
    assert ".".join(map(str, error["loc"])) == key
    with pytest.raises(ValidationError, match="set search to solver"):
        Prune.model_validate({"finalists": {}})


def test_finalists_take_time_and_the_uncut_model_beside_them_in_the_forecast() -> None:
    plain = Recipe(prepare=Prepare(epochs=0), prune=Prune(search="solver"))
    tried = plain.model_copy(update={"prune": Prune(search="solver", finalists=Finalists(cuts=4, steps=400))})
    few, many = (preflight(MODEL, DATA, one, Evaluate()).estimate for one in (plain, tried))
    assert many.training_minutes > few.training_minutes
    assert many.memory_bytes > few.memory_bytes
