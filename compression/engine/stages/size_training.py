"""Distills the size that was found, fully, and others while time is left (`size_choice.py` says which). The best one goes on.

Another size is cut anew from the model before the cut, as the job's checkpoints and error tables have it. The saves of its
training hold the weights of the best model before.
"""

from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass, replace
from math import isinf

import torch
from transformers import PreTrainedModel

from compression.engine.context import StageContext
from compression.engine.stages import general_distillation
from compression.engine.stages.cut_facts import taken, with_errors
from compression.engine.stages.error_tables import collect_layer_inputs
from compression.engine.stages.prune import unit_scores
from compression.engine.stages.registry import planned
from compression.engine.stages.size_choice import another_share, fully, preference
from compression.engine.stages.size_record import (
    Original,
    RunningTime,
    asked_training,
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
from compression.engine.stages.size_solver import cut_of, stored_solver
from compression.engine.stages.solved_widths import axes_and_errors
from compression.engine.stages.task_training import PHASE, NamedTraining
from compression.engine.stages.vocabulary import with_fitted_tokens
from compression.engine.tables_checkpoint import FOLDER, copy_tables, tables_saved, write_search
from compression.models.running_statistics import saved_buffers
from compression.planning.size_fit import expect, fit_sizes, steps_needed
from compression.planning.size_plan import LEAST_FITTED, Pace
from compression.schema.errors import MissingResource, TargetOutOfReach, TrainingDiverged, UnsupportedShape
from compression.schema.events import Event
from compression.schema.recipe.distill import Distill
from compression.schema.report.size_search import SizeSearch, SizeTried
from compression.schema.report.targets import reaches
from compression.schema.stages import PRUNED
from compression.system.device import rest
from compression.system.sealed_folder import UnusableCheckpoint
from compression.training.config import TrainingOutcome

MOST_OTHERS = 5
"""Other sizes that are distilled after the first. It is the time that limits them: a save names as many trainings."""
BEST = "best."  #: prefix of the names of the best model's weights in a save
NOT_CUT = (UnusableCheckpoint, UnsupportedShape, TargetOutOfReach, MissingResource)
"""What keeps another size from being cut, but not the job from going on with those that are trained."""
UNTRAINED = {
    **dict.fromkeys(("score", "kept", "kept_error", "seconds", "judging_seconds", "error_seconds")),
    **dict.fromkeys(("steps", "epochs", "general_epochs"), 0),
    "curve": (),
}
Distilled = Callable[[StageContext, Distill, NamedTraining], Generator[Event, None, TrainingOutcome]]


def suffix_of(number: int) -> str:
    """Return what the phases of a training are called after: the first, 0, has nothing."""
    return f", size {number + 1}" if number else ""


def further_phases(names: tuple[str, ...]) -> Iterator[tuple[str, float]]:
    """Yield the phases of trainings of other sizes, which are not expected. names: of the first training's."""
    for number in range(1, MOST_OTHERS + 1):
        yield from ((name + suffix_of(number), 0.0) for name in names)


def sized_training(context: StageContext, settings: Distill, distilled: Distilled) -> Iterator[Event]:
    """Distill the context's model, and other sizes while time is left. The context's model and result are those of the best.
    distilled: the distillation of a context's model.
    """
    yield from SizedTraining(context, settings, distilled, judged_original(context), context.device).run()


@dataclass
class SizedTraining:
    """The full trainings of one search. original: the uncompressed model; device: that models train on."""

    context: StageContext
    settings: Distill
    distilled: Distilled
    original: Original
    device: torch.device
    best: tuple[int, PreTrainedModel] | None = None  #: number in the record, and the trained model

    def run(self) -> Iterator[Event]:
        """Train until time is over, or no other size is worth it."""
        number, record, why = yield from self._begin()
        while why is None or self.best is None:
            try:
                record = yield from self._train(number, record, follows=why is None)
            except TrainingDiverged as problem:
                if self.best is None:
                    raise
                record = record.model_copy(update={"tried": record.tried[:-1]})
                why = yield from warned("another size was not trained", problem)
                break
            self._take_best(record)
            if why is None:
                try:
                    record, why = yield from self._other_size(number, record)
                except NOT_CUT as problem:
                    why = yield from warned("no other size was cut", problem)
            number += 1
        place, self.context.model = self.best
        self.context.model.to(self.device)
        tried = tuple(one.model_copy(update={"chosen": at == place}) for at, one in enumerate(record.tried))
        told = f"{record.why} {self._outcome(place, record)} {why[0].upper()}{why[1:]}."
        found = {"tried": tried, "why": told, "minutes": self.context.clock.seconds / 60}
        self.context.result.sizes = record.model_copy(update=found)
        self.context.notes.append(told)
        if place != fully(record)[0]:
            try:
                yield from self._describe(tried[place])
            except NOT_CUT as problem:
                why = yield from warned("The widths that are told of the cut are those of the first size", problem)
                self.context.notes.append(f"{why}.")

    def _found(self) -> tuple[int, SizeSearch]:
        """Return the number of the training to go on with, and the record: an earlier attempt's, or that of the cut."""
        for number in range(MOST_OTHERS + 1):
            suffix = suffix_of(number)
            phases = [PHASE + suffix, general_distillation.PHASE + suffix]
            self._saved = next(filter(None, map(self.context.saved, phases)), {})
            if (record := saved_record(self.context, phases)) is not None:
                return number, self._with_export(record)
        assert self.context.result.sizes is not None, "the cut has left it"  # noqa: S101
        return 0, self._with_export(self.context.result.sizes)

    def _with_export(self, record: SizeSearch) -> SizeSearch:
        """Return the record with what the cut model's export took: the search began with what the one before took."""
        shipped = self.context.clock.shipped
        return record if shipped is None else record.model_copy(update={"ship_seconds": shipped})

    def _begin(self) -> Generator[Event, None, tuple[int, SizeSearch, str | None]]:
        """Return the number of the training to go on with, the record, and why no other size is trained, or None. If the sizes
        of an earlier attempt cannot be cut again, its best one is taken, or if that is no more there, the first one trained.
        """
        number, record = self._found()
        try:
            if number:
                yield from self._go_on(record)
        except NOT_CUT as problem:
            why = yield from warned("no other size was cut", problem)
            self.context.model.to(self.device)
            first = fully(record)[0]
            again = (*record.tried[:first], record.tried[first].model_copy(update=UNTRAINED))
            tried = again if self.best is None else record.tried[:-1]
            return 0, record.model_copy(update={"tried": tried}), why
        return number, record, None

    def _go_on(self, record: SizeSearch) -> Iterator[Event]:
        """Restore the best model of an earlier attempt, and the other size that it trained. Raises NOT_CUT."""
        done = [at for at in fully(record) if record.tried[at].kept is not None]
        place = min(done, key=lambda at: preference(record, at))
        model = self.context.model if place == done[0] else (yield from self._cut(record.tried[place]))
        with torch.no_grad():
            for at, own in enumerate(weights_of(model)):
                own.copy_(self._saved[f"{BEST}{at}"])
        self.best = place, model.cpu()
        self.context.model = yield from self._cut(record.tried[-1])

    def _may_follow(self, record: SizeSearch) -> Generator[Event, None, bool]:
        """Return whether another size may be worth a training after the first: a larger one, or a smaller one."""
        size = record.tried[-1]
        try:
            solver, *_ = yield from stored_solver(self.context)
            return size.share < solver.mildest or fit_sizes(record.tried).keeps(size.error, record.retention)
        except NOT_CUT:
            return False

    def _train(self, number: int, record: SizeSearch, *, follows: bool) -> Generator[Event, None, SizeSearch]:
        """Distill the last size of the record; return the record with what came of it. follows: whether another may, after the
        first.
        """
        context, size = self.context, record.tried[-1]
        if not size.epochs:
            left, asked = seconds_left(context, record), asked_training(context, self.settings, record)
            follows = (yield from self._may_follow(record)) if not number and follows else False
            full = (asked.first if follows else asked.fitted)(pace_of(record, asked, size.cost), left)
            own = {"epochs": full.epochs, "general_epochs": full.general_epochs, "steps": full.steps}
            size = size.model_copy(update=own)
        general = self.settings.general
        if general is not None:
            general = general.model_copy(update={"epochs": size.general_epochs})
        fitted = self.settings.model_copy(update={"epochs": size.epochs, "general": general})
        timing, training = RunningTime(context.clock, size.seconds or 0.0), NamedTraining(suffix_of(number))
        training.again = True
        if self.best is not None:
            training.beside = {f"{BEST}{at}": own.detach() for at, own in enumerate(weights_of(self.best[1]))}

        def so_far() -> SizeTried:
            done = size.general_epochs if training.general_epochs is None else training.general_epochs
            return size.model_copy(update={"seconds": timing.seconds, "general_epochs": done})

        def remember() -> None:
            write_record(context, with_last(record, so_far()), training.beside)

        there = replace(context, originals=list(context.originals), saves_ends=True)
        outcome = yield from remembering(self.distilled(there, fitted, training), remember)
        return with_last(record, trained(context, so_far(), outcome, self.original, timing, training.rows))

    def _take_best(self, record: SizeSearch) -> None:
        """Keep the model that has just been trained, if it is preferred to the best one before."""
        place = len(record.tried) - 1
        if self.best is None or preference(record, place) < preference(record, self.best[0]):
            self.best = place, self.context.model

    def _other_size(self, number: int, record: SizeSearch) -> Generator[Event, None, tuple[SizeSearch, str | None]]:
        """Cut another size, if one is worth the time that is left; return the record with it, or why not. number: of the
        training before. Raises NOT_CUT.
        """
        context, last = self.context, record.tried[-1]
        tried, gain = expect(record.tried, last.steps, [original_curve(context)])
        record = record.model_copy(update={"tried": tuple(tried), "gain": gain})
        if number >= MOST_OTHERS:
            return record, f"{MOST_OTHERS + 1} sizes were distilled fully"
        solver, *_ = yield from stored_solver(context)
        left, asked = seconds_left(context, record), asked_training(context, self.settings, record)

        def seconds_of(cost: float) -> tuple[float, float]:
            """Return the least that a training may take, and what it would; of a size that costs so much."""
            took = (last.seconds or 0.0) * max(cost / max(last.cost, 1e-9), 1.0)
            pace = pace_of(record, asked, cost) or Pace(0.0)
            least = max(LEAST_FITTED * took, asked.least.seconds(pace))
            return least, max(took, asked.fitted(pace, left).seconds(pace))

        share, why = another_share(record, solver, last=False)
        if why is not None or number + 1 >= MOST_OTHERS or left < sum(seconds_of(solver.share_of(solver.at(share)))):
            share, why = another_share(record, solver, last=True)
        if why is not None:
            return record, why
        size = solver.size(share, kind="full", steps=0, epochs=0)
        needed, _ = seconds_of(size.cost)
        if left < needed:
            more = (needed - left) / 60
            return record, f"for {size.cost:.1%}, the next size, the budget is {more:.1f} minutes too short"
        assert self.best is not None  # noqa: S101
        rest(self.best[1])
        context.model = yield from self._cut(size)
        return record.model_copy(update={"tried": (*record.tried, size)}), None

    def _cut(self, size: SizeTried) -> Generator[Event, None, PreTrainedModel]:
        """Cut a size anew from the model before the cut, for which all others leave the device. Raises NOT_CUT."""
        context, settings = self.context, self.context.recipe.prune
        assert settings is not None, "auto needs it"  # noqa: S101
        rest(context.model)
        _, _, _, orders = yield from stored_solver(context)
        stages = planned(context.recipe)
        uncut = context.model_of(stages[stages.index(PRUNED) - 1])
        if context.input_pruner is not None:
            uncut = with_fitted_tokens(context.input_pruner, uncut)
        uncut = uncut.to(self.device).eval()
        there = replace(context, model=uncut)
        collect_layer_inputs(there)
        return cut_of(there, uncut, unit_scores(there, settings), orders, size)

    def _describe(self, size: SizeTried) -> Generator[Event, None, None]:
        """Put into the report what another size has left, in place of what the cut had, and beside the tables its error.
        Raises NOT_CUT.
        """
        context, settings = self.context, self.context.recipe.prune
        assert settings is not None, "auto needs it"  # noqa: S101
        solver, facts, tables, _ = yield from stored_solver(context)
        found, place = solver.at(size.share), context.checkpointer
        if place.resume is not None and not (place.folder / FOLDER / place.part).is_dir():
            copy_tables(place.resume, place.folder, place.part)
        write_search(place.folder, place.part, facts.model_copy(update={"error": found.error}))
        yield tables_saved(place.folder, place.part, tables)
        ratios, errors = axes_and_errors(found, tables, settings, facts.whole)
        each = (context.result.pruning or {}).get("layers", {}).get("each")
        told = taken(facts.before, found.shape, settings, ratios)
        context.result.pruning = with_errors(told, facts.whole, found.shape, errors, found.layers)
        if each is not None:
            kept = {*found.layers}
            again = {name: {**one, "removed": at not in kept} for at, (name, one) in enumerate(each.items())}
            context.result.pruning["layers"]["each"] = again

    def _outcome(self, place: int, record: SizeSearch) -> str:
        """Return what came of the chosen size, and if it misses the target what it would take to meet it. place: its number in
        the record.
        """
        size, full = record.tried[place], fully(record)
        kept, target = size.kept or 0.0, record.retention
        which = f"Of {len(full)} sizes that were distilled fully, number {full.index(place) + 1} goes on. " if full[1:] else ""
        scored = f"{size.cost:.1%} kept {with_error(kept, size.kept_error or 0)} on validation, by the engine's own model"
        told = f"{which}Distilled for {size.epochs} epochs, {scored}."
        if reaches(kept, target):
            return f"{told} That meets the target."
        steps = steps_needed(kept, size.steps, target, record.gain)
        if isinf(steps):
            more = "more steps are not expected to change that: it takes more rows of train, or a lower target"
        else:
            asked = asked_training(self.context, self.settings, record)
            pace = pace_of(record, asked, size.cost) or Pace(0.0)
            minutes = (steps - size.steps) * (pace.step + pace.judging / max(asked.epoch_steps, 1)) / 60
            more = f"as losses have fallen so far, it takes about {steps:,.0f} steps, {minutes:,.0f} minutes more"
        return f"{told} That misses the target; {more}."


def with_last(record: SizeSearch, size: SizeTried) -> SizeSearch:
    """Return the record with another last size."""
    return record.model_copy(update={"tried": (*record.tried[:-1], size)})


def weights_of(model: PreTrainedModel) -> list[torch.Tensor]:
    """Return all that training changes of a model."""
    return [*model.parameters(), *saved_buffers(model)]
