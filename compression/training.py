"""The one training loop: preparation, quantization-aware training, recovery and distillation all go through it.

AdamW (Loshchilov & Hutter 2019), linear warm-up and decay, clipped gradients; the best epoch on validation is what remains.
The same seed gives the same result on the same machine, also where the loop was stopped on the way and a new process took it
up: all that it remembers is in `_Run`, which `saving` writes and reads.
"""

import math
from collections.abc import Callable, Generator, Iterable
from dataclasses import dataclass
from itertools import islice

import torch
from torch import Tensor, nn

from compression import numerics
from compression.batches import Batch, Encoded, steps
from compression.errors import TrainingDiverged
from compression.evaluate import Validation, validate
from compression.report import Log, TrainingSaved
from compression.saving import Course, Shapes, Tensors, Where, random_state, set_random_state

LARGEST_GRADIENT = 1.0
"""Gradients of a larger norm are scaled down to it: BERT's own fine-tuning value."""
LEAST_DECAY, MOST_DECAY = 1e-4, 0.3
"""Between these the adapted L2 stays: below it has no effect, above it the weights collapse within an epoch."""


@dataclass(frozen=True)
class Plan:
    """How to train; `name` is the recipe's key, for messages.

    `parts` is in how many parts each batch goes through the model, their gradients added up: the same step in less memory, as
    near as losses and dropout let it (`_Run.gradients`).
    """

    name: str
    epochs: int
    rate: float
    batch: int
    seed: int
    warmup: float = 0.1
    decay: float = 0.01
    adapt_decay: bool = False
    dropout: bool = False
    parts: int = 1


@dataclass(frozen=True)
class Tick:
    """Where the loop is. `score` is on validation, after an epoch; `resumed`: what came before took no time of ours."""

    step: int
    total: int
    loss: float | None = None
    rate: float | None = None
    score: float | None = None
    resumed: bool = False


@dataclass(frozen=True)
class Outcome:
    """What the loop came to. Epoch 0 is the model as it was before."""

    best_epoch: int
    before: Validation
    best: Validation
    stepped_back: bool


Loss = Callable[[Batch], Tensor]
BeforeEpoch = Callable[[int], None]


def nothing(_epoch: int) -> None:
    """Do nothing before an epoch."""


def train(
    model: nn.Module,
    plan: Plan,
    train_rows: Encoded,
    validation_rows: Encoded,
    loss: Loss,
    *,
    before_epoch: BeforeEpoch = nothing,
    validation: Callable[[], Validation] | None = None,
    extra: Iterable[nn.Parameter] = (),
    course: Course | None = None,
) -> Generator[Tick | TrainingSaved | Log, None, Outcome]:
    """Train `model` in place on `loss`; leave it in evaluation mode with the weights of its best epoch.

    `before_epoch` may freeze parameters or exchange layers, and must be right when it is called in mid-epoch, after a
    resumption; `validation` replaces the plain scoring on `validation_rows`; `extra` are parameters that are trained beside
    the model's and thrown away after; `course` saves, pauses and takes up again. With no epochs nothing changes. A loss that
    is not finite puts the last good epoch back, once, at half the rate. Raises TrainingDiverged at the second time, and
    what `course` does.
    """
    judge = validation or (lambda: validate(model, validation_rows, plan.parts))
    run = _Run(model, plan, list(extra), steps(len(train_rows), plan.batch))
    found = (yield from course.take_up(run.shapes)) if course is not None and plan.epochs else None
    if found is not None:
        run.take_up(*found)
        yield Tick(run.where.step, run.total, resumed=True)
    else:
        before = judge()
        if plan.epochs == 0:
            model.eval()
            return Outcome(0, before, before, False)
        torch.manual_seed(plan.seed)
        run.begin(before)
    where = run.where
    while where.epoch <= plan.epochs and not where.ended:
        before_epoch(where.epoch)
        model.train(plan.dropout)
        healthy = yield from run.epoch(train_rows, loss, course)
        if not healthy:
            run.step_back()
            continue
        score = run.judged(judge())
        yield Tick(where.step, run.total, where.last_loss, run.rate(), score)
    run.leave_best()
    if course is not None and not where.ended:
        where.ended = True
        yield from course.after_step(run, ended=True)
    return Outcome(where.best_epoch, where.before, where.best, where.stepped_back)


