"""Looks for the size that keeps the retention target: solve, cut, distill shortly, fit, and solve again.

What a size keeps is known after a short distillation alone. So it is expected after a full one by the power of steps with which
losses have fallen so far, and the next size is solved for by the fit over the predicted errors. A round is a training of the
stage: its saves have the record of the rounds before, so an attempt that was killed in it goes on there.
"""

from collections.abc import Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from typing import Any

from transformers import PreTrainedModel

from compression.engine.context import StageContext
from compression.engine.stages.apply_cut import updated_cut
from compression.engine.stages.error_weights import error_weights
from compression.engine.stages.short_distillation import ShortDistillations
from compression.engine.stages.size_record import (
    Original,
    RunningTime,
    asked_training,
    begin_record,
    judged_original,
    original_curve,
    pace_of,
    remembering,
    saved_record,
    seconds_left,
    trained,
    warned,
    with_error,
    write_record,
)
from compression.engine.stages.size_solver import (
    SizeCost,
    SizeSolver,
    count_of,
    cut_of,
    facts_of,
    size_cost,
    solver_of,
    within_all,
)
from compression.engine.stages.solved_widths import SolvedWidths, axes_and_errors, store_search
from compression.engine.stages.task_training import NamedTraining
from compression.engine.tables_checkpoint import stored_search
from compression.models.adapters.registry import adapter_of
from compression.models.architectures.families import ARCHITECTURE_SPECS
from compression.models.architectures.shapes import planned
from compression.models.tensors import Tensors
from compression.planning.search.problem import OutOfTime
from compression.planning.search.space import Cost
from compression.planning.search.spaces import space_of
from compression.planning.search.within import Found
from compression.planning.size_fit import SizeFit, expect, fit_sizes, smallest_share
from compression.planning.size_plan import Pace, ShortTraining
from compression.pruning.scores import ImportanceScores
from compression.schema.error_tables import ErrorTables
from compression.schema.errors import TargetOutOfReach, TrainingDiverged, UnsupportedShape, listed
from compression.schema.events import Event, Log
from compression.schema.recipe.auto import Auto
from compression.schema.recipe.distill import Distill
from compression.schema.recipe.prune import TARGET_KEYS, Prune
from compression.schema.report.measurements import Shape
from compression.schema.report.size_search import UNITS, SizeSearch, SizeTried
from compression.schema.solved_search import CutOutcome, ParameterFacts, SolvedSearch
from compression.system.device import on_cpu, rest
from compression.system.sealed_folder import UnusableCheckpoint

ALIKE = 0.03
"""Shares of the whole model that are nearer to each other than this are one size: no further round is worth its time."""
DEEPEST = 0.02
"""Share of the whole model that is asked for at least."""


def phase_of(number: int) -> str:
    """Return the name of a round's training, from 1."""
    return f"try size {number}"


def size_rounds(
    context: StageContext,
    settings: Prune,
    scores: ImportanceScores,
    found: tuple[ErrorTables, Tensors],
    before: Shape,
    facts: ParameterFacts,
) -> Generator[Event, None, SolvedWidths]:
    """Return the widths of the smallest size that is expected to keep the target, after rounds of short trainings; what was
    tried is in the context's result. Parameters and errors as of `solved_widths`.
    """
    tables, orders = found
    auto, distill = context.recipe.auto, context.recipe.distill
    assert auto is not None, "only a recipe with auto asks"  # noqa: S101
    assert distill is not None, "auto needs it"  # noqa: S101
    search = facts_of(context, settings, digest=tables.digest, before=before, parameters=facts)
    cost, original = (yield from size_cost(context, search, auto.objective)), judged_original(context)
    record = saved_record(context, [phase_of(number) for number in range(1, auto.rounds + 1)])
    even = solver_of(context, tables, search, cost)
    first = even.mildest if even.is_limited else _first_share(search, cost)
    if record is None:
        whole = count_of(search)(before)
        limits = within_all(cost.limit(first), even.limits)
        weights, outcomes = yield from _weights(context, search, limits, scores, found)
        record = begin_record(context, auto, original.score, whole).model_copy(update={"weights": dict(weights)})
    else:
        outcomes = _judged_before(context)
    search = search.model_copy(update={"weights": record.weights})
    solver = solver_of(context, tables, search, cost)
    known: dict[str, Any] = {
        "before": before,
        "whole": search.whole,
        "prune": settings,
        "network": search.network,
        "parameters": facts,
    }
    known |= {"weights": record.weights, "outcomes": outcomes}
    yield from store_search(context, tables, solver.at(first), **known)  # what an attempt that goes on in a round reads
    rounds = SizeRounds(context, auto, distill, scores, orders, original, record, solver)
    share, why = yield from rounds.run(first)
    rest(*rounds.teachers)
    context.result.sizes = rounds.chosen(share, why)
    context.notes.append(context.result.sizes.why)
    chosen = solver.at(share)
    yield from store_search(context, tables, chosen, **known)
    ordered = scores.ordered(orders, chosen.layers if "layers" in settings.axes else None)
    return SolvedWidths(chosen.shape, ordered, *axes_and_errors(chosen, tables, settings, search.whole))


