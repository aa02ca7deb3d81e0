"""Originals are tuned until validation stops gaining, at a rate that probes choose; what is known of it stands in the row."""

import copy
import dataclasses
import itertools
import json
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import BertForSequenceClassification

from compression.engine.context import StageContext
from compression.engine.pipeline import compress
from compression.engine.stage_clock import StageClock
from compression.engine.stage_result import StageResult
from compression.engine.stages.rate_search import Probed, RateSearch
from compression.engine.stages.registry import job_progress
from compression.planning import preparation
from compression.schema.events import Event, Progress
from compression.schema.recipe.presets import merged, preset
from compression.schema.recipe.recipe import PREPARE_RATE, Prepare, Recipe, Train
from compression.schema.report.preparation import Preparation
from compression.schema.report.report import Report
from compression.training.budget import Budget
from tests.compression.training.conftest import Listener, checkpointer, listener, resumed, same, weights  # noqa: F401 (a fixture)
from tests.support.engine_jobs import report_of, spec_of
from tests.support.stage_runs import prepare
from tests.support.tiny_bert import FILLER, GOOD, state_of, tiny_config

TRAIN = Train(batch=32, max_length=32)
OPEN = Recipe(quantize=None, prune=None, distill=None, train=TRAIN)


def fresh(recipe: Recipe = OPEN, *, new_head: bool = True, seed: int = 0) -> StageContext:
    torch.manual_seed(seed)
    model = BertForSequenceClassification(tiny_config(num_labels=2)).eval()
    return readied(dataclasses.replace(state_of(model, recipe), new_head=new_head))


def readied(state: StageContext) -> StageContext:
    state.tracker = job_progress(state.recipe, {"": {name: len(rows) for name, rows in state.rows.items()}})
    state.budget = Budget(state.recipe.train.max_steps, state.recipe.train.max_minutes)
    return state


def prepared(state: StageContext) -> Preparation:
    list(prepare(state))
    return state.result.preparation


@pytest.fixture(scope="module")
def tuned() -> tuple[StageContext, list[Event]]:
    """A state that was prepared as the recipe leaves it open, and the events."""
    state = fresh()
    return state, list(prepare(state))


def test_by_default_it_goes_on_until_validation_stops_gaining(tuned: tuple[StageContext, list[Event]]) -> None:
    state = tuned[0]
    found = state.result.preparation
    assert found.converged is True, found.reason
    assert found.epochs == found.best_epoch + 3 * preparation.stretch(10), "a patience of three stretches of 48 steps"
    assert found.epochs < preparation.bound(Prepare(), 10)
    assert state.validate().score == max(one.score for one in found.curve) > 0.95
    assert found.linear_probe < state.validate().score, "what tuning brings over frozen features"
    assert [one.epoch for one in found.curve] == list(range(found.epochs + 1))
    assert found.curve[found.best_epoch].loss is not None
    assert found.reason in state.notes


