"""`python -m bench training`: time a distillation epoch against a plain PyTorch loop of the same mathematics.

The same mathematics: the same student (cut at 0.3, fake-quantized), teacher, rows, batches, order, losses (KL × τ², hidden
states through learned projections, cross-entropy), clipping, AdamW and schedule, from the same weights. As a
proof, both sides' losses are compared step by step. Left out on both sides is validation, which neither needs to learn.

Two plain loops, since a plain loop may or may not borrow our layers:
- `integers`: our FakeQuantLinear, whose products are of real integers; what is left is the loop. The target is held against it.
- `floats`: fake quantization as it is usually written, a rounded copy of each operand and a float32 product.
Each with the teacher's answers known from before (`cached`, as the engine does where memory allows it) and with the teacher
asked in every step (`asked`). Sides take turns, so that what disturbs the machine disturbs all; a ratio is the median of
those of the rounds.
"""

import argparse
import copy
import itertools
import json
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import PreTrainedModel

from compression.distillation.objective import DistillationObjective, FeatureAlignment
from compression.distillation.teacher import FeatureRequest, Teacher
from compression.engine.context import StageContext
from compression.engine.stages.registry import job_progress, run_stage
from compression.evaluation.validate import Validation
from compression.modalities.registry import task_of
from compression.modalities.text.batches import Batch, TokenizedDataset, tokenize
from compression.models import loading
from compression.quantization.dynamic_int8 import FakeQuantEmbedding, FakeQuantLinear
from compression.quantization.precision import gradient_dtype
from compression.schema.recipe.distill import Distill
from compression.schema.recipe.prune import Prune
from compression.schema.recipe.recipe import Prepare, Recipe, Train
from compression.schema.stages import BASELINE, PRUNED, QUANTIZED
from compression.system import process, processor
from compression.system.progress import Step
from compression.training.config import TrainingConfig
from compression.training.trainer import train
from compression.training.work import TrainingHooks
from tests.support.job_models import alone

ROOT = Path(__file__).parent.parent
TARGET = 1.15
CHECKED_ROWS = 64
"""Validation rows of the stages before."""
LARGEST_GRADIENT, WARM_UP, DECAY = 1.0, 0.1, 0.01


@dataclass
class Lab:
    """A student, a teacher, and the initial state of both loops."""

    state: StageContext
    plan: TrainingConfig
    settings: Distill
    projections: Tensor
    weights: dict[str, Tensor]

    @classmethod
    def build(cls, model: Path, data: Path, rows: int, recipe: Recipe) -> "Lab":
        """Prune and fake-quantize the model; its head is random, and nothing is trained before."""
        assert recipe.distill is not None
        labels, splits = read(data / "train.jsonl", rows + CHECKED_ROWS)
        task = task_of("text-classification")
        tokenizer, whole = (
            loading.load_tokenizer(model),
            loading.load_model(model, labels, "text-classification", seed=recipe.train.seed),
        )
        encoded = tokenize(tokenizer, splits[0], None, splits[1], recipe.train.max_length, task, types=False)
        parts = {
            "train": encoded.at(list(range(rows))),
            "validation": encoded.at(list(range(rows, len(encoded)))),
            "test": encoded.at([]),
        }
        progress = job_progress(recipe, {"": {name: len(each) for name, each in parts.items()}})
        state = StageContext(recipe, parts, whole, progress, alone(whole, parts))  # type: ignore[arg-type]
        for _ in itertools.chain.from_iterable(run_stage(state, stage) for stage in (BASELINE, QUANTIZED, PRUNED)):
            pass
        first = lesson_of(state, asked_once(state), recipe.distill)
        plan = state.plan("distill", epochs=1, rate=recipe.distill.rate)
        weights = copy.deepcopy(state.model.state_dict())
        return cls(state, plan, recipe.distill, first.projections[0].detach().clone(), weights)

    @property
    def rows(self) -> TokenizedDataset:
        """Return the training rows."""
        return cast(TokenizedDataset, self.state.rows["train"])

    def reset(self) -> None:
        """Reset the student to its initial weights."""
        self.state.model.load_state_dict(self.weights)


def read(path: Path, most: int) -> tuple[tuple[str, ...], tuple[tuple[str, ...], list[int]]]:
    """Read JSONL of text and label: the labels, then texts and label ids. Raises SystemExit if there are too few."""
    lines = path.read_text("utf-8").splitlines()[:most]
    if len(lines) < most:
        raise SystemExit(f"{path} has {len(lines)} rows, not {most}: lower --rows")
    found = [json.loads(line) for line in lines]
    labels = tuple(sorted({str(row["label"]) for row in found}))
    return labels, (tuple(row["text"] for row in found), [labels.index(str(row["label"])) for row in found])


def asked_once(state: StageContext) -> Teacher:
    """Compute the teacher's outputs of every row."""
    assert state.teacher is not None
    return Teacher(
        state.teacher, state.rows["train"], FeatureRequest(tuple(range(state.teacher.config.num_hidden_layers + 1)))
    ).asked()