def _weights(
    context: StageContext,
    search: SolvedSearch,
    limits: Sequence[Cost],
    scores: ImportanceScores,
    found: tuple[ErrorTables, Tensors],
) -> Generator[Event, None, tuple[Mapping[str, float], tuple[CutOutcome, ...]]]:
    """Return what errors count, by the outcome of cuts within limits: of the first size."""
    tables, orders = found
    model, family = context.model, adapter_of(context.model)

    def cut(one: Found) -> PreTrainedModel:
        layers = one.layers if "layers" in search.prune.axes else None
        return updated_cut(context, model, scores.ordered(orders, layers).choose(family, one.shape))

    space = partial(space_of, tables, ARCHITECTURE_SPECS[search.family], search.whole, search.prune, search.network)
    try:
        return (yield from error_weights(context, tables, space, limits, cut))
    except (TargetOutOfReach, OutOfTime):
        return {}, ()  # no cut to that size was judged: all errors count alike


def _judged_before(context: StageContext) -> tuple[CutOutcome, ...]:
    """Return the cuts that an earlier attempt judged."""
    place = context.checkpointer
    try:
        return stored_search(place.folder, place.resume, place.part)[1].outcomes
    except UnusableCheckpoint:
        return ()  # targets of the finished job then have no predicted score


def _first_share(search: SolvedSearch, cost: SizeCost) -> float:
    """Return what the recipe's ratios would leave, if all axes shrank by them."""
    kind = ARCHITECTURE_SPECS[search.family]
    tokens = search.whole.vocabulary
    by_ratio = search.prune.model_copy(update=dict.fromkeys(TARGET_KEYS))
    alike = planned(kind, search.before, by_ratio, vocabulary=tokens, network=search.network)[1]
    return cost.cost.of_shape(alike) / cost.whole


def best_share(tried: Sequence[SizeTried], retention: float) -> float:
    """Return the share of the smallest size that is expected to keep the target, of those that were distilled shortly; that of
    what is expected to keep most if none is.
    """
    fit = fit_sizes(tried)
    if kept := [one for one in tried if fit.keeps(one.error, retention)]:
        return min(kept, key=lambda one: one.cost).share
    return max(tried, key=lambda one: fit.kept_at(one.error)).share


