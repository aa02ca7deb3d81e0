"""How long a full distillation of a size takes, by the trainings of others."""

import pytest
from transformers import BertForSequenceClassification

from compression.engine.stages.size_record import asked_training, step_seconds
from compression.planning.size_plan import FullTraining
from compression.schema.recipe.augment import Augment
from compression.schema.recipe.distill import Distill, General
from compression.schema.recipe.recipe import Recipe, Train
from compression.schema.report.size_search import SizeSearch, SizeTried
from tests.client.figures import row
from tests.support.tiny_bert import state_of

ASKED = FullTraining(epochs=8, general_epochs=3, epoch_steps=10, general_steps=200)


def size(**own: object) -> SizeTried:
    shape = row("pruned", 1, 1, 1.0, 0.5).shape
    given = {"kind": "short", "share": 0.5, "shape": shape, "layers": (), "parameters": 1, "cost": 0.5, "error": 1.0}
    return SizeTried.model_validate({**given, "steps": 100, "epochs": 2, "kept": 0.9, "seconds": 50.0, **own})


def record(*tried: SizeTried) -> SizeSearch:
    given = {"objective": "parameters", "budget_minutes": 1.0, "minutes": 0.0, "original": 0.9, "whole": 1}
    return SizeSearch.model_validate({"retention": 0.99, "tried": tried, **given})


def test_a_step_of_a_larger_size_takes_longer_than_one_of_the_last_that_was_trained() -> None:
    assert step_seconds(record(), ASKED, 0.5) is None
    known = record(size(cost=0.8, seconds=90.0), size(cost=0.25), size(cost=0.3, kept=None, seconds=None))
    assert step_seconds(known, ASKED, 0.25) == step_seconds(known, ASKED, 0.1) == 0.5
    assert step_seconds(known, ASKED, 0.75) == pytest.approx(1.5)


def test_steps_of_the_general_phase_are_those_of_its_own_texts() -> None:
    full = size(kind="full", steps=20, epochs=2, general_epochs=3)  # 600 more
    assert step_seconds(record(full), ASKED, 0.5) == pytest.approx(50 / 620)


def test_new_rows_count_in_a_full_distillation_and_not_in_its_general_phase(model: BertForSequenceClassification) -> None:
    state = state_of(model, Recipe(train=Train(batch=16)))
    plain = asked_training(state, Distill(epochs=2, general=General(epochs=3)))
    more = asked_training(state, Distill(epochs=2, general=General(epochs=3), augment=Augment(splices=2)))
    assert (plain.steps, plain.general_steps) == (40, 20)
    assert (more.steps, more.general_steps) == (120, 20)