def lesson_of(state: StageContext, known: Teacher, settings: Distill) -> DistillationObjective:
    """Return the distillation objective."""
    comparison = FeatureAlignment.of(state.model, known.model, settings, settings.weights(), apart=False)
    return DistillationObjective(state.model, known, comparison, settings, state.rows["train"])


def ours(lab: Lab, known: Teacher) -> tuple[float, list[float]]:
    """Train one epoch by the engine's loop; return its seconds and the loss of each step."""
    lab.reset()
    objective = lesson_of(lab.state, known, lab.settings)
    with torch.no_grad():
        objective.projections[0].copy_(lab.projections)
    scores = itertools.count()
    started = time.perf_counter()
    ticks = train(
        lab.state.model,
        lab.plan,
        lab.rows,
        lambda: Validation(next(scores), 0.0),
        objective,
        hooks=TrainingHooks(extra=objective.parameters),
    )
    losses = [tick.loss for tick in ticks if isinstance(tick, Step) and tick.score is None and tick.loss is not None]
    return time.perf_counter() - started, losses


Answers = Callable[[Batch], tuple[Tensor, Tensor]]
"""The teacher's logits (rows, labels) and the hidden states of real tokens (layers + 1, tokens, width)."""


def plain(lab: Lab, student: PreTrainedModel, answers: Answers) -> tuple[float, list[float]]:
    """Train one epoch by a plain loop, with only the student's layers from the engine; return seconds and losses."""
    student.load_state_dict(lab.weights)
    student.requires_grad_(True).eval()
    projections = nn.Parameter(lab.projections.clone())
    parameters = [*student.parameters(), projections]
    settings, plan = lab.settings, lab.plan
    tables = {id(p) for m in student.modules() if isinstance(m, nn.Embedding) for p in m.parameters()}
    groups = [
        {"params": [p for p in parameters if p.ndim >= 2 and id(p) not in tables], "weight_decay": DECAY},
        {"params": [p for p in parameters if p.ndim < 2 or id(p) in tables], "weight_decay": 0.0},
    ]
    total = -(-len(lab.rows) // plan.batch)
    warm = max(1, round(WARM_UP * total))
    optimizer = torch.optim.AdamW(groups, lr=plan.rate, fused=True)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: (step + 1) / warm if step < warm else (total - step) / max(1, total - warm)
    )
    device = next(student.parameters()).device
    narrow = gradient_dtype(device) == torch.bfloat16 and any(type(m) is FakeQuantLinear for m in student.modules())
    losses = []
    started = time.perf_counter()
    for whole in lab.rows.shuffled(plan.batch, plan.seed * 1_000_003 + 1):
        batch = whole.to(device)
        logits, states = answers(batch)
        out = student(input_ids=batch.ids, attention_mask=batch.mask, output_hidden_states=True)
        real = batch.mask.bool()
        hidden = torch.stack([state[real] for state in out.hidden_states])
        heat = settings.temperature
        soft = functional.kl_div(
            (out.logits / heat).log_softmax(-1), (logits / heat).log_softmax(-1), log_target=True, reduction="batchmean"
        )
        hard = functional.cross_entropy(out.logits, batch.labels)
        with torch.autocast(device.type, torch.bfloat16, enabled=narrow):
            apart = (torch.bmm(hidden, projections) - states).square().mean() / states.square().mean()
        loss = settings.soft * heat**2 * soft + settings.hard * hard + settings.hidden * apart
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(parameters, LARGEST_GRADIENT)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    return time.perf_counter() - started, losses


def round_through(x: Tensor) -> Tensor:
    """Round each row to its 255 levels and back in floats; the gradient passes (Bengio et al. 2013). Any shape -> the same."""
    scale = (x.detach().abs().amax(-1, keepdim=True) / 127).clamp_min(1e-12)
    rounded: Tensor = x + ((x / scale).round().clamp(-127, 127) * scale - x).detach()
    return rounded


