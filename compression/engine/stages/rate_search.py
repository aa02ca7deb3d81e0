"""Warms up a new head and chooses the learning rate by short trainings, before an original is tuned."""

import math
from collections.abc import Generator, Sequence
from dataclasses import dataclass, replace

import torch
from torch import nn
from transformers import PreTrainedModel

from compression.engine.context import StageContext
from compression.evaluation.standard_error import group_losses, standard_error
from compression.modalities.base import label_loss
from compression.modalities.sampling import shuffled_rows
from compression.models.adapters.registry import adapter_of
from compression.models.running_statistics import saved_buffers
from compression.planning import preparation as rules
from compression.schema.errors import TrainingDiverged
from compression.schema.events import Log, TrainingSaved
from compression.schema.report.preparation import RateTried
from compression.system.progress import Returning, Step
from compression.training.config import TrainingOutcome
from compression.training.trainer import train
from compression.training.work import TrainingHooks

News = Step | TrainingSaved | Log
Ticks = Generator[News, None, TrainingOutcome]
Steps = Generator[News, None, None]


def head_of(model: PreTrainedModel) -> list[nn.Parameter]:
    """Return the head's parameters: none for a language model, whose output layer is part of the model."""
    if model.get_output_embeddings() is not None:
        return []
    found = adapter_of(model).head(model)
    return [parameter for part in (found.dense, found.out) if part is not None for parameter in part.parameters()]


def out_of(model: PreTrainedModel) -> list[nn.Parameter]:
    """Return the parameters of the output layer, which a new head initialises at random. BERT's pooler, before that layer,
    comes with the encoder and may lose its pretraining if it is warmed up too.
    """
    out = adapter_of(model).head(model).out if head_of(model) else None
    return [] if out is None else list(out.parameters())


@dataclass(frozen=True)
class Probed:
    """A probe's result on validation: losses of groups of rows, (groups,), None if it diverged; the score's error."""

    losses: torch.Tensor | None
    error: float

    def is_surely_better(self, other: "Probed") -> bool:
        """Return whether the loss is lower by more than SURELY standard errors of the difference, groups in pairs."""
        if self.losses is None or other.losses is None:
            return self.losses is not None
        lower = other.losses - self.losses
        error = lower.std().item() / math.sqrt(len(lower)) if len(lower) > 1 else 0.0
        return lower.mean().item() > rules.SURELY * error


