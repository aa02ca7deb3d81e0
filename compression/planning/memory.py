"""The memory of a job: what a parameter, a token and a vocabulary take, and what is there at once in each training. Torch-free.

`python -m bench gpu_plan` holds these figures against dry runs on fake tensors and against real trainings.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

from compression.planning.distillation_rules import compares_states
from compression.planning.teacher_cost import TEACHER_BYTES
from compression.schema.recipe.base import OptimizerName
from compression.schema.recipe.distill import Distill
from compression.schema.recipe.recipe import Recipe, Train
from compression.schema.report.measurements import Parameters, Shape
from compression.schema.report.network import NetworkFacts

if TYPE_CHECKING:
    from compression.planning.counted import Counted
    from compression.planning.estimator import PlannedJob
    from compression.planning.teacher_cost import TeacherCost

PROCESS_BYTES = 600_000_000
"""A process that has imported torch, transformers and the exporter, before it loads a model."""
HELD_BYTES, GRADIENT_BYTES, MOMENT_BYTES, COPIED_BYTES = 4, 4, 8, 8
"""Bytes per parameter, all in float32: of a weight, its gradient, AdamW's two moments, and the weights of the last good and of
the best epoch. A parameter that is only in memory (the teacher's) has the first alone."""
TRAINED_BYTES = HELD_BYTES + GRADIENT_BYTES + MOMENT_BYTES + COPIED_BYTES
MOMENT_BLOCK, SMALLEST_ROUNDED = 256, 4096
"""Values of a moment in 8 bits that share a float32 scale, and the fewest values of a parameter whose moments are so held."""
CHUNK = 2**22
"""Values that an optimizer with moments in 8 bits steps at a time."""
STEPPED_BYTES = 40 * CHUNK
"""What such a step takes for a while (by count)."""
UNTRAINED_BYTES = 32
"""Bytes per parameter while a model becomes an artifact, is reopened and is measured, with the process that measures it: of
SmolLM2-135M 31 (18 of them the engine's) before KEPT_FREED."""
ROUNDED_BYTES = 1
"""Bytes per parameter of a teacher in 8 bits."""
KEPT_FREED = 1.1
"""Freed blocks that the allocator keeps: the C library's (system/process.py)."""
RELATIONS_FLOATS = 8
"""Tensors of the size of one layer's attention over a row in memory if a language model's attention is compared (by count)."""
HARNESS_BYTES = 1 << 30
"""Maximum bytes of logits and their logarithms while lm-eval runs a language model; a single request may take more."""
LOGITS_BYTES = 400_000_000
"""Bytes that a loss over a vocabulary holds at a time, in chunks (compression/modalities/text/causal_lm/chunked_head.py)."""
HEAD_BYTES = 12
"""Bytes per weight of a language model's output layer, beside it: it is rounded, or copied to 16 bits, for each chunk, and each
chunk has a gradient of its own."""
TIED_BYTES = 8
"""Bytes per weight of an output layer that is the table, at the end of a backward pass: the gradient of the table as such, and
its sum with that of the output layer."""

Products = Literal["float32", "bfloat16", "int8"]
"""What the linear layers of a training multiply. int8: simulated integers; what lies between them is float32."""


@dataclass(frozen=True)
class Kept:
    """Bytes that a step keeps for its backward pass, of a token and layer: multiples of the layer's widths."""

    hidden: float
    attended: float  #: of all heads' queries
    units: float  #: of the feed-forward part; of experts those that a token is sent to
    weight: int = 0  #: bytes of each weight, copied to the type of the products
    scores: float = 0  #: of each head and token that it attends to


OF_DECODERS: dict[Products, Kept] = {
    "float32": Kept(24, 16, 16),
    "bfloat16": Kept(26, 8, 8, weight=2),
    "int8": Kept(21, 17, 13, weight=1),
}
"""Of layers with two norms before their parts and gated units."""
OF_ENCODERS: dict[Products, Kept] = {
    "float32": Kept(24, 16, 8, scores=12),
    "bfloat16": Kept(26, 8, 4, weight=2, scores=12),
    "int8": Kept(17, 16, 5, weight=1, scores=12),
}
"""Of layers with dropout, for which attention keeps its weights; without it, what features are compared takes their place."""


@dataclass(frozen=True)
class Memory:
    """The memory of one training, in bytes, on the device that trains; `states` are on the host."""

    name: str
    parameters: int  #: that train
    weights: int  #: of the trained model, with AdamW's moments and two copies
    gradients: int
    teachers: int  #: weights of what it learns from
    step: int  #: of activations and of copies of weights until the backward pass has used them
    passing: int  #: of the output layer and its loss
    added: bool = False  #: whether gradients stay while further batches are added to them
    states: int = 0  #: what teachers answered, kept for all rows
    devices: int = 1  #: that train together; the figures are of each
    plain: int = 0  #: of several: the whole model and its teachers, beside the shards while it is judged and at the start
    further: int = 0  #: of several: what other teachers take of the host's memory in each process but the first

    @property
    def total(self) -> int:
        """Return the bytes at the peak on a device: activations go while gradients come."""
        kept = self.step + self.passing
        both = self.gradients + kept if self.added else max(self.gradients, kept)
        return self.weights + max(self.teachers + both, self.plain)

    @property
    def copies(self) -> int:
        """Return those of the weights that are copies: on the host where a card trains."""
        return COPIED_BYTES * self.parameters // self.devices


def sent_bytes(job: "PlannedJob") -> int:
    """Return the bytes of the largest file by which further processes get a training: models, and answers that are kept."""
    if job.recipe.train.devices == 1:
        return 0
    others = HELD_BYTES * sum(each.parameters.total for each in job.others)
    return max((one.plain + one.states + others * (one.further > 0) for one in trainings(job, "cpu")), default=0)


def shipped_bytes(job: "PlannedJob") -> int:
    """Return the bytes of the largest model while it becomes an artifact and is measured."""
    return UNTRAINED_BYTES * max(job.model.parameters.total, job.result.parameters.total)


def teachers_bytes(job: "PlannedJob") -> int:
    """Return the bytes of models on the host beside the model and its teacher: originals, named teachers, the best size."""
    named = sum(each.parameters.total for each in job.named)
    return HELD_BYTES * (max(job.originals - 1, 0) * job.model.parameters.total + named) + job.best_bytes


def idle_bytes(job: "PlannedJob", device: str) -> int:
    """Return the bytes that the teacher takes of a device while nothing asks it: of a card none, since it is on the host."""
    return HELD_BYTES * job.recipe.has_teacher * job.model.parameters.total if device == "cpu" else 0


def units_of(shape: Shape) -> int:
    """Return the feed-forward units that a token passes, in the widest layer: of experts the chosen and the shared ones."""
    experts = shape.experts
    return shape.ffn if experts is None else max(shape.ffn, experts.chosen * experts.ffn + experts.shared)


def trainings(job: "PlannedJob", device: str) -> Iterator[Memory]:
    """Yield the memory of a job's trainings, in their order. device: cpu or cuda, which decides what products `auto` means."""
    recipe, before, after = job.recipe, job.model, job.result
    quantize, prune, distill, asked = recipe.quantize, recipe.prune, recipe.distill, job.objectives
    floats: Products = "bfloat16" if has_half_products(recipe.train, device) else "float32"
    simulated: Products = floats if quantize is None else "int8"
    teacher, idle = HELD_BYTES * job.guide.parameters.total if recipe.has_teacher else 0, idle_bytes(job, device)
    taught = rounded_bytes(job.guide) if may_hold(recipe) and recipe.train.devices == 1 else teacher

    def one(name: str, model: "Counted", products: Products, teachers: int, known: "TeacherCost | None" = None) -> Memory:
        # Of several teachers of a language model, those that find room stay in memory, wherever the others' states are.
        several = name == "distill" and job.is_language and bool(job.others)
        states = min(known.bytes, TEACHER_BYTES) if known is not None and (several or known.place == "memory") else 0
        return _training(job, name, model, products, teachers, states, on_card=device == "cuda")

    if recipe.prepare.trains:
        # Further originals train beside the first, which is the model and its teacher by then.
        beside = HELD_BYTES * before.parameters.total + idle if job.originals > 1 else 0
        # Each probe of a rate begins with the same weights, and with the same head, kept beside it.
        kept = 2 * HELD_BYTES * before.parameters.total if recipe.prepare.probes else 0
        yield replace(one("tune", before, floats, beside), states=kept)
    if quantize is not None and quantize.qat is not None:
        # Its first epochs simulate nothing.
        yield max((one("qat", before, each, idle) for each in (floats, simulated)), key=lambda each: each.total)
    if prune is not None and prune.recovery is not None:
        answers = taught if recipe.recovers_by_teacher else idle
        yield one("recover", first_cut(job), simulated, answers, asked.recovery)
    if distill is not None and distill.general is not None:
        beside = idle if distill.general.teacher == "base" else 0
        yield one("general", after, simulated, teacher + beside, asked.general)
    if distill is not None:
        # On a card, a language model's other teachers stay where their states are not kept; the host's memory has them anyway.
        others = HELD_BYTES * sum(each.parameters.total for each in job.others) if job.is_language and device == "cuda" else 0
        stay = asked.task is not None and asked.task.place in (None, "spare")
        training = one("distill", after, simulated, taught + others * stay, asked.task)
        training = replace(training, further=_further_bytes(job, on_card=device == "cuda"))
        if prune is not None and prune.finalists is not None:  # the model before the cut is there beside each of them
            yield replace(training, name="try", teachers=training.teachers + HELD_BYTES * before.parameters.total)
        if distill.kept is not None and others:
            # Before its first step all teachers are there together, and what is kept of their answers is written.
            weights = (HELD_BYTES + COPIED_BYTES) * after.parameters.total
            yield replace(training, name="keep", weights=weights, gradients=0, teachers=taught + others)
        yield training


def first_cut(job: "PlannedJob") -> "Counted":
    """Return what the first of several cuts leaves: of all of them the most. Its layers count as wide as before."""
    before, after, steps = job.model, job.result, job.recipe.prune.steps if job.recipe.prune is not None else 1
    if steps == 1:
        return after
    total = round(before.parameters.total * (after.parameters.total / before.parameters.total) ** (1 / steps))
    tables = min(before.parameters.embedding, total)
    return replace(before, parameters=Parameters(total=total, embedding=tables, other=total - tables))


def moment_bytes(optimizer: OptimizerName, parameters: int) -> int:
    """Return the bytes of an optimizer's moments of so many parameters."""
    return MOMENT_BYTES * parameters if optimizer == "adamw" else 2 * (parameters + 4 * parameters // MOMENT_BLOCK)


def saved_bytes(optimizer: OptimizerName, parameters: int) -> int:
    """Return the bytes of a training checkpoint: weights, moments, the weights of the last good and of the best epoch."""
    return (HELD_BYTES + COPIED_BYTES) * parameters + moment_bytes(optimizer, parameters)


def _training(
    job: "PlannedJob", name: str, model: "Counted", products: Products, teachers: int, states: int, *, on_card: bool
) -> Memory:
    """Return the memory of a training. On a card the least with which it runs: layers are computed again, and a single row goes
    through the model at a time, if the recipe leaves both to the engine and the model's family allows it.
    """
    train = job.recipe.train
    recompute = model.recomputes and (train.checkpointing == "on" or (train.checkpointing == "auto" and on_card))
    each = {train.rows(least=False), train.rows(least=on_card)}
    found = (_training_of(job, name, model, products, teachers, states, rows, recompute=recompute) for rows in each)
    return min((_shared(job, model, one) for one in found), key=lambda one: one.total)


def _training_of(
    job: "PlannedJob",
    name: str,
    model: "Counted",
    products: Products,
    teachers: int,
    states: int,
    rows: int,
    *,
    recompute: bool,
) -> Memory:
    """Return the memory of a training with so many rows at a time, whole but for the step, which is a device's."""
    count, train, passing = model.parameters.total, job.recipe.train, 0
    if job.is_language:
        passing = LOGITS_BYTES + HEAD_BYTES * model.shape.vocabulary * model.shape.hidden
        distill = job.recipe.distill
        general = distill.general if distill is not None else None
        compared = {"distill": distill and "attention" in distill.weights(), "general": general and general.attention}
        if compared.get(name):
            passing += RELATIONS_FLOATS * 4 * model.shape.heads * job.longest**2
    copied = kept_by(model.shape)[products].weight * (model.parameters.other - model.spoken)
    step = step_bytes(model.shape, rows, job.longest, model.network, products, recompute=recompute)
    stepped = STEPPED_BYTES if train.optimizer == "adamw-8bit" else 0
    return Memory(
        name=name,
        parameters=count,
        weights=(HELD_BYTES + COPIED_BYTES) * count + moment_bytes(train.optimizer, count),
        gradients=stepped + GRADIENT_BYTES * count + TIED_BYTES * model.tied * model.shape.vocabulary * model.shape.hidden,
        teachers=teachers,
        step=step + copied // (model.shape.layers if recompute else 1),
        passing=passing,
        added=train.accumulate > 1 or rows * train.devices < train.batch,
        states=states,
    )


def _shared(job: "PlannedJob", model: "Counted", alone: Memory) -> Memory:
    """Return the memory of a training on each of the recipe's devices. alone: with the step of a device and all else whole.

    Weights, moments, copies and gradients are in shards, of teachers the layers. Beside the shards there are the weights and
    gradients of what belongs to no layer and of two layers, and the copies of all weights in the products' type.
    """
    devices = job.recipe.train.devices
    if devices == 1:
        return alone
    parameters, guide = model.parameters, job.guide
    gathered = parameters.embedding + model.spoken + 2 * parameters.other // max(model.shape.layers, 1)
    # Layers are sharded one by one where they can be computed again; those whose features are compared stay gathered.
    compared = job.recipe.distill is not None and compares_states(job.recipe.distill) and alone.name in ("general", "distill")
    if not model.recomputes or compared:
        gathered = parameters.total
    whole = _unsharded(guide) / guide.parameters.total
    return replace(
        alone,
        weights=alone.weights // devices + HELD_BYTES * min(gathered, parameters.total),
        gradients=alone.gradients // devices + GRADIENT_BYTES * min(gathered, parameters.total),
        teachers=round(alone.teachers * (whole + (1 - whole) / devices)),
        devices=devices,
        plain=HELD_BYTES * alone.parameters + alone.teachers,
    )


def _unsharded(teacher: "Counted") -> int:
    """Return how many parameters of a teacher each of several processes has: all but those of layers, which are sharded."""
    return teacher.parameters.embedding + teacher.spoken if teacher.recomputes else teacher.parameters.total


def _further_bytes(job: "PlannedJob", *, on_card: bool) -> int:
    """Return the bytes of the host's memory that teachers beside the guide take in each process but the first, in the task
    phase. A process has none of them if all that they say is known before the first step.
    """
    distill, task, live = job.recipe.distill, job.objectives.task, job.recipe.train.varies
    states = job.is_language and distill is not None and "soft" in distill.weights() and distill.kept is None
    if job.recipe.train.devices == 1 or not (states or live):
        return 0
    if not on_card:
        return HELD_BYTES * sum(map(_unsharded, job.others))
    # Whose states are kept leaves its layers on the host, and there they are not sharded. The others are on the cards.
    kept = not live and task is not None and task.place is not None
    return HELD_BYTES * kept * sum(each.parameters.total for each in job.others)


def has_half_products(train: Train, device: str) -> bool:
    """Return whether products outside of simulated integers are bfloat16; `auto`: on cards, since not every CPU has them."""
    return train.precision == "bfloat16" or (train.precision == "auto" and device == "cuda")


def kept_by(shape: Shape) -> dict[Products, Kept]:
    """Return what a shape's layers keep, by the type of their products."""
    return OF_ENCODERS if shape.groups is None else OF_DECODERS


def rounded_bytes(teacher: "Counted") -> int:
    """Return the bytes of a teacher in 8 bits: its tables and its output layer stay in float32."""
    floats = teacher.parameters.embedding + teacher.spoken
    return HELD_BYTES * floats + ROUNDED_BYTES * (teacher.parameters.total - floats)


def may_hold(recipe: Recipe) -> bool:
    """Return whether a teacher is in 8 bits, or may be if memory is short."""
    return recipe.has_teacher and (recipe.distill or Distill()).teachers.precision != "float32"


def step_bytes(
    shape: Shape,
    rows: float,
    longest: int,
    network: NetworkFacts | None = None,
    products: Products = "float32",
    *,
    recompute: bool = False,
) -> int:
    """Return the bytes that a step keeps for its backward pass: a network's values. rows: those that go through the model
    together; longest: tokens of the longest; recompute: whether layers are computed again.
    """
    if network is not None:
        return round(4 * network.values * rows)
    kept, experts = kept_by(shape)[products], shape.experts
    stream = kept.hidden * shape.hidden + kept.attended * shape.attended + kept.scores * shape.heads * longest
    dense = shape.layers if experts is None else experts.dense_layers
    layers = [stream + kept.units * units for units in shape.each_ffn[:dense]]
    if experts is not None:  # of them the chosen and the shared ones; each reads and writes the stream
        units = kept.units * (experts.chosen * experts.ffn + experts.shared) + 8 * experts.chosen * shape.hidden
        layers += [stream + units] * (shape.layers - experts.dense_layers)
    token = sum(layers)
    if recompute:  # only the input of each layer is kept, and the activations inside one layer
        token = HELD_BYTES * shape.layers * shape.hidden + max(layers)
    return round(token * rows * longest)