def test_the_rate_is_the_best_probes_and_no_probe_changes_the_model(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("compression.engine.stages.prepare.bound", lambda *_: 0)  # nothing after the probes
    state = fresh(new_head=False)
    before = weights(state)
    found = prepared(state)
    assert same(before, weights(state))
    body = [one for one in found.rates if one.rate == one.head_rate]
    assert len({one.rate for one in body}) == 3
    assert {one.rate for one in body} <= set(preparation.RATES)
    (chosen,) = [one for one in found.rates if one.chosen]
    assert chosen.loss <= body[0].loss, "the usual rate is only left for a better one"
    lower = preparation.long_run(10)
    assert 0.3 < lower < 1
    assert (found.rate, found.head_rate) == pytest.approx((chosen.rate * lower, chosen.head_rate * lower))
    (faster,) = [one for one in found.rates if one.rate != one.head_rate]
    assert faster.rate == chosen.rate
    assert all(one.steps >= preparation.PROBE_STEPS / 2 for one in found.rates)


def test_a_probe_is_judged_by_what_its_steps_made(monkeypatch: pytest.MonkeyPatch) -> None:
    """A score that falls would otherwise have each probe judged by the weights of before it."""
    monkeypatch.setattr("compression.engine.stages.prepare.bound", lambda *_: 0)
    state = fresh(new_head=False)
    falling = itertools.count(1.0, -0.001)
    monkeypatch.setattr(type(state.task), "score", lambda *_: next(falling))
    found = prepared(state)
    losses = [one.loss for one in found.rates]
    assert len(set(losses)) == len(losses) > 2


def test_a_new_head_is_warmed_up_and_the_body_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("compression.engine.stages.prepare.bound", lambda *_: 0)
    given = OPEN.model_copy(update={"prepare": Prepare(rate=1e-4)})
    state = fresh(given)
    before = {name: weight.clone() for name, weight in state.model.state_dict().items()}
    assert prepared(state).rates == ()
    moved = {name for name, weight in state.model.state_dict().items() if not weight.equal(before[name])}
    assert moved == {"classifier.weight", "classifier.bias"}, "a pooler came with the encoder"
    assert all(parameter.requires_grad for parameter in state.model.parameters())
    kept = fresh(given, new_head=False)
    before = {name: weight.clone() for name, weight in kept.model.state_dict().items()}
    prepared(kept)
    assert all(weight.equal(before[name]) for name, weight in kept.model.state_dict().items())


def test_epochs_with_a_rate_mean_exactly_that() -> None:
    state = fresh(OPEN.model_copy(update={"prepare": Prepare(epochs=2, rate=3e-3)}))
    list_of_rates = [event.rate for event in prepare(state) if isinstance(event, Progress) and event.rate is not None]
    found = state.result.preparation
    assert (found.rate, found.head_rate, found.rates, found.epochs) == (3e-3, 3e-3, (), 2)
    assert max(list_of_rates) <= 3e-3
    assert found.converged is False
    assert "2 epochs are too few" in found.reason
    assert prepared(fresh(OPEN.model_copy(update={"prepare": Prepare(epochs=1)}))).rate == PREPARE_RATE


def test_what_is_taken_as_it_was_sent_is_not_judged() -> None:
    found = prepared(fresh(OPEN.model_copy(update={"prepare": Prepare(epochs=0)}), new_head=False))
    assert found.converged is None
    assert (found.epochs, found.curve, found.linear_probe) == (0, (), None)


def test_a_trained_head_is_only_changed_for_more_than_a_standard_error(
    tuned: tuple[StageContext, list[Event]], monkeypatch: pytest.MonkeyPatch
) -> None:
    given = OPEN.model_copy(update={"prepare": Prepare(rate=tuned[0].result.preparation.rate)})  # which nobody probes again
    model = copy.deepcopy(tuned[0].model)
    again = readied(dataclasses.replace(tuned[0], recipe=given, model=model, new_head=False, result=StageResult()))
    before = weights(again)
    found = prepared(again)
    assert found.best_epoch == 0
    assert found.converged is True
    assert same(before, weights(again))
    monkeypatch.setattr("compression.engine.stages.prepare.bound", lambda *_: 5)  # enough to see
    worse = fresh(given, new_head=False)  # a head as it was drawn gains much more
    assert prepared(worse).best_epoch > 0


def test_a_job_of_few_steps_probes_nothing_and_has_not_converged() -> None:
    state = fresh(OPEN.model_copy(update={"train": TRAIN.model_copy(update={"max_steps": 70})}))
    found = prepared(state)
    assert (found.rates, found.rate) == ((), PREPARE_RATE)
    assert found.converged is False
    assert any("No rate was probed" in note for note in state.notes)
    assert state.budget.spent.steps == 70, "the head's warm-up counts too"


def test_stopped_anywhere_it_ends_with_the_same_weights_and_account(
    tuned: tuple[StageContext, list[Event]],
    tmp_path: Path,
    listener: Listener,  # noqa: F811
) -> None:
    plain = tuned[0]
    wanted = plain.result.preparation
    saved = fresh()
    saved.checkpointer = checkpointer(tmp_path)
    listener.hear(prepare(saved))
    assert same(weights(saved), weights(plain)), "saving changed the training"
    lowered = 10 * wanted.best_epoch + 15  # after an epoch without a gain: weights went back, the rate is lower
    for number in (1, 7, lowered, len(listener.saves)):
        state = fresh()
        state.checkpointer = resumed(tmp_path, listener, number)
        events = list(prepare(state))
        assert same(weights(state), weights(plain)), f"save {number}"
        assert state.result.preparation == wanted
        assert not _probed(events), "probes are not done again"


PROBING = "warm up the head and choose the rate"


def _probed(events: list[Event]) -> list[Event]:
    return [event for event in events if isinstance(event, Progress) and event.phase == PROBING]


def test_progress_never_falls(tuned: tuple[StageContext, list[Event]]) -> None:
    seen = [event for event in tuned[1] if isinstance(event, Progress)]
    assert [event.fraction for event in seen] == sorted(event.fraction for event in seen)
    assert {event.phase for event in seen} == {PROBING, "tune"}


def intents(count: int, labels: int, seed: int) -> Iterator[dict[str, Any]]:
    """Rows of many classes: which two words stand in a text says which."""
    draw = random.Random(seed)
    words = [*FILLER, *GOOD]
    for number in range(count):
        label = number % labels
        text = [words[label % len(words)], words[(7 * label + 3) % len(words)], *draw.choices(FILLER, k=2)]
        draw.shuffle(text)
        yield {"text": " ".join(text), "label": f"intent-{label:02d}"}


def job(place: Path, encoder: Path, prepare: dict[str, Any], labels: int = 12) -> Report:
    for name, count in (("train", 40 * labels), ("validation", 10 * labels), ("test", 10 * labels)):
        rows = intents(count, labels, seed=len(name))
        (place / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    splits = {name: [f"{name}.jsonl"] for name in ("train", "validation", "test")}
    recipe = {"prepare": prepare, "prune": None, "distill": None, "artifacts": [], "train": {"batch": 32, "max_length": 16}}
    return report_of(compress(spec_of(encoder, recipe=recipe, data={"format": "jsonl", "splits": splits}), place))


def test_of_many_classes_one_epoch_proves_nothing_and_open_training_does(tmp_path: Path, encoder: Path) -> None:
    short = job(tmp_path, encoder, {"epochs": 1, "rate": 3e-3})
    assert short.rows[0].preparation.converged is False
    verdict, size = short.verdicts["retention"], short.verdicts["size_reduction"]
    assert (verdict.status, verdict.met, verdict.code) == ("unproven", False, "baseline_not_converged")
    assert (size.status, size.code) == ("missed", None), "size stays as measured"
    assert size.value is not None
    long = job(tmp_path, encoder, {"rate": 2e-3})  # of a body that was never trained before
    found = long.rows[0].preparation
    assert found.converged is True, found.reason
    assert long.verdicts["retention"].status in ("met", "missed")
    tops = [row.validation for row in (short.rows[0], long.rows[0])]
    assert tops[1].value > tops[0].value + 0.2, "what three more epochs would not have shown"


def test_one_probe_is_surely_better_where_groups_of_rows_agree() -> None:
    usual = Probed(torch.tensor([0.5, 0.7, 0.6, 0.8]), 0.02)
    assert Probed(usual.losses - torch.tensor([0.09, 0.11, 0.1, 0.1]), 0.02).is_surely_better(usual)
    assert not Probed(usual.losses - torch.tensor([0.5, -0.3, 0.4, -0.2]), 0.02).is_surely_better(usual), "the same mean"
    assert not usual.is_surely_better(usual)
    assert not usual.is_surely_better(Probed(usual.losses - 0.1, 0.02))
    diverged = Probed(None, 0.0)
    assert usual.is_surely_better(diverged)
    assert not diverged.is_surely_better(usual)
    assert Probed(torch.tensor([0.5]), 0.0).is_surely_better(Probed(torch.tensor([0.6]), 0.0)), "one row says what it says"


@pytest.mark.parametrize(
    ("losses", "rates", "chosen"),
    [
        ({6e-5: 0.5, 2e-4: 0.5, 6e-4: 0.5}, [2e-4, 6e-4, 6e-5], 2e-4),
        ({6e-5: 0.4, 2e-4: 0.5, 6e-4: 0.6}, [2e-4, 6e-4, 6e-5], 6e-5),
        ({2e-4: 0.5, 6e-4: 0.4, 2e-3: 0.6}, [2e-4, 6e-4, 2e-3], 6e-4),
        ({2e-4: 0.5, 6e-4: 0.4, 2e-3: 0.3}, [2e-4, 6e-4, 2e-3], 2e-3),
        ({6e-5: 0.4, 2e-4: None, 6e-4: None}, [2e-4, 6e-4, 6e-5], 6e-5),
    ],
)
def test_the_usual_rate_is_left_for_one_that_is_surely_better(
    losses: dict[float, float | None], rates: list[float], chosen: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []

    def probe(_: RateSearch, rate: float, factor: float, before: list[torch.Tensor]) -> Iterator[Event]:
        yield from ()
        if factor == 1:
            asked.append(rate)
        loss = losses[rate]
        return Probed(None if loss is None else torch.full((20,), loss), 0.02)

    monkeypatch.setattr(RateSearch, "_probe", probe)
    state = fresh(new_head=False)
    search = RateSearch(state, state.model, 0, new_head=False, rate=None, tried=[])
    list(search.steps())
    assert asked == rates
    assert not search.whole_head
    assert (search.rate, search.head_factor) == (pytest.approx(chosen * preparation.long_run(10)), 1)


@pytest.mark.parametrize(("whole", "kept"), [(0.4, True), (0.5, False)])
def test_a_whole_head_warms_up_where_that_is_surely_better(whole: float, kept: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []

    def probe(search: RateSearch, rate: float, factor: float, before: list[torch.Tensor]) -> Iterator[Event]:
        yield from ()
        seen.append((rate, factor, search.whole_head, before))
        return Probed(torch.full((20,), whole if search.whole_head else 0.5), 0.02)

    monkeypatch.setattr(RateSearch, "_probe", probe)
    state = fresh()
    search = RateSearch(state, state.model, 0, new_head=True, rate=None, tried=[])
    list(search.steps())
    assert search.whole_head is kept
    assert [found for _, _, found, _ in seen] == [False, True, kept, kept, kept]
    now, first = [parameter.detach() for parameter in state.model.parameters()], seen[0][3]
    pooler = [number for number, (name, _) in enumerate(state.model.named_parameters()) if "pooler" in name]
    assert all(now[number].equal(first[number]) is not kept for number in pooler)
    assert all(one.equal(other) for one, other in zip(now, seen[-1][3], strict=True)), "what training starts from"
    further = fresh()
    list(RateSearch(further, further.model, 0, new_head=True, rate=1e-4, tried=[], whole_head=kept).steps())
    assert all(one.equal(other) for one, other in zip(further.model.parameters(), now, strict=True)), "as the baseline did"


@pytest.mark.parametrize(("minutes", "probes"), [(30.0, 5), (3.0, 1)])
def test_a_search_for_a_size_has_its_time_before_further_probes(
    minutes: float, probes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    now, seen = [100.0], []

    def probe(_: RateSearch, *given: object) -> Iterator[Event]:
        yield from ()
        now[0] += 4.0  # of 60 steps, six epochs: with ten epochs and more of tuning about 26 seconds, and 100 before them
        seen.append(given)
        return Probed(torch.full((20,), 0.5), 0.02)

    monkeypatch.setattr(RateSearch, "_probe", probe)
    auto = merged(preset("auto", "text-classification"), {"train": TRAIN.model_dump(), "auto": {"budget_minutes": minutes}})
    state = fresh(Recipe.model_validate(auto))
    state.clock = StageClock(now=lambda: now[0])
    state.clock.begin(60.0)
    search = RateSearch(state, state.model, 0, new_head=True, rate=None, tried=[])
    list(search.steps())
    assert len(seen) == probes
    assert search.rate == pytest.approx(2e-4 * preparation.long_run(10))
    assert [f"of the {minutes:g} minutes of auto.budget_minutes" in note for note in state.notes] == [True] * (probes == 1)


def test_the_rate_falls_with_the_root_of_the_steps_that_are_expected() -> None:
    assert preparation.long_run(400) == pytest.approx(preparation.long_run(100) / 2)
    assert preparation.long_run(10_000) == preparation.LEAST_LONG_RUN
    assert preparation.long_run(100, most=4 * preparation.PROBE_STEPS) == pytest.approx(0.5), "a job may have a limit of steps"
    # Few rows are read more often before patience ends.
    assert preparation.long_run(6) == pytest.approx(preparation.long_run(preparation.LEAST_STRETCH))