@dataclass
class RateSearch:
    """Chooses the rates of body and head for one original; `tried` lists every probe. Call `steps` once.

    A probe trains for a few steps on a sample of train and is judged by the loss on validation after them, more informative
    than the metric so early. Only a surely better setting replaces the usual one. The model ends as it was before the probes,
    with its head warmed up (whole_head: also the layer before it). error: of the score after the best probe.
    """

    state: StageContext
    model: PreTrainedModel
    seed: int
    new_head: bool
    rate: float | None
    tried: list[RateTried]
    head_factor: float = 1.0
    whole_head: bool = False
    error: float | None = None
    _done: int = 0

    def steps(self) -> Steps:
        """Warm up the head if it is new, then probe rates unless one is given."""
        if self.new_head:
            yield from self._counted(self._warm_up(out_of(self.model)))
        if self.rate is not None:
            if self.new_head and self.whole_head:
                yield from self._counted(self._warm_up(head_of(self.model)))
            yield Step(self._portions, self._portions)
            return
        before, began = self._weights(), self.state.clock.seconds
        best, found = rules.USUAL_RATE, (yield from self._probe(rules.RATES[rules.USUAL_RATE], 1.0, before))
        if self._leaves_time(self.state.clock.seconds - began):
            if self.new_head and len(head_of(self.model)) > len(out_of(self.model)):
                before, found = yield from self._whole_head(before, found)
            best, found = yield from self._best_place(before, found)
            if head_of(self.model):
                faster = yield from self._probe(rules.RATES[best], rules.HEAD_FACTOR, before)
                self.head_factor = rules.HEAD_FACTOR if faster.is_surely_better(found) else 1.0
        self.error = found.error
        won = rules.RATES[best], rules.RATES[best] * self.head_factor, self.whole_head
        self.tried = [one.model_copy(update={"chosen": (one.rate, one.head_rate, one.whole_head) == won}) for one in self.tried]
        steps = rules.steps_an_epoch(len(self.state.rows["train"]), self.state.recipe.train)
        most = self.state.budget.steps_of(rules.bound(self.state.recipe.prepare, steps) * steps)
        self.rate = rules.RATES[best] * rules.long_run(steps, most)
        yield Step(self._portions, self._portions)

    def _leaves_time(self, probe_seconds: float) -> bool:
        """Return whether further probes leave a search for a size its time, and note it if not. probe_seconds: of the first."""
        state, prepare, auto = self.state, self.state.recipe.prepare, self.state.recipe.auto
        if auto is None:
            return True
        _, epochs, steps = self._size()
        epoch = rules.steps_an_epoch(len(state.rows["train"]), state.recipe.train)
        originals = max(state.recipe.distill.teachers.seeds, 1) if state.recipe.distill is not None else 1
        tuning = originals * rules.expected(prepare, epoch) * epoch / (epochs * steps)
        expected = state.clock.seconds + (rules.MOST_PROBES - 1 + tuning) * probe_seconds
        minutes = auto.budget_minutes / state.budget.sharers
        if expected <= rules.TUNING_SHARE * 60 * minutes:
            return True
        state.notes.append(
            f"Further rates were not probed: with them, tuning would take about {expected / 60:.1f} of the {minutes:g} minutes "
            f"of auto.budget_minutes, more than {rules.TUNING_SHARE:.0%}."
        )
        return False

    def _whole_head(self, start: list[torch.Tensor], usual: Probed) -> Generator[News, None, tuple[list[torch.Tensor], Probed]]:
        """Warm up the layer before the output layer too, and keep the result if its probe is surely better. Returns the weights
        that training starts from, and the usual rate's result from there.
        """
        yield from self._counted(self._warm_up(head_of(self.model)))
        warmed, self.whole_head = self._weights(), True
        other = yield from self._probe(rules.RATES[rules.USUAL_RATE], 1.0, warmed)
        if other.is_surely_better(usual):
            return warmed, other
        self.whole_head = False
        self._put_back(start)
        return start, usual

    def _best_place(self, before: list[torch.Tensor], usual: Probed) -> Generator[News, None, tuple[int, Probed]]:
        """Return the best rate's index in RATES and its result: of those around the usual one, only if surely better."""
        best, found = rules.USUAL_RATE, usual
        for place in (rules.USUAL_RATE + 1, rules.USUAL_RATE + 2):
            other = yield from self._probe(rules.RATES[place], 1.0, before)
            if not other.is_surely_better(found):
                break
            best, found = place, other
        if best == rules.USUAL_RATE:
            other = yield from self._probe(rules.RATES[rules.USUAL_RATE - 1], 1.0, before)
            if other.is_surely_better(found):
                best, found = rules.USUAL_RATE - 1, other
        return best, found

    def _weights(self) -> list[torch.Tensor]:
        """Copy all weights, to the host's memory as a training's best ones."""
        return [own.detach().to("cpu", copy=True) for own in (*self.model.parameters(), *saved_buffers(self.model))]

    @torch.no_grad()
    def _put_back(self, weights: list[torch.Tensor]) -> None:
        for own, weight in zip((*self.model.parameters(), *saved_buffers(self.model)), weights, strict=True):
            own.copy_(weight)
            own.grad = None

    @property
    def _portions(self) -> int:
        return (rules.MOST_PROBES if self.rate is None or self.tried else 0) + rules.WARM_UPS

    def _size(self) -> tuple[int, int, int]:
        """Return a probe's rows, its epochs over them, and the steps of each epoch."""
        common = self.state.recipe.train
        rows = min(rules.PROBE_STEPS * common.batch * common.accumulate, len(self.state.rows["train"]))
        steps = rules.steps_an_epoch(rows, common)
        return rows, rules.probe_epochs(steps), steps

    def _train(self, rate: float, factor: float, *, frozen: Sequence[nn.Parameter] = ()) -> Ticks:
        rows, epochs, _ = self._size()
        plan = self.state.plan("prepare", epochs=epochs, rate=rate, dropout=True, seed=self.seed, keeps_last=True)
        return train(
            self.model,
            replace(plan, head_factor=factor),
            shuffled_rows(self.state.rows["train"], rows, self.seed),
            self.state.rows["validation"],
            label_loss(self.state.task, self.model),
            hooks=TrainingHooks(head=head_of(self.model), frozen=frozen),
            budget=self.state.budget,
            processes=self.state.processes,
        )

    def _warm_up(self, parameters: list[nn.Parameter]) -> Ticks:
        own = {id(parameter) for parameter in parameters}
        return self._train(rules.HEAD_RATE, 1.0, frozen=[one for one in self.model.parameters() if id(one) not in own])

    def _probe(self, rate: float, factor: float, before: list[torch.Tensor]) -> Generator[News, None, Probed]:
        """Train from `before` at one rate; return the result, and restore `before`."""
        value, found = None, Probed(None, 0.0)
        try:
            outcome = yield from self._counted(self._train(rate, factor))
            validation, parts = self.state.rows["validation"], self.state.parts
            found = Probed(group_losses(self.model, validation, parts), standard_error(self.model, validation, parts))
            value = outcome.best.value
        except TrainingDiverged:
            self.model.eval()
        self._put_back(before)
        _, epochs, steps = self._size()
        loss = None if found.losses is None else found.losses.mean().item()
        self.tried.append(
            RateTried(
                rate=rate, head_rate=rate * factor, whole_head=self.whole_head, steps=epochs * steps, score=value, loss=loss
            )
        )
        return found

    def _counted(self, ticks: Ticks) -> Ticks:
        """Relay a training's steps as a portion of all probes, and check for a pause between steps."""
        number, self._done = self._done, self._done + 1
        for news in (each := Returning(ticks)):
            self.state.check_pause()
            if isinstance(news, Step):
                total = max(news.total, 1)
                # Probes carry no score: the job's page draws a curve from every step that does.
                yield replace(news, step=number * total + news.step, total=self._portions * total, score=None)
            else:
                yield news
        return each.result