@dataclass
class SizeRounds:
    """The rounds of one search. original: the uncompressed model; record: what is known so far."""

    context: StageContext
    auto: Auto
    distill: Distill
    scores: ImportanceScores
    orders: Tensors
    original: Original
    record: SizeSearch
    solver: SizeSolver

    def run(self, first: float) -> Generator[Event, None, tuple[float, str]]:
        """Do the rounds; return the share to go on with, and why no further one was done. first: share of the first size."""
        while True:
            if not self.record.tried or self.record.tried[-1].kept is not None:
                share, why = self._next(first)
                if why is not None:
                    return share, why
                short = self._short
                size = self.solver.size(share, kind="short", steps=short.steps, epochs=short.epochs)
                self._put([*self.record.tried, size])
            try:
                yield from self._train(len(self.record.tried))
            except TrainingDiverged as problem:
                done = self.record.tried[:-1]
                if not done:
                    raise
                self._put(done)
                why = yield from warned(f"{len(done)} sizes were distilled shortly; a further one was not", problem)
                return best_share(done, self.record.retention), why

    def _next(self, first: float) -> tuple[float, str | None]:
        """Return the share of the next round; or that to go on with, and why no further one is done. first: of the first size.
        Raises UnsupportedShape if the solver had not the time for any, and TargetOutOfReach if limits allow none.
        """
        done = self.record.tried
        try:
            share = self._next_share() if done else first
            return share, self._why_over(share)
        except (UnsupportedShape, TargetOutOfReach) as problem:
            if not done:
                raise
            return best_share(done, self.record.retention), f"{len(done)} sizes were distilled shortly; then {problem}"

    def chosen(self, share: float, why: str) -> SizeSearch:
        """Return the record with the choice of a share."""
        fit, size = self._fit(), self.solver.at(share)
        cost = self.solver.share_of(size)
        target, expected = self.record.retention, fit.kept_at(size.error)
        told = "not tried"
        if self.record.tried:
            kept = f"{with_error(expected, fit_sizes(self.record.tried).margin)} of the original's score"
            told = f"expected to keep {kept} after {self._full_steps(cost):,} steps"
        met = ""
        if self.record.tried and not fit.keeps(size.error, target):
            mildest = f"is the mildest{self._within}"
            which = mildest if share >= self.solver.mildest else "keeps most of those that were tried"
            met = f" None is expected to keep that; it {which}."
        sentence = (
            f"Size: {cost:.1%} of the {UNITS[self.record.objective]} ({size.shape.short}), {told}; "
            f"the target is {target:.2%}.{met} {why[0].upper()}{why[1:]}."
        )
        full = self.solver.size(share, kind="full", steps=0, epochs=0, chosen=True)
        known = {"tried": (*self.record.tried, full), "why": sentence, "minutes": self.context.clock.seconds / 60}
        return self.record.model_copy(update=known)

    @property
    def _within(self) -> str:
        """What limits sizes, as text."""
        keys = [f"prune.{each.key}" for each in self.solver.limits]
        return f" within {listed(keys)}" if keys and self.solver.is_limited else ""

    @cached_property
    def _shorts(self) -> ShortDistillations:
        return ShortDistillations(self.context, self.distill, self.auto.steps)

    @property
    def _short(self) -> ShortTraining:
        return self._shorts.plan

    def _full_steps(self, cost: float) -> int:
        """Return the steps of the full distillation that the time still allows. cost: of the size."""
        left = seconds_left(self.context, self.record, cut=False)
        asked = asked_training(self.context, self.distill, self.record)
        return asked.first(pace_of(self.record, asked, cost), left).steps

    @property
    def teachers(self) -> list[PreTrainedModel]:
        """The teachers that rounds share."""
        return self._shorts.teachers

    def _put(self, tried: Sequence[SizeTried]) -> None:
        self.record = self.record.model_copy(update={"tried": tuple(tried)})

    def _next_share(self) -> float:
        """Return the smallest share that is expected to keep the target; not below half of the smallest that was tried."""
        fit, low = self._fit(), max(DEEPEST, min(one.share for one in self.record.tried) / 2)
        return smallest_share(fit, self.record.retention, self.solver.error_at, low, self.solver.mildest)

    def _fit(self) -> SizeFit:
        """Return the fit of the sizes tried; with its margin only where there is no time for a second full distillation: a
        first one that misses costs its time, and not the job's answer.
        """
        fit = fit_sizes(self.record.tried)
        return replace(fit, margin=0.0) if self.record.tried and self._is_time(0.0, twice=True) else fit

    def _is_time(self, cost: float, others: float = 0.0, *, twice: bool) -> bool:
        """Return whether there is time for a full distillation of a size, or for two. others: seconds needed beside."""
        asked = asked_training(self.context, self.distill, self.record)
        pace, left = pace_of(self.record, asked, cost) or Pace(0.0), seconds_left(self.context, self.record, cut=False) - others
        return asked.is_time_twice(pace, left) if twice else left >= asked.seconds(pace)

    def _why_over(self, share: float) -> str | None:
        """Return why no further round is done, or None. share: of the next size."""
        done = self.record.tried
        if len(done) >= self.auto.rounds:
            return f"{len(done)} sizes were distilled shortly, as many as auto.rounds allows"
        if any(abs(one.share - share) < ALIKE or self.solver.is_at(share, one) for one in done):
            return f"{len(done)} sizes were distilled shortly, and a further one would be as large as one of them"
        longest = max((one.seconds or 0.0 for one in done), default=0.0)
        cost = self.solver.share_of(self.solver.at(share))
        if not self._is_time(cost, longest, twice=self._is_time(cost, twice=True)):
            return f"{len(done)} sizes were distilled shortly; what is left of auto.budget_minutes is needed for the full one"
        return None

    def _train(self, number: int) -> Iterator[Event]:
        """Cut and distill the last size of the record, and fit what is known then. number: of the round, from 1."""
        context, size = self.context, self.record.tried[-1]
        yield from context.tracker.emit_boundary("cut", done=False)
        with on_cpu(*self.teachers):
            student = cut_of(context, context.model, self.scores, self.orders, size)
        trial = self._shorts.trial_of(student)
        timing = RunningTime(context.clock, size.seconds or 0.0)

        def remember() -> None:
            self._put([*self.record.tried[:-1], size.model_copy(update={"seconds": timing.seconds})])
            write_record(context, self.record, training.beside)

        training = NamedTraining()
        outcome = yield from remembering(self._shorts.run(trial, size.epochs, phase_of(number), training), remember)
        self._put([*self.record.tried[:-1], trained(trial, size, outcome, self.original, timing)])
        steps = self._full_steps(size.cost)
        tried, gain = expect(self.record.tried, steps, [original_curve(context)])
        self.record = self.record.model_copy(update={"tried": tuple(tried), "gain": gain})
        done = tried[-1]
        told = (
            f"Size {number}: {done.cost:.1%} of the {UNITS[self.record.objective]} ({done.shape.short}, predicted error "
            f"{done.error:.4g}) keeps {done.kept or 0:.2%} after {done.steps:,} steps, and is expected to keep "
            f"{done.expected or 0:.2%} after {steps:,}."
        )
        context.notes.append(told)
        yield Log(message=told)