class FloatLinear(nn.Linear):
    """Fake quantization as usually written."""

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002 (the name is nn.Linear's)
        return functional.linear(round_through(input), round_through(self.weight), self.bias)


class FloatEmbedding(nn.Embedding):
    """Fake quantization as usually written."""

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002
        return round_through(super().forward(input))


def in_floats(student: PreTrainedModel) -> PreTrainedModel:
    """Copy a fake-quantized student; the copy rounds in floats."""
    twin = copy.deepcopy(student)
    kinds: dict[type[nn.Module], type[nn.Module]] = {FakeQuantLinear: FloatLinear, FakeQuantEmbedding: FloatEmbedding}
    for module in twin.modules():
        module.__class__ = kinds.get(type(module), type(module))
    return twin


@torch.no_grad()
def known_answers(lab: Lab) -> Answers:
    """Compute the teacher's outputs of every row once, as a list of tensors by row."""
    asks = every_time(lab)
    logits: list[Tensor] = [torch.empty(0)] * len(lab.rows)
    states: list[Tensor] = [torch.empty(0)] * len(lab.rows)
    for start in range(0, len(lab.rows), lab.plan.batch):
        batch = lab.rows.batch(list(range(start, min(start + lab.plan.batch, len(lab.rows)))))
        found, hidden = asks(batch.to(next(lab.state.model.parameters()).device))
        for row, answer, part in zip(
            batch.rows.tolist(), found, torch.split(hidden, batch.mask.sum(1).tolist(), 1), strict=True
        ):
            logits[row], states[row] = answer.clone(), part.half()

    def answers(batch: Batch) -> tuple[Tensor, Tensor]:
        rows = batch.rows.tolist()
        return torch.stack([logits[row] for row in rows]), torch.cat([states[row] for row in rows], 1).float()

    return answers


def every_time(lab: Lab) -> Answers:
    """Run the teacher in each step."""
    model = lab.state.teacher
    assert model is not None

    @torch.no_grad()
    def answers(batch: Batch) -> tuple[Tensor, Tensor]:
        out = model(input_ids=batch.ids, attention_mask=batch.mask, output_hidden_states=True)
        real = batch.mask.bool()
        return out.logits, torch.stack([state[real] for state in out.hidden_states])

    return answers


Side = Callable[[], tuple[float, list[float]]]


def sides(lab: Lab) -> dict[str, Side]:
    """Return the loops to compare: ours and the plain ones, with cached teacher outputs and without."""
    floats = in_floats(lab.state.model)
    kept, plainly_kept, asks = asked_once(lab.state), known_answers(lab), every_time(lab)
    asked = asked_once(lab.state)
    asked.store = None  # as where its answers do not fit into memory
    return {
        "cached: ours": lambda: ours(lab, kept),
        "cached: integers": lambda: plain(lab, lab.state.model, plainly_kept),
        "cached: floats": lambda: plain(lab, floats, plainly_kept),
        "asked: ours": lambda: ours(lab, asked),
        "asked: integers": lambda: plain(lab, lab.state.model, asks),
        "asked: floats": lambda: plain(lab, floats, asks),
    }


@dataclass(frozen=True)
class Compared:
    """One plain loop against ours."""

    name: str
    seconds: float
    ratio: float
    first_loss_apart: float
    last_loss_apart: float


def compare(lab: Lab, rounds: int) -> tuple[dict[str, float], list[Compared]]:
    """Run the loops in turn after a warm-up; return median seconds, and ours against each plain loop."""
    loops = sides(lab)
    seconds: dict[str, list[float]] = {name: [] for name in loops}
    losses: dict[str, list[float]] = {}
    for number in range(rounds + 1):
        order = list(loops) if number % 2 else list(reversed(loops))
        for name in order:
            took, losses[name] = loops[name]()
            if number:
                seconds[name].append(took)
    found = []
    for name in loops:
        mine = f"{name.split(':')[0]}: ours"
        if name == mine:
            continue
        ratios = [a / b for a, b in zip(seconds[mine], seconds[name], strict=True)]
        apart = [abs(a - b) / abs(b) for a, b in zip(losses[mine], losses[name], strict=True)]
        found.append(Compared(name, statistics.median(seconds[name]), statistics.median(ratios), apart[0], apart[-1]))
    return {name: statistics.median(took) for name, took in seconds.items()}, found


def main(arguments: list[str]) -> None:
    """Compare and print a table."""
    parser = argparse.ArgumentParser(
        prog="python -m bench training", description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--rows", type=int, default=1024)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--threads", type=int, default=processor.usable_cores())
    parser.add_argument("--model", type=Path, default=ROOT / ".cache/examples/model")
    parser.add_argument("--data", type=Path, default=ROOT / ".cache/examples/data")
    asked = parser.parse_args(arguments)
    torch.set_num_threads(asked.threads)
    process.keep_freed_memory()  # as the engine does; it serves both sides
    recipe = Recipe(
        prepare=Prepare(epochs=0),
        prune=Prune(calibration_rows=min(512, asked.rows)),
        distill=Distill(),
        train=Train(batch=asked.batch, warmup=WARM_UP, decay=DECAY),
    )
    lab = Lab.build(asked.model, asked.data, asked.rows, recipe)
    steps = -(-asked.rows // asked.batch)
    seconds, found = compare(lab, asked.rounds)
    print(
        f"\n{asked.rows} rows, {steps} steps of {asked.batch} rows, {asked.threads} threads, {asked.rounds} rounds; medians\n"
    )
    print("| teacher: loop | seconds an epoch | ours / it | first loss apart | last loss apart |")
    print("| --- | --- | --- | --- | --- |")
    by_name = {each.name: each for each in found}
    for name, took in seconds.items():
        each = by_name.get(name)
        cells = (f"{each.ratio:.3f}", f"{each.first_loss_apart:.1e}", f"{each.last_loss_apart:.1e}") if each else ("", "", "")
        print("| " + " | ".join([name, f"{took:.2f}", *cells]) + " |")
    worst = max(each.ratio for each in found if each.name.endswith("integers"))
    print(f"\nTarget: at most {TARGET} times the loop on integers. {'Met' if worst <= TARGET else 'Missed'}: {worst:.3f}.")
