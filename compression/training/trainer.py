"""The training loop for preparation, quantization-aware training, recovery and distillation.

AdamW (Loshchilov & Hutter 2019), linear warm-up and decay, gradient clipping; the model keeps the weights of the best epoch on
validation. Training ends early if validation no longer improves or the job's budget is used up; remarks report each such
decision. The same seed gives the same result on the same machine, also if the loop was interrupted and a new process resumed
it: all its state is in `_Run`, which `save` writes and reads. Of several processes, those beside the first draw other numbers
for dropout once they go on.
"""

import math
from collections.abc import Callable, Generator, Iterator
from functools import partial
from itertools import islice
from typing import Any, Unpack

import torch
from torch import Tensor, nn

from compression.evaluation.validate import Validation, validate
from compression.modalities.base import AnyBatch, Examples, TrainingRows, count_steps, grouped
from compression.models.running_statistics import saved_buffers, set_training_mode
from compression.models.tensors import Shapes, Tensors
from compression.planning import preparation
from compression.quantization.fake_quantize import input_ranges, is_simulated, set_input_ranges
from compression.quantization.precision import fast_float32, gradient_precision, half_products
from compression.schema.errors import TrainingDiverged
from compression.schema.events import Log, TrainingSaved
from compression.system.progress import Step
from compression.training.budget import Budget
from compression.training.compiled_layers import CompiledLayers
from compression.training.config import TrainingConfig, TrainingOutcome, rate_share, warm_share
from compression.training.gradient_checkpointing import recomputed
from compression.training.micro_batches import MicroBatches
from compression.training.optimizers import like, make_optimizer, saved_state
from compression.training.save import ResumableTraining, TrainerState, random_state, set_random_state
from compression.training.work import NO_HOOKS, ONE_PROCESS, Attempt, Group, TrainingHooks, Work

HOST = torch.device("cpu")
LARGEST_GRADIENT = 1.0  #: gradients are clipped to this norm, the value of BERT's fine-tuning
LEAST_DECAY, MOST_DECAY = 1e-4, 0.3
"""Bounds of the adapted L2. A step subtracts rate × L2 of each weight: over 300 steps, even the largest L2 subtracts about a
thousandth at the published account's rate (docs/method.md), 1e-5, and a tenth at 1e-3."""


def train(
    model: nn.Module,
    plan: TrainingConfig,
    train_rows: TrainingRows[AnyBatch],
    validation: Examples | Callable[[], Validation],
    loss: Callable[[AnyBatch], Tensor],
    *,
    hooks: TrainingHooks = NO_HOOKS,
    **attempt: Unpack[Attempt],
) -> Generator[Step | TrainingSaved | Log, None, TrainingOutcome]:
    """Train `model` in place on `loss`; leave it in evaluation mode with the weights of its best epoch.

    An epoch is judged by the plain score on the rows of `validation`, or by what `validation` returns. With 0 epochs nothing
    changes. If the budget is used up, training ends at that step, and a partial epoch is validated like a whole one. If a loss
    is not finite, training restores the last good epoch, once, and continues at half the rate. Raises TrainingDiverged the
    second time, Pause from `resumable`, and RankLost if one of several processes ends.
    """
    judge = validation if callable(validation) else partial(validate, model, validation, plan.parts)
    if plan.epochs == 0:
        before = judge()
        model.eval()
        return TrainingOutcome(0, before, before, False)
    work = Work(model, plan, train_rows, loss, hooks, attempt.get("budget") or Budget())
    with attempt.get("processes", ONE_PROCESS).joined(work) as group:
        outcome = yield from run(work, group, judge, attempt.get("resumable"))
    for parameter in model.parameters():
        parameter.requires_grad_(True)
        parameter.grad = None
    model.eval()
    return outcome


def run(
    work: Work, group: Group, judge: Callable[[], Validation] | None = None, resumable: ResumableTraining | None = None
) -> Generator[Step | TrainingSaved | Log, None, TrainingOutcome]:
    """Do a training's steps in one of its processes: the first judges and saves, the others have neither of both."""
    plan, hooks = work.plan, work.hooks
    run = _Run(work, group)
    found = (yield from resumable.take_up(run.shapes)) if resumable is not None else None
    if (saved := group.shared(found and found[0])) is not None:
        run.take_up(saved, found[1] if found else None)
        yield Step(run.where.step, run.expected, resumed=True)
    else:
        before = group.judged(judge)
        group.seed(plan.seed)
        run.begin(before)
    where = run.where
    run.budget.begin()
    while not run.is_over():
        hooks.before_epoch(where.epoch)
        run.freeze()
        set_training_mode(run.model, dropout=plan.dropout)
        healthy = yield from run.epoch(work.rows, resumable)
        if not healthy:
            yield Log(level="warning", message=run.step_back())
            continue
        score = run.judged(group.judged(judge))
        yield Step(where.step, run.expected, where.last_loss, run.rate(), score)
    run.restore(run.best_weights)
    if not where.ended:
        if (cut_short := run.why_cut_short()) is not None:
            where.remarks.append(cut_short)
            yield Log(message=cut_short)
        where.ended = True
        yield from run.after_step(resumable, ended=True)
    ends = tuple(where.remarks), tuple(where.curve), run.is_out_of_patience()
    group.finish()
    return TrainingOutcome(where.best_epoch, where.before, where.best, where.stepped_back, *ends)


