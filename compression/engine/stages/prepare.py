"""Tunes the user's model on the user's rows: the baseline for all comparisons, and the teachers. By default until validation
stops improving: a baseline that has not converged flatters the compressed models.
"""

import copy
import math
import re
from collections.abc import Generator, Iterator
from dataclasses import replace

import torch
from transformers import PreTrainedModel

from compression.engine.context import StageContext
from compression.engine.stages.linear_probe import linear_probe
from compression.engine.stages.rate_search import RateSearch, head_of
from compression.engine.stages.registry import ROW_SECONDS, ExpectedWork, StageRunner
from compression.evaluation.standard_error import standard_error
from compression.modalities.base import label_loss
from compression.models.tensors import Tensors, load_unshared, unshared_state
from compression.planning import preparation as rules
from compression.planning.convergence import convergence
from compression.planning.preparation import bound
from compression.schema.events import Event, Log
from compression.schema.recipe.recipe import PREPARE_RATE
from compression.schema.report.preparation import EpochScore, Preparation
from compression.system.device import on_cpu
from compression.training.config import TrainingConfig, TrainingOutcome
from compression.training.work import TrainingHooks

PHASE = "tune"
PREPARATION = "preparation"  #: key under which a training's save stores the facts that are known before it
BEFORE = "baseline"  #: key under which a further original's saves store the facts about the baseline's tuning


def phase_of(number: int) -> str:
    """Return the phase name of an original's training. number: 0 is the baseline."""
    return PHASE if number == 0 else f"{PHASE} {number + 1}"


def probe_phase(number: int, *, probes: bool) -> str:
    """Return the name of the phase before an original's training, if its epochs are open. number: 0 is the baseline."""
    if number:
        return f"warm up the head {number + 1}"
    return "warm up the head and choose the rate" if probes else "warm up the head"


def prepare(context: StageContext) -> Iterator[Event]:
    """Train the baseline and the further originals, head and encoder, in full precision; copy the baseline as the teacher.
    Further originals differ by the seed, which determines the initial head if the model lacks one, the order of rows and
    dropout. Until the stage has its checkpoint, their saves also contain the models that were trained before them.
    """
    settings = context.recipe.distill
    seeds = settings.teachers.seeds if settings is not None else 1
    done = yield from _taken_up(context)
    if done == 0:
        yield from _tuned(context, context.model, 0, {})
    if context.recipe.has_teacher:
        with on_cpu(context.model):  # a card has no need of both
            context.teacher = copy.deepcopy(context.model).eval().requires_grad_(False)
    for number in range(max(done, 1), seeds):
        model = context.models.opened(context.models.base, context.recipe.train.seed + number).to(context.device)
        trained = enumerate([context.model, *context.originals])
        beside = {f"{place}.{name}": value for place, one in trained for name, value in unshared_state(one).items()}
        if (baseline := context.result.preparation) is not None:
            beside[BEFORE] = _packed(baseline)
        yield from _tuned(context, model, number, beside)
        context.originals.append(model.cpu().eval().requires_grad_(False))


def phases(expected: ExpectedWork) -> Iterator[tuple[str, float]]:
    """Yield the phases of tuning the originals."""
    settings, train = expected.recipe.prepare, expected.recipe.train
    steps = rules.steps_an_epoch(expected.rows["train"], train)
    sample = rules.PROBE_STEPS * train.batch * train.accumulate * ROW_SECONDS
    for number in range(expected.seeds):
        if settings.is_open:
            probes = rules.MOST_PROBES if settings.probes and number == 0 else 0
            yield probe_phase(number, probes=settings.probes), sample * (rules.WARM_UPS * rules.FORWARD + probes)
        yield phase_of(number), rules.expected(settings, steps) * expected.train


STAGE = StageRunner(prepare, phases)


def _tuned(context: StageContext, model: PreTrainedModel, number: int, beside: Tensors) -> Iterator[Event]:
    settings, seed = context.recipe.prepare, context.recipe.train.seed + number
    if not settings.trains:
        if number == 0:
            context.result.preparation = Preparation(converged=None, reason="The model was taken as it was sent.")
        return
    known = yield from _chosen(context, model, number)
    phase, loss, hooks = phase_of(number), label_loss(context.task, model), TrainingHooks(head=head_of(model))
    facts = beside | {PREPARATION: _packed(known)}
    ticks = context.train(phase, _plan(context, known, seed), loss, hooks, model=model, beside=facts)
    outcome = yield from context.tracker.relay(phase, ticks)
    found = _concluded(context, model, known, outcome)
    whose = "Tuned on train" if number == 0 else f"Another teacher, the original with seed {seed}, tuned on train"
    context.note_training(whose, outcome, found.epochs)
    if number == 0:
        context.result.preparation = found
        context.notes.extend(_remarks(found))
    context.notes.extend(outcome.remarks)