def _like(parameter: Tensor, values: Tensor) -> Tensor:
    # In the parameter's own layout: the fused optimizer goes through both as they lie in memory.
    return torch.empty_like(parameter, requires_grad=False).copy_(values)


class _Run:
    """All that one call of `train` remembers: numbers (`where`), parameters, optimizer, weights to go back to."""

    where: Where

    def __init__(self, model: nn.Module, plan: Plan, extra: list[nn.Parameter], steps_an_epoch: int) -> None:
        self.model, self.plan = model, plan
        self.steps_an_epoch, self.total = steps_an_epoch, plan.epochs * steps_an_epoch
        self.parameters = [*model.parameters(), *extra]

    @property
    def shapes(self) -> Shapes:
        """Return the shapes of all that is trained."""
        return tuple(tuple(parameter.shape) for parameter in self.parameters)

    def begin(self, before: Validation) -> None:
        """Start at the first step. `before` is what the model scores now."""
        self.where = Where(before=before, best=before, decay=self.plan.decay)
        self.good = self.best_weights = self.snapshot()
        self.optimizer = self._optimizer()

    def tensors(self) -> Tensors:
        """Return all that must be kept beside `where`; weights that are the same ones are named once."""
        found: Tensors = {f"weight.{i}": parameter for i, parameter in enumerate(self.parameters)}
        if self.where.ended:
            return {**found, **random_state()}
        found |= {f"good.{i}": weight for i, weight in enumerate(self.good)}
        if self.best_weights is not self.good:
            found |= {f"best.{i}": weight for i, weight in enumerate(self.best_weights)}
        for i, parameter in enumerate(self.parameters):
            found |= {f"{name}.{i}": value for name, value in self.optimizer.state.get(parameter, {}).items()}
        return {**found, **random_state()}

    def take_up(self, where: Where, tensors: Tensors) -> None:
        """Become the loop that was saved, bit for bit."""
        self.where = where
        self.restore(self._like_parameters("weight", tensors))
        self.optimizer = self._optimizer()
        if where.ended:
            self.good = self.best_weights = self.snapshot()
        else:
            self.good = self._like_parameters("good", tensors)
            self.best_weights = self._like_parameters("best", tensors) if "best.0" in tensors else self.good
            for i, parameter in enumerate(self.parameters):
                if f"step.{i}" in tensors:  # a parameter that was frozen so far has no state
                    step = tensors[f"step.{i}"].to(parameter.device, copy=True)
                    moments = {name: _like(parameter, tensors[f"{name}.{i}"]) for name in ("exp_avg", "exp_avg_sq")}
                    self.optimizer.state[parameter] = {"step": step, **moments}
        set_random_state(tensors)

    def _like_parameters(self, name: str, tensors: Tensors) -> list[Tensor]:
        return [_like(parameter, tensors[f"{name}.{i}"]) for i, parameter in enumerate(self.parameters)]

    def _optimizer(self) -> torch.optim.AdamW:
        # Biases, norms and tables are not decayed: a table's row that no text used must stay as it was pre-trained.
        tables = {id(p) for m in self.model.modules() if isinstance(m, nn.Embedding) for p in m.parameters()}
        plain = [p for p in self.parameters if p.ndim < 2 or id(p) in tables]
        decayed = [p for p in self.parameters if p.ndim >= 2 and id(p) not in tables]
        groups = [{"params": decayed, "weight_decay": self.where.decay}, {"params": plain, "weight_decay": 0.0}]
        return torch.optim.AdamW(groups, lr=self.plan.rate, fused=True)

    def rate(self) -> float:
        """Linear up over the warm-up, linear down to nothing at the end."""
        step, warm = self.where.step, max(1, round(self.plan.warmup * self.total))
        share = (step + 1) / warm if step < warm else (self.total - step) / max(1, self.total - warm)
        return self.plan.rate * self.where.scale * max(share, 0.0)

    def epoch(self, rows: Encoded, loss: Loss, course: Course | None) -> Generator[Tick | TrainingSaved | Log, None, bool]:
        """Go through the rows that this epoch has left; say whether all losses and gradients were finite."""
        where = self.where
        for batch in islice(rows.shuffled(self.plan.batch, self.plan.seed * 1_000_003 + where.epoch), where.done, None):
            for group in self.optimizer.param_groups:
                group["lr"] = self.rate()
            if not self.gradients(batch, loss):
                return False
            norm = nn.utils.clip_grad_norm_(self.parameters, LARGEST_GRADIENT)
            if not math.isfinite(norm.item()):
                return False
            self.optimizer.step()
            self.optimizer.zero_grad()
            where.step += 1
            where.done += 1
            yield Tick(where.step, self.total, where.last_loss, self.rate())
            if course is not None:
                yield from course.after_step(self)
        return True

    def gradients(self, batch: Batch, loss: Loss) -> bool:
        """Compute the gradients of a batch, in the plan's parts; say whether its loss was finite.

        Parts are weighted by their rows, so the sum is the whole batch's for every loss that is a mean over rows. Those of
        hidden states and attention relations are means over tokens: there a row of a part with short rows counts for a
        little more. Dropout draws other numbers. Nothing else differs but rounding.
        """
        device = next(self.model.parameters()).device
        self.where.last_loss = 0.0
        for part in batch.split(self.plan.parts):
            with torch.autocast(device.type, torch.bfloat16, enabled=self._half_precision(device)):
                value = loss(part.to(device)) * (len(part.rows) / len(batch.rows))
            self.where.last_loss += value.item()
            if not math.isfinite(self.where.last_loss):
                return False
            value.backward()  # type: ignore[no-untyped-call]
        return True

    def _half_precision(self, device: torch.device) -> bool:
        # Simulated integers must stay exact, so bfloat16 is for plain full-precision training only (2.3 times as fast there).
        simulated = any(type(m) is numerics.FakeQuantLinear for m in self.model.modules())
        return not simulated and numerics.gradient_dtype(device) == torch.bfloat16

    def judged(self, now: Validation) -> float:
        """End an epoch that validation found to be worth `now`: keep it as the last good one, and as the best if it is."""
        where = self.where
        self.adapt_decay(now.score)
        self.good = self.snapshot()
        if now > where.best:
            where.best, where.best_epoch, self.best_weights = now, where.epoch, self.good
        where.epoch, where.done = where.epoch + 1, 0
        return now.score

    def snapshot(self) -> list[Tensor]:
        """Copy all weights."""
        return [p.detach().clone() for p in self.parameters]

    @torch.no_grad()
    def restore(self, weights: list[Tensor]) -> None:
        """Put copied weights back."""
        for parameter, weight in zip(self.parameters, weights, strict=True):
            parameter.copy_(weight)

    def leave_best(self) -> None:
        """Leave the model with the weights of its best epoch, nothing frozen, in evaluation mode."""
        self.restore(self.best_weights)
        for parameter in self.model.parameters():
            parameter.requires_grad_(True)
            parameter.grad = None
        self.model.eval()

    def step_back(self) -> None:
        """Return to the last good epoch at half the rate. Raises TrainingDiverged where that was done before."""
        where, plan = self.where, self.plan
        if where.stepped_back:
            raise TrainingDiverged(
                f"the loss of {plan.name} is not finite in epoch {where.epoch}, also at half the rate ({plan.rate / 2:g})",
                param=f"recipe.{plan.name}.rate",
            )
        where.stepped_back = True
        self.restore(self.good)
        where.scale, where.step, where.done = 0.5, (where.epoch - 1) * self.steps_an_epoch, 0
        self.optimizer = self._optimizer()
        self.optimizer.zero_grad()  # what is not finite must not be added to

    def adapt_decay(self, score: float) -> None:
        """Double the L2 where validation fell, halve it where it rose: the article's regularization in recovery."""
        where = self.where
        if self.plan.adapt_decay and where.last_score is not None and score != where.last_score:
            factor = 2.0 if score < where.last_score else 0.5
            where.decay = min(max(where.decay * factor, LEAST_DECAY), MOST_DECAY)
            self.optimizer.param_groups[0]["weight_decay"] = where.decay
        where.last_score = score