class _Run:
    """State of one call of `train`: scalars (`where`), weights (parameters, buffers), optimizer, and weights to restore."""

    where: TrainerState

    def __init__(self, work: Work, group: Group) -> None:
        self.model, self.plan, self.budget, self.hooks, self.group = work.model, work.plan, work.budget, work.hooks, group
        self.steps_an_epoch = count_steps(count_steps(len(work.rows), self.plan.batch), self.plan.accumulate)
        self.buffers = saved_buffers(self.model)
        self.parameters = [*self.model.parameters(), *self.hooks.extra]
        self.weights: list[Tensor] = [*self.parameters, *self.buffers]
        head = group.parameters(self.hooks.head) if self.plan.head_factor != 1 else []
        self.head = {id(parameter) for parameter in head}
        self.layers = CompiledLayers(self.model, self.plan)
        self.micro_batches = MicroBatches(self.plan, self.parameters, self.buffers, begins_anew=group.begins_anew)

    def freeze(self) -> None:
        """Freeze the parameters that do not train at all."""
        for parameter in self.group.parameters(self.hooks.frozen):
            parameter.requires_grad_(False)

    @property
    def shapes(self) -> Shapes:
        """Return the shapes of all weights."""
        return tuple(tuple(weight.shape) for weight in self.weights)

    def begin(self, before: Validation) -> None:
        """Start at the first step. before: validation of the model before training."""
        total = self.budget.steps_of(self.plan.epochs * self.steps_an_epoch)
        self.where = TrainerState(before=before, best=before, decay=self.plan.decay, total=total, spent=self.budget.spent)
        self.where.ranges, self.where.remarks = input_ranges(self.model), list(self.plan.remarks)
        self.good = self.best_weights = self.snapshot()
        self.optimizer = self._optimizer()

    @property
    def gathers(self) -> bool:
        """Return whether `tensors` are copies in the host's memory, which training does not change."""
        return self.group.gathers

    def tensors(self) -> Tensors:
        """Return all tensors that a checkpoint needs beside `where`, whole; shared weights are listed once."""
        self.group.gather()
        found = {f"weight.{i}": self.group.whole(weight, self.group.local(weight)) for i, weight in enumerate(self.weights)}
        if self.where.ended:
            return {**found, **random_state()}
        found |= self._whole("good", self.good)
        if self.best_weights is not self.good:
            found |= self._whole("best", self.best_weights)
        for i, parameter in enumerate(self.parameters):
            for name, value in self.optimizer.state.get(parameter, {}).items():
                found[f"{name}.{i}"] = self.group.whole(value if name == "step" else parameter, self.group.local(value))
        return {**found, **random_state()}

    def _whole(self, name: str, parts: list[Tensor]) -> Tensors:
        pairs = enumerate(zip(self.weights, parts, strict=True))
        return {f"{name}.{i}": self.group.whole(weight, part) for i, (weight, part) in pairs}

    def take_up(self, where: TrainerState, tensors: Tensors | None) -> None:
        """Restore the saved loop: bit for bit in one process; in as many as saved it, if there is no dropout, whose numbers
        only the first saves. tensors: None in others than the first process.
        """
        found = None if tensors is None else {key: tuple(tensor.shape) for key, tensor in tensors.items()}
        shapes, tensors = self.group.shared(found) or {}, tensors or {}
        self.where, self.budget.spent = where, where.spent
        set_input_ranges(self.model, where.ranges)
        self.restore(self._saved("weight", tensors))
        self.optimizer = self._optimizer()
        if where.ended:
            self.good = self.best_weights = self.snapshot()
        else:
            self.good = self._saved("good", tensors)
            self.best_weights = self._saved("best", tensors) if "best.0" in shapes else self.good
            for i, parameter in enumerate(self.parameters):
                if state := saved_state(parameter, i, shapes, tensors, self.group):
                    self.optimizer.state[parameter] = state
        self.group.seed(self.plan.seed + where.step)
        if tensors:
            set_random_state(tensors)

    def _saved(self, name: str, tensors: Tensors) -> list[Tensor]:
        pairs = ((weight, self.group.part(weight, tensors.get(f"{name}.{i}"))) for i, weight in enumerate(self.weights))
        return [like(self.group.local(weight), part, HOST) for weight, part in pairs]

    def _optimizer(self) -> torch.optim.Optimizer:
        return make_optimizer(self.plan, self.model, self.parameters, self.head, self.where.decay)

    def rate(self) -> float:
        """Return the learning rate of the next step."""
        where, plan = self.where, self.plan
        if plan.plateau is None:
            share = rate_share(where.step, where.total, plan.warmup)
        else:
            share = warm_share(where.step, plan.warm_epochs * self.steps_an_epoch, plan.warmup)
        return plan.rate * where.scale * share

    @property
    def expected(self) -> int:
        """Return the expected total of steps; on a plateau schedule, until the patience runs out."""
        where, plan = self.where, self.plan
        if plan.plateau is None or plan.patience is None:
            return where.total
        epochs = max(where.gain_epoch + plan.patience, preparation.EXPECTED_EPOCHS)
        return max(min(epochs * self.steps_an_epoch, where.total), where.step)

    def is_over(self) -> bool:
        """Return whether training is over: epochs, patience or budget are used up."""
        where = self.where
        # A partial epoch still needs validation, also if a new attempt starts with the budget used up.
        spent = self._has_spent() and not where.done
        return where.ended or where.epoch > self.plan.epochs or self.is_out_of_patience() or spent

    def _has_spent(self) -> bool:
        """Return whether the budget is used up, by the first process's clock."""
        return self.group.agreed(self.budget.reached() is not None)

    def is_out_of_patience(self) -> bool:
        """Return whether no epoch was better within the configured patience."""
        last_gain = max(self.where.best_epoch if self.plan.plateau is None else self.where.gain_epoch, self.plan.patience_from)
        return self.plan.patience is not None and self.where.epoch - 1 - last_gain >= self.plan.patience

    def why_cut_short(self) -> str | None:
        """Return why training ended before all its epochs, or None if it completed them."""
        where, plan, planned = self.where, self.plan, self.plan.epochs * self.steps_an_epoch
        if where.step >= planned:
            return None
        if self.is_out_of_patience():
            return (
                f"{plan.name} stopped early: {plan.patience} epochs brought nothing better on validation "
                f"(epoch {where.best_epoch} of {plan.epochs} is kept)."
            )
        if where.step == 0:
            return f"{plan.name} was not trained: {self.budget.reached()} was reached before it."
        return (
            f"{plan.name} stopped at step {where.step} of {planned}: {self.budget.reached()} is reached by all training of "
            f"the job together (the best so far is kept: epoch {where.best_epoch})."
        )

    def epoch(
        self, rows: TrainingRows[Any], resumable: ResumableTraining | None
    ) -> Generator[Step | TrainingSaved | Log, None, bool]:
        """Train on this epoch's remaining rows, within the budget; return whether all losses and gradients were finite."""
        where, plan = self.where, self.plan
        yield from self.micro_batches.choose(where, rows, self._accumulate)
        few = partial(self.micro_batches.try_few, where, rows, self._accumulate)
        yield from self.layers.begin(where, self.expected, few)
        batches = rows.shuffled(plan.batch, plan.seed * 1_000_003 + where.epoch)
        for step in islice(grouped(batches, plan.accumulate), where.done, None):
            if self._has_spent():
                return True
            for group in self.optimizer.param_groups:
                group["lr"] = self.rate() * group["factor"]
            self.hooks.before_step(where.step, where.total)
            told = len(where.remarks)
            healthy = self.gradients(step)
            yield from (Log(level="warning", message=remark) for remark in where.remarks[told:])
            if not healthy:
                return False
            if not math.isfinite(self.group.clip(self.parameters, LARGEST_GRADIENT)):
                return False
            self.optimizer.step()
            self.optimizer.zero_grad()
            self.group.average(self.buffers)
            where.step += 1
            where.done += 1
            self.budget.count(steps=1)
            yield Step(where.step, self.expected, where.last_loss, self.rate())
            yield from self.after_step(resumable)
        return True

    def after_step(self, resumable: ResumableTraining | None, *, ended: bool = False) -> Iterator[TrainingSaved]:
        """Save if it is due. Raises Pause if one was requested."""
        if resumable is not None:
            yield from resumable.after_step(self, ended=ended)
        self.group.settle(self.tensors)

    def gradients(self, batches: list[Any]) -> bool:
        """Compute the gradients of a step's batches in micro-batches; return whether the loss was finite."""
        return self.micro_batches.compute(self.where, partial(self._accumulate, batches))

    def _accumulate(self, batches: list[Any], parts: int) -> bool:
        """Add up the gradients of batches, each in `parts` micro-batches; return whether the loss was finite.

        Micro-batches, and the processes' parts of them, are weighted by the count that their loss averages over (rows, words,
        or tokens to predict), so the sum equals the loss of the whole batch, up to rounding, dropout's other numbers,
        normalizations over rows, and losses of hidden states, relations and a tagger's soft targets, which average over tokens:
        a row among short rows has a slightly larger weight in them.
        """
        device = next(self.model.parameters()).device
        whole = sum(batch.weight for batch in batches)
        self.where.last_loss = 0.0
        for part in (part for batch in batches for part in batch.split(parts)):
            own, weight = self.group.piece(part)
            with (
                gradient_precision(self.plan.precision),
                fast_float32(device),
                self.layers.in_place(),
                recomputed(self.model, wanted=self.plan.recompute),
            ):
                # Simulated integers must stay exact, so only plain training uses bfloat16 (2.3 times as fast there).
                with half_products(device, wanted=not is_simulated(self.model)):
                    value = self.group.loss(own.to(device)) * (weight / whole)
                self.where.last_loss += self.group.summed(value)
                if not math.isfinite(self.where.last_loss):
                    return False
                self.group.backward(value)
        return True

    def judged(self, now: Validation) -> float:
        """End an epoch with validation `now`: keep it as the last good one, and as the best if it is."""
        where = self.where
        self.budget.count()
        self.adapt_decay(now.score)
        where.curve.append(now)
        is_better, is_lower, reached = self._is_better(now), self._lowers_loss(now), self.snapshot()
        if is_better:
            where.best, where.best_epoch, self.best_weights = now, where.epoch, reached
        if self.plan.plateau is None or is_better or is_lower:
            self.good, where.gain_epoch = reached, where.epoch
        elif (where.epoch - where.gain_epoch) % self.plan.plateau_epochs == 0:
            self._lower_rate(self.plan.plateau)
        where.epoch, where.done = where.epoch + 1, 0
        return now.value

    def _is_better(self, now: Validation) -> bool:
        where, plan = self.where, self.plan
        if plan.plateau is None:
            return now > where.best or plan.keeps_last
        return now.worth > where.best.worth + (plan.least_gain if where.best_epoch else plan.first_gain)

    def _lowers_loss(self, now: Validation) -> bool:
        """Return whether the loss is a new minimum by a share of the first one, which precedes a score gain; note it."""
        where, before = self.where, -self.where.before.negative_loss
        least = before if where.least_loss is None else where.least_loss
        where.least_loss = min(least, -now.negative_loss)
        return -now.negative_loss < least - preparation.LOSS_GAIN * abs(before)

    def _lower_rate(self, factor: float) -> None:
        """Restore the weights of the last gain and continue from there at a lower rate with a new optimizer."""
        self.restore(self.good)
        self.where.scale *= factor
        self.optimizer = self._optimizer()

    def snapshot(self) -> list[Tensor]:
        """Copy all weights, or this process's parts, to the host's memory: a card's is for what trains."""
        return [self.group.local(weight).detach().to(HOST, copy=True) for weight in self.weights]

    @torch.no_grad()
    def restore(self, weights: list[Tensor]) -> None:
        """Restore copied weights."""
        self.group.discard()
        for own, weight in zip(self.weights, weights, strict=True):
            self.group.local(own).copy_(weight)

    def step_back(self) -> str:
        """Restore the last good epoch, on a plateau schedule that of the last gain, at half the rate; return a remark. Raises
        TrainingDiverged the second time.
        """
        where, plan = self.where, self.plan
        if where.stepped_back:
            rate = plan.rate * where.scale
            cause = f"the loss of {plan.name} is not finite in epoch {where.epoch}, also at half the rate ({rate:g})"
            raise TrainingDiverged(cause, param=f"recipe.{plan.name}.rate")
        where.stepped_back = True
        self.restore(self.good)
        where.scale, where.step, where.done = where.scale / 2, (where.epoch - 1) * self.steps_an_epoch, 0
        where.total = where.step + self.budget.steps_of(plan.epochs * self.steps_an_epoch - where.step)
        self.optimizer = self._optimizer()
        self.optimizer.zero_grad()  # do not accumulate onto gradients that are not finite
        remark = (
            f"The loss of {plan.name} was not finite in epoch {where.epoch}: training went back to the end of epoch "
            f"{where.gain_epoch} and on at half the rate ({plan.rate * where.scale:g})."
        )
        where.remarks.append(remark)
        return remark

    def adapt_decay(self, score: float) -> None:
        """Double the L2 if validation fell, halve it if it rose, as the published account does in recovery."""
        where = self.where
        if self.plan.adapt_decay and where.last_score is not None and score != where.last_score:
            factor = 2.0 if score < where.last_score else 0.5
            where.decay = min(max(where.decay * factor, LEAST_DECAY), MOST_DECAY)
            for group in self.optimizer.param_groups:
                if group["decays"]:
                    group["weight_decay"] = where.decay
        where.last_score = score
