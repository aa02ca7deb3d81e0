"""Before an original is tuned: a new head is warmed up, and short trainings from the same weights choose the rate."""

from collections.abc import Generator, Iterable, Mapping
from dataclasses import dataclass, replace

import torch
from torch import nn
from transformers import PreTrainedModel

from compression import families
from compression.catalog.preparation import (
    FIRST_RATES,
    HEAD_FACTOR,
    HEAD_RATE,
    MOST_PROBES,
    PROBE_STEPS,
    RATES,
    SLACK,
    bound,
    long_run,
    probe_epochs,
    steps_an_epoch,
)
from compression.errors import TrainingDiverged
from compression.plan import Outcome, Plan, Tick
from compression.report import Log, RateTried, TrainingSaved
from compression.stages.scores import calibration_draw
from compression.standard_error import standard_error
from compression.state import State
from compression.tasks.base import labelled
from compression.training import train

News = Tick | TrainingSaved | Log
Ticks = Generator[News, None, Outcome]
Steps = Generator[News, None, None]


def head_of(model: PreTrainedModel) -> list[nn.Parameter]:
    """Return the parameters of what follows the encoder or decoder; none of a language model, whose output layer is its own."""
    if model.get_output_embeddings() is not None:
        return []
    found = families.of(model).head(model)
    return [parameter for part in (found.dense, found.out) if part is not None for parameter in part.parameters()]


@dataclass(frozen=True)
class Probed:
    """What a probe came to on validation: the loss, and the score, higher for better."""

    loss: float
    worth: float


def highest_as_good(found: Mapping[int, Probed], error: float) -> int:
    """Choose a place in RATES: the highest whose loss is near the least, and whose score is not surely below that one's.

    The rate falls on the way where it was too high, and never rises where it was too low. error: a standard error of scores.
    """
    least = min(found, key=lambda place: (found[place].loss, place))
    most, worth = (1 + SLACK) * found[least].loss, found[least].worth - error
    return max(place for place, one in found.items() if place == least or (one.loss <= most and one.worth >= worth))


@dataclass
class RateSearch:
    """Chooses the rates of body and head for one original; `tried` has every probe. Call `steps` once.

    A probe trains for a few steps on a sample of train and is judged by the loss on validation, which tells more than the
    metric does after so few; of such as are as good, the highest rate is taken. The model is left as it was before the
    probes, with its head warmed up.
    """

    state: State
    model: PreTrainedModel
    seed: int
    new_head: bool
    rate: float | None
    tried: list[RateTried]
    head_factor: float = 1.0
    _done: int = 0

    def steps(self) -> Steps:
        """Warm the head up if it is new, then probe rates unless one is given."""
        if self.new_head:
            yield from self._counted(self._warm_up())
        if self.rate is not None:
            yield Tick(self._portions, self._portions)
            return
        before = [parameter.detach().clone() for parameter in self.model.parameters()]
        error = standard_error(self.model, self.state.rows["validation"], self.state.parts)
        found: dict[int, Probed] = {}
        for place in FIRST_RATES:
            found[place] = yield from self._probe(RATES[place], 1.0, before)
        low, high = FIRST_RATES
        further = low - 1 if found[low].loss <= found[high].loss else high + 1
        found[further] = yield from self._probe(RATES[further], 1.0, before)
        best = highest_as_good(found, error)
        if head_of(self.model):
            faster = yield from self._probe(RATES[best], HEAD_FACTOR, before)
            self.head_factor = HEAD_FACTOR if faster.loss < found[best].loss else 1.0
        won = RATES[best], RATES[best] * self.head_factor
        self.tried = [one.model_copy(update={"chosen": (one.rate, one.head_rate) == won}) for one in self.tried]
        steps = steps_an_epoch(len(self.state.rows["train"]), self.state.recipe.train)
        self.rate = RATES[best] * long_run(steps, self.state.budget.steps_of(bound(self.state.recipe.prepare, steps) * steps))
        yield Tick(self._portions, self._portions)

    @property
    def _portions(self) -> int:
        return (MOST_PROBES if self.rate is None or self.tried else 0) + 1

    def _plan(self, rate: float, factor: float) -> tuple[Plan, int]:
        common = self.state.recipe.train
        rows = min(PROBE_STEPS * common.batch * common.accumulate, len(self.state.rows["train"]))
        epochs = probe_epochs(steps_an_epoch(rows, common))
        plan = self.state.plan("prepare", epochs=epochs, rate=rate, dropout=True, seed=self.seed)
        return replace(plan, head_factor=factor), rows

    def _train(self, rate: float, factor: float, *, frozen: Iterable[nn.Parameter] = ()) -> Ticks:
        plan, rows = self._plan(rate, factor)
        fixed = list(frozen)

        def freeze(_: int) -> None:
            for parameter in fixed:
                parameter.requires_grad_(False)

        return train(
            self.model,
            plan,
            calibration_draw(self.state.rows["train"], rows, self.seed),
            self.state.rows["validation"],
            labelled(self.state.task, self.model),
            before_epoch=freeze,
            head=head_of(self.model),
            budget=self.state.budget,
        )

    def _warm_up(self) -> Ticks:
        own = {id(parameter) for parameter in head_of(self.model)}
        return self._train(HEAD_RATE, 1.0, frozen=[one for one in self.model.parameters() if id(one) not in own])

    def _probe(self, rate: float, factor: float, before: list[torch.Tensor]) -> Generator[News, None, Probed]:
        """Train from `before` at one rate; return what it came to, infinite loss if it diverged, and put `before` back."""
        value, worth = None, float("-inf")
        loss: float | None = None
        try:
            outcome = yield from self._counted(self._train(rate, factor))
            value, worth, loss = outcome.best.value, outcome.best.worth, -outcome.best.negative_loss
        except TrainingDiverged:
            self.model.eval()
        with torch.no_grad():
            for parameter, weight in zip(self.model.parameters(), before, strict=True):
                parameter.copy_(weight)
                parameter.grad = None
        plan, rows = self._plan(rate, factor)
        steps = plan.epochs * steps_an_epoch(rows, self.state.recipe.train)
        self.tried.append(RateTried(rate=rate, head_rate=rate * factor, steps=steps, score=value, loss=loss))
        return Probed(float("inf") if loss is None else loss, worth)

    def _counted(self, ticks: Ticks) -> Ticks:
        """Pass a training's ticks on as a portion of all probes, and check for a pause between steps."""
        number, self._done = self._done, self._done + 1
        while True:
            try:
                news = next(ticks)
            except StopIteration as end:
                outcome: Outcome = end.value
                return outcome
            self.state.heed()
            if isinstance(news, Tick):
                total = max(news.total, 1)
                # Scores of probes belong to no curve: the job's page draws what carries one.
                yield replace(news, step=number * total + news.step, total=self._portions * total, score=None)
            else:
                yield news