def _chosen(context: StageContext, model: PreTrainedModel, number: int) -> Generator[Event, None, Preparation]:
    """Return the facts fixed before a training: its rates, how they were chosen, and the floor that its score must reach."""
    settings, seed = context.recipe.prepare, context.recipe.train.seed + number
    if (saved := context.saved(phase_of(number))) is not None:
        return _unpacked(saved[PREPARATION])
    unsettled = Preparation(converged=False, reason="Training has not ended.")
    if number == 0:
        context.result.preparation = unsettled.model_copy(update={"linear_probe": linear_probe(context)})
    known = context.result.preparation or unsettled
    if not settings.is_open:
        rate = settings.rate or PREPARE_RATE
        return known.model_copy(update={"rate": rate, "head_rate": rate})
    given = (settings.rate or _without_probes(context)) if number == 0 else known.rate
    search = RateSearch(context, model, seed, new_head=context.new_head, rate=given, tried=[])
    if known.rate and known.head_rate:  # a further original trains at the baseline's rates
        search.head_factor = known.head_rate / known.rate
        search.whole_head = any(one.chosen and one.whole_head for one in known.rates)
    yield from context.tracker.relay(probe_phase(number, probes=settings.probes), search.steps())
    assert search.rate is not None, "a search ends with a rate"  # noqa: S101
    # Computed after the warm-up, as after a probe: before any training, the error of a correlation is many times as large.
    error = search.error if search.error is not None else standard_error(model, context.rows["validation"], context.parts)
    facts = {"rate": search.rate, "head_rate": search.rate * search.head_factor, "validation_error": error}
    return known.model_copy(update=facts | ({"rates": tuple(search.tried)} if number == 0 else {}))


def _without_probes(context: StageContext) -> float | None:
    """Return the rate to use if probes would take more than their share of the job's steps, else None."""
    most, budget = rules.MOST_PROBES * rules.PROBE_STEPS / rules.PROBE_SHARE, context.budget
    if budget.steps_of(math.ceil(most)) >= most:
        return None
    context.notes.append(f"No rate was probed: train.max_steps leaves too few steps. The rate is {PREPARE_RATE:g}.")
    return PREPARE_RATE


def _plan(context: StageContext, known: Preparation, seed: int) -> TrainingConfig:
    settings = context.recipe.prepare
    rate, head_rate = known.rate or PREPARE_RATE, known.head_rate or PREPARE_RATE
    steps = rules.steps_an_epoch(len(context.rows["train"]), context.recipe.train)
    epochs, most = bound(settings, steps), rules.patience(settings, steps)
    plan = context.plan("prepare", epochs=epochs, rate=rate, dropout=True, patience=most, seed=seed)
    if not settings.is_open:
        return plan
    error = known.validation_error or 0.0
    return replace(
        plan,
        plateau=rules.PLATEAU,
        plateau_epochs=rules.stretch(steps),
        warm_epochs=rules.WARM_EPOCHS,
        head_factor=head_rate / rate,
        least_gain=rules.LEAST_GAIN * error,
        first_gain=rules.LEAST_GAIN * error if context.new_head else error,
    )


def _concluded(context: StageContext, model: PreTrainedModel, known: Preparation, outcome: TrainingOutcome) -> Preparation:
    """Return a finished training's facts, with whether it converged. The model has the weights of its best epoch."""
    error = standard_error(model, context.rows["validation"], context.parts)
    converged, reason = convergence(
        outcome.before.worth,
        [one.worth for one in outcome.curve],
        outcome.best_epoch,
        out_of_patience=outcome.out_of_patience,
        is_open=context.recipe.prepare.is_open,
        error=error,
        floor=known.linear_probe,
        chance=None if outcome.best.inverse else context.task.chance(context.rows["validation"]),
    )
    every = enumerate((outcome.before, *outcome.curve))
    curve = tuple(EpochScore(epoch=number, score=one.value, loss=-one.negative_loss) for number, one in every)
    facts = {"converged": converged, "reason": reason, "epochs": len(outcome.curve), "best_epoch": outcome.best_epoch}
    return known.model_copy(update={**facts, "curve": curve})


def _remarks(found: Preparation) -> Iterator[str]:
    yield found.reason
    if found.rates:
        tried = ", ".join(
            f"{one.rate:g} ({'whole ' if one.whole_head else ''}head {one.head_rate:g}, "
            f"loss {'diverged' if one.loss is None else f'{one.loss:.4f}'})"
            for one in found.rates
        )
        yield f"The rate {found.rate:g} (head {found.head_rate:g}) is the best probe's, lowered. Probes: {tried}."


def _packed(facts: Preparation) -> torch.Tensor:
    return torch.frombuffer(bytearray(facts.model_dump_json().encode()), dtype=torch.uint8)


def _unpacked(saved: torch.Tensor) -> Preparation:
    return Preparation.model_validate_json(bytes(saved.tolist()))


def _taken_up(context: StageContext) -> Generator[Log, None, int]:
    """Restore the originals that an earlier attempt finished before its current one; return their number."""
    found = context.checkpointer.found
    place = re.fullmatch(rf"{PHASE} (\d+)", found.phase) if found is not None else None
    tensors = context.saved(place.string) if place is not None else None
    if place is None or tensors is None:
        return 0
    count = int(place[1]) - 1
    for number in range(count):
        own = {key.partition(".")[2]: value for key, value in tensors.items() if key.partition(".")[0] == str(number)}
        if number == 0:
            load_unshared(context.model, own)
        else:
            model = context.models.opened(context.models.base, context.recipe.train.seed + number)
            load_unshared(model, own)
            context.originals.append(model.eval().requires_grad_(False))
    context.result.preparation = _unpacked(tensors.get(BEFORE, tensors[PREPARATION]))  # a save of an earlier version has one
    yield Log(message=f"{count} trained originals are taken up from the saved training.")
    return count
