"""The one training loop: preparation, quantization-aware training, recovery and distillation all go through it.

AdamW (Loshchilov & Hutter 2019), linear warm-up and decay, clipped gradients; the best epoch on validation is what remains.
The same seed gives the same result on the same machine.
"""

import math
from collections.abc import Callable, Generator, Iterable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from compression import numerics
from compression.batches import Batch, Encoded, steps
from compression.errors import TrainingDiverged
from compression.evaluate import Validation, validate

LARGEST_GRADIENT = 1.0
"""Gradients of a larger norm are scaled down to it: BERT's own fine-tuning value."""
LEAST_DECAY, MOST_DECAY = 1e-4, 0.3
"""Between these the adapted L2 stays: below it has no effect, above it the weights collapse within an epoch."""


@dataclass(frozen=True)
class Plan:
    """How to train; `name` is the recipe's key, for messages."""

    name: str
    epochs: int
    rate: float
    batch: int
    seed: int
    warmup: float = 0.1
    decay: float = 0.01
    adapt_decay: bool = False
    dropout: bool = False


@dataclass(frozen=True)
class Tick:
    """Where the loop is. `score` is on validation, after an epoch."""

    step: int
    total: int
    loss: float | None = None
    rate: float | None = None
    score: float | None = None


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
) -> Generator[Tick, None, Outcome]:
    """Train `model` in place on `loss`; leave it in evaluation mode with the weights of its best epoch.

    `before_epoch` may freeze parameters or exchange layers; `validation` replaces the plain scoring on `validation_rows`;
    `extra` are parameters that are trained beside the model's and thrown away after. With no epochs nothing changes. A loss
    that is not finite puts the last good epoch back, once, at half the rate. Raises TrainingDiverged at the second time.
    """
    judge = validation or (lambda: validate(model, validation_rows))
    before = best = judge()
    if plan.epochs == 0:
        model.eval()
        return Outcome(0, before, best, False)
    torch.manual_seed(plan.seed)
    beside = list(extra)
    run = _Run(model, plan, beside, total=plan.epochs * steps(len(train_rows), plan.batch))
    best_epoch, good, best_weights = 0, run.snapshot(), run.snapshot()
    epoch = 1
    while epoch <= plan.epochs:
        before_epoch(epoch)
        model.train(plan.dropout)
        healthy = yield from run.epoch(train_rows, loss, epoch)
        if not healthy:
            run.step_back(good, epoch, steps(len(train_rows), plan.batch))
            continue
        now = judge()
        run.adapt_decay(now.score)
        good = run.snapshot()
        if now > best:
            best, best_epoch, best_weights = now, epoch, good
        yield Tick(run.step, run.total, run.last_loss, run.rate(), now.score)
        epoch += 1
    run.restore(best_weights)
    for parameter in model.parameters():
        parameter.requires_grad_(True)
        parameter.grad = None
    model.eval()
    return Outcome(best_epoch, before, best, run.stepped_back)


class _Run:
    """Optimizer, rate and step count of one call of `train`."""

    def __init__(self, model: nn.Module, plan: Plan, extra: list[nn.Parameter], total: int) -> None:
        self.model, self.plan, self.extra, self.total = model, plan, extra, total
        self.parameters = [*model.parameters(), *extra]
        self.step = 0
        self.scale = 1.0
        self.decay = plan.decay
        self.last_score: float | None = None
        self.last_loss: float | None = None
        self.stepped_back = False
        self.optimizer = self._optimizer()

    def _optimizer(self) -> torch.optim.AdamW:
        # Biases, norms and tables are not decayed: a table's row that no text used must stay as it was pre-trained.
        tables = {id(p) for m in self.model.modules() if isinstance(m, nn.Embedding) for p in m.parameters()}
        plain = [p for p in self.parameters if p.ndim < 2 or id(p) in tables]
        decayed = [p for p in self.parameters if p.ndim >= 2 and id(p) not in tables]
        groups = [{"params": decayed, "weight_decay": self.decay}, {"params": plain, "weight_decay": 0.0}]
        return torch.optim.AdamW(groups, lr=self.plan.rate, fused=True)

    def rate(self) -> float:
        """Linear up over the warm-up, linear down to nothing at the end."""
        warm = max(1, round(self.plan.warmup * self.total))
        share = (self.step + 1) / warm if self.step < warm else (self.total - self.step) / max(1, self.total - warm)
        return self.plan.rate * self.scale * max(share, 0.0)

    def epoch(self, rows: Encoded, loss: Loss, epoch: int) -> Generator[Tick, None, bool]:
        """Go through the rows once; say whether all losses and gradients were finite."""
        device = next(self.model.parameters()).device
        for batch in rows.shuffled(self.plan.batch, seed=self.plan.seed * 1_000_003 + epoch):
            for group in self.optimizer.param_groups:
                group["lr"] = self.rate()
            with torch.autocast(device.type, torch.bfloat16, enabled=self._half_precision(device)):
                value = loss(batch.to(device))
            self.last_loss = value.item()
            if not math.isfinite(self.last_loss):
                return False
            value.backward()  # type: ignore[no-untyped-call]
            norm = nn.utils.clip_grad_norm_(self.parameters, LARGEST_GRADIENT)
            if not math.isfinite(norm.item()):
                return False
            self.optimizer.step()
            self.optimizer.zero_grad()
            self.step += 1
            yield Tick(self.step, self.total, self.last_loss, self.rate())
        return True

    def _half_precision(self, device: torch.device) -> bool:
        # Simulated integers must stay exact, so bfloat16 is for plain full-precision training only (2.3 times as fast there).
        simulated = any(type(m) is numerics.FakeQuantLinear for m in self.model.modules())
        return not simulated and numerics.gradient_dtype(device) == torch.bfloat16

    def snapshot(self) -> list[Tensor]:
        """Copy all weights."""
        return [p.detach().clone() for p in self.parameters]

    @torch.no_grad()
    def restore(self, weights: list[Tensor]) -> None:
        """Put copied weights back."""
        for parameter, weight in zip(self.parameters, weights, strict=True):
            parameter.copy_(weight)

    def step_back(self, good: list[Tensor], epoch: int, steps_an_epoch: int) -> None:
        """Return to the last good epoch at half the rate. Raises TrainingDiverged where that was done before."""
        if self.stepped_back:
            raise TrainingDiverged(
                f"the loss of {self.plan.name} is not finite in epoch {epoch}, also at half the rate ({self.plan.rate / 2:g})",
                param=f"recipe.{self.plan.name}.rate",
            )
        self.stepped_back = True
        self.restore(good)
        self.scale, self.step = 0.5, (epoch - 1) * steps_an_epoch
        self.optimizer = self._optimizer()

    def adapt_decay(self, score: float) -> None:
        """Double the L2 where validation fell, halve it where it rose: the article's regularization in recovery."""
        if self.plan.adapt_decay and self.last_score is not None and score != self.last_score:
            factor = 2.0 if score < self.last_score else 0.5
            self.decay = min(max(self.decay * factor, LEAST_DECAY), MOST_DECAY)
            self.optimizer.param_groups[0]["weight_decay"] = self.decay
        self.last_score = score
