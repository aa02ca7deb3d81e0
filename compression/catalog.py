"""The model families that Lathe can take apart, their shapes, and what a job will cost. Torch-free.

The API answers preflights from here, the engine prunes to the shapes planned here: one place says what a ratio becomes.
"""

from collections.abc import Iterator, Mapping
from typing import Annotated, Any, get_args

from pydantic import Field

from compression import heads
from compression.errors import InvalidSpec, LabelMismatch, UnsupportedArchitecture, UnsupportedShape
from compression.recipe import AUGMENTED_TASKS, Augment, Axis, Config, Evaluate, Prune, Recipe, Task
from compression.report import DataFacts, ModelFacts, Parameters, Shape


class Family(Config):
    """One model family: what its stock config can express, and which architectures belong to it."""

    name: str
    model_type: str
    architectures: tuple[str, ...]
    axes: tuple[Axis, ...]
    tasks: tuple[str, ...]
    limits: str
    distance_buckets: Annotated[int, Field(description="Rows of a bias by distance, one column a head; 0 without.")] = 0


AXES: tuple[Axis, ...] = ("hidden", "heads", "ffn")
TASKS: tuple[Task, ...] = get_args(Task)
COUPLED = "hidden = heads × head size, so hidden and heads shrink together; every layer has the same widths."


def _family(name: str, stem: str, pretraining: tuple[str, ...], limits: str = COUPLED, distance_buckets: int = 0) -> Family:
    suffixes = ("Model", *(head.suffix for head in heads.HEADS), *pretraining)
    architectures = tuple(f"{stem}{suffix}" for suffix in suffixes)
    return Family(
        name=name,
        model_type=name,
        architectures=architectures,
        axes=AXES,
        tasks=TASKS,
        limits=limits,
        distance_buckets=distance_buckets,
    )


BERT = _family("bert", "Bert", ("ForMaskedLM", "ForPreTraining"))
DISTILBERT = _family("distilbert", "DistilBert", ("ForMaskedLM",))
ROBERTA = _family("roberta", "Roberta", ("ForMaskedLM",))
XLM_ROBERTA = _family("xlm-roberta", "XLMRoberta", ("ForMaskedLM",))
ELECTRA = _family(
    "electra",
    "Electra",
    ("ForPreTraining", "ForMaskedLM"),
    f"{COUPLED} Tables narrower than hidden stay as they are, and hidden cannot become as narrow as they are.",
)
MPNET = _family(
    "mpnet", "MPNet", ("ForMaskedLM",), f"{COUPLED} All layers keep the same heads: they share a bias by distance.", 32
)
FAMILIES: dict[str, Family] = {family.model_type: family for family in (BERT, DISTILBERT, ROBERTA, XLM_ROBERTA, ELECTRA, MPNET)}


def family_of(config: Mapping[str, Any]) -> Family:
    """Find the family of a config.json. Raises UnsupportedArchitecture."""
    kind = config.get("model_type")
    family = FAMILIES.get(kind) if isinstance(kind, str) else None
    known = ", ".join(FAMILIES)
    if family is None:
        raise UnsupportedArchitecture(f"model_type {kind!r} is not one of: {known}", param="config.json:model_type")
    names = config.get("architectures") or ()
    if not isinstance(names, list | tuple):
        raise UnsupportedArchitecture("architectures is not a list of names", param="config.json:architectures")
    for name in names:
        if name not in family.architectures:
            raise UnsupportedArchitecture(
                f"architecture {name!r} is not one of: {', '.join(family.architectures)}", param="config.json:architectures"
            )
    return family


def planned_shape(family: Family, shape: Shape, prune: Prune) -> Shape:
    """Say which shape the ratio becomes: the nearest that the stock config can express.

    BERT-type configs have no head size of their own (hidden = heads × head size), so heads and hidden channels go
    together, a whole head at a time. Raises UnsupportedShape where an axis alone cannot be expressed or nothing is left.
    """
    unknown = [axis for axis in prune.axes if axis not in family.axes]
    if unknown:
        raise UnsupportedShape(f"family {family.name} has no axis {unknown[0]!r}", param="recipe.prune.axes")
    if ("hidden" in prune.axes) != ("heads" in prune.axes):
        raise UnsupportedShape(
            f"family {family.name} cannot shrink hidden and heads apart: {family.limits}",
            param="recipe.prune.axes",
            remedy="Name both hidden and heads, or neither.",
        )
    heads, hidden, ffn = shape.heads, shape.hidden, shape.ffn
    if "heads" in prune.axes:
        heads = _beside_tables(shape, round(shape.heads * (1 - prune.ratio)))
        hidden = heads * (shape.hidden // shape.heads)
    if "ffn" in prune.axes:
        ffn = min(round(shape.ffn * (1 - prune.ratio) / prune.multiple) * prune.multiple, shape.ffn)
    if heads < 1 or ffn < 1:
        raise UnsupportedShape(
            f"ratio {prune.ratio} with multiple {prune.multiple} leaves {heads} heads and {ffn} feed-forward units",
            param="recipe.prune.ratio",
        )
    return shape.model_copy(update={"hidden": hidden, "heads": heads, "ffn": ffn})


def _beside_tables(shape: Shape, heads: int) -> int:
    """Keep a head more where the stream would become as wide as narrow tables: then no projection could be expressed."""
    return heads + 1 if heads * (shape.hidden // shape.heads) == shape.embedding else heads


def encoder_parameters(family: Family, shape: Shape, *, rows: int, labels: int | None, dense: bool = True) -> Parameters:
    """Count the parameters of an encoder, and of its classification head where `labels` is given.

    rows: of the position and type tables together. dense: whether a dense layer lies between stream and answer (pooler,
    pre_classifier); the stock classes for sequences have one, those for tokens and spans have none.
    """
    h, f, e = shape.hidden, shape.ffn, shape.embedding or shape.hidden
    tables = (shape.vocabulary + rows) * e
    start = 2 * e + (e * h + h if shape.embedding else 0) + family.distance_buckets * shape.heads
    attention = 4 * (h * h + h) + 2 * h
    feed_forward = 2 * h * f + f + h + 2 * h
    head = (h * labels + labels) if labels else 0
    head += h * h + h if dense else 0
    other = start + shape.layers * (attention + feed_forward) + head
    return Parameters(total=tables + other, embedding=tables, other=other)


def table_rows(parameters: Parameters, shape: Shape) -> int:
    """Count the rows of the position and type tables: what is left of the embedding."""
    return parameters.embedding // (shape.embedding or shape.hidden) - shape.vocabulary


# A job's cost. First guesses, so that a queue can be planned and a job that cannot fit is refused: the constants were taken
# with a 6-layer, 384-wide encoder (MiniLM) on two cores of an x86-64 server with AVX-512, torch 2.13, and are rounded up.

PROCESS_BYTES = 600_000_000
"""A process that has imported torch, transformers and the exporter, before it holds a model."""
TRAINED_BYTES, HELD_BYTES = 16, 4
"""A trained parameter: weight, gradient and AdamW's two moments in float32. One that is only held (the teacher): 4."""
TOKEN_FLOATS_HIDDEN, TOKEN_FLOATS_FFN = 16, 5
"""Floats kept for the backward pass, for each token and layer: so many of the hidden and of the feed-forward width."""
TEACHER_BYTES = 2 * 2**30
"""The teacher's hidden states are kept in memory up to this; beyond it the teacher is asked again in each epoch."""
LARGEST_GRAPH = 2**31
"""Bytes that an ONNX file of one piece can have (a protobuf message); the float32 baseline must fit."""
KEPT_FREED = 1.1
"""Freed blocks that the C library keeps (compression/process.py). Seen: 3.08 GB where the sum before this factor is 2.9."""
INT8_OVERHEAD = 1.05
"""An int8 artifact's bytes a parameter: scales, biases and the graph beside the integers."""
ARTIFACT_EXTRAS = 2_000_000
"""Tokenizer, configs and card of an artifact."""
TRAINING_FLOPS = 1.4e11
"""Useful floating-point operations a second in training, two cores with AVX-512 together (`standard` on MiniLM-L6, calm
machine: 2.1e11 in full precision, 1.3e11 fake-quantized)."""
TOKENS_A_WORD = 1.4
SHIP_MINUTES = 0.2
"""Exporting, verifying and timing an artifact (same run); the score's time comes on top."""
SCORED_ROWS_A_SECOND = 100.0
"""Rows a second when the test split is answered, one at a time and again by 32, on one thread."""
WINDOWS_OVERLAP = 4 / 3
"""Tokens that go through the model for one of a question's context."""
AUGMENT_SECONDS = {"wordnet": 0.001, "embeddings": 0.002, "masked-lm": 0.05, "apertium": 0.006, "models": 0.5}
"""Seconds that a made row takes on two cores, by where it comes from (sentences of some 20 words; docs/method.md)."""
DEFAULT_TEST_SHARE = 0.2
"""Of train, where no test split is given."""


class Estimate(Config):
    """What a job will take, roughly. Minutes are those of two cores."""

    memory_bytes: Annotated[int, Field(description="Resident peak of the training process.")]
    disk_bytes: Annotated[int, Field(description="Checkpoints and artifacts at the job's end, and what it writes in passing.")]
    minutes: float


class Preflight(Config):
    """What a job will become, said before it is accepted."""

    shape: Annotated[Shape, Field(description="Of the result; the model's own where nothing is pruned.")]
    parameters: Annotated[Parameters, Field(description="Of the result, its classification head included.")]
    baseline_parameters: Annotated[Parameters, Field(description="Of the baseline, its classification head included.")]
    estimate: Estimate
    warnings: tuple[str, ...]


def check_task(task: Task, recipe: Recipe, evaluate: Evaluate, labels: tuple[str, ...]) -> None:
    """Refuse what a task cannot be asked for. labels: of the data. Raises InvalidSpec."""
    if recipe.distill is not None and recipe.distill.augment is not None and task not in AUGMENTED_TASKS:
        raise InvalidSpec(
            f"texts of {task} cannot be augmented: its answers are places in the text, which would shift",
            param="recipe.distill.augment",
            remedy="Leave distill.augment out.",
        )
    if task not in ("text-classification", "text-pair-classification"):
        for key in ("metric", "positive"):
            if getattr(evaluate, key) not in ("auto", None):
                cause = f"{task} has one headline metric, and {key} is for classification"
                raise InvalidSpec(cause, param=f"evaluate.{key}", remedy="Leave it out.")
    elif evaluate.positive is not None and evaluate.positive not in labels:
        cause = f"the data has no label {evaluate.positive!r:.100}; it has {_listed(labels)}"
        raise InvalidSpec(cause, param="evaluate.positive")
    if task == "question-answering" and recipe.train.max_length < heads.FEWEST_TOKENS:
        cause = f"{recipe.train.max_length} tokens have no room for a question and its context"
        remedy = f"Choose at least {heads.FEWEST_TOKENS}; 384 is usual."
        raise InvalidSpec(cause, param="recipe.train.max_length", remedy=remedy)


def has_head(model: ModelFacts, task: Task) -> bool:
    """Say whether a model comes with the head that a task needs."""
    return heads.of_architecture(model.architecture) == heads.of_task(task)


def preflight(model: ModelFacts, data: DataFacts, recipe: Recipe, evaluate: Evaluate) -> Preflight:
    """Hold model, data and recipe against each other and say what will come out.

    Raises InvalidSpec, LabelMismatch and UnsupportedShape, each naming the field that it is about.
    """
    for value, param in ((recipe.train.max_length, "recipe.train.max_length"), (evaluate.length, "evaluate.length")):
        if value > model.max_positions:
            raise InvalidSpec(
                f"{value} tokens, but the model has {model.max_positions} positions",
                param=param,
                remedy=f"Choose at most {model.max_positions}.",
            )
    check_task(data.task, recipe, evaluate, data.labels)
    wanted = heads.outputs(data.task, len(data.labels))
    if model.labels is not None and has_head(model, data.task):
        if not data.labels and len(model.labels) != wanted:
            raise LabelMismatch(
                f"the model's head has {len(model.labels)} outputs, {data.task} needs {wanted}", param="config.json:id2label"
            )
        if data.labels and set(model.labels) != set(data.labels):
            raise LabelMismatch(
                f"the model's head has the labels {_listed(model.labels)}, the data {_listed(data.labels)}",
                param="config.json:id2label",
            )
    family = FAMILIES[model.family]
    shape = planned_shape(family, model.shape, recipe.prune) if recipe.prune else model.shape
    rows, dense = table_rows(model.parameters, model.shape), heads.of_task(data.task) == heads.CLASSIFIER
    before, after = (encoder_parameters(family, each, rows=rows, labels=wanted, dense=dense) for each in (model.shape, shape))
    if HELD_BYTES * before.total >= LARGEST_GRAPH:
        raise UnsupportedShape(
            f"{before.total:,} parameters in float32 do not fit into an ONNX file, which holds 2 GiB",
            param="config.json",
            remedy="Send a smaller model of the family.",
        )
    return Preflight(
        shape=shape,
        parameters=after,
        baseline_parameters=before,
        estimate=_estimate(model.shape, before, after, data, recipe),
        warnings=tuple(_warnings(model, data, recipe, before, after)),
    )


def _estimate(shape: Shape, before: Parameters, after: Parameters, data: DataFacts, recipe: Recipe) -> Estimate:
    train = recipe.train
    token_floats = shape.layers * (TOKEN_FLOATS_HIDDEN * shape.hidden + TOKEN_FLOATS_FFN * shape.ffn)
    longest = min(train.max_length, round(data.longest_words * TOKENS_A_WORD) + 2)
    row = data.mean_words * TOKENS_A_WORD + 2
    # Contexts are not cut but read in windows, a quarter of which the one before has read already.
    row = row * WINDOWS_OVERLAP if data.task == "question-answering" else min(train.max_length, row)
    tokens = data.rows["train"] * row
    augment = recipe.distill.augment if recipe.distill else None
    taught = tokens * (1 + augment.copies if augment else 1)
    memory = PROCESS_BYTES + (TRAINED_BYTES + HELD_BYTES) * before.total + 4 * token_floats * train.batch * longest
    if recipe.distill and (recipe.distill.hidden or recipe.distill.attention):
        states = shape.layers + 1 + 3 * bool(recipe.distill.attention)
        memory += min(TEACHER_BYTES, round(2 * taught * shape.hidden * states))
    memory = round(memory * KEPT_FREED)
    sizes = [before.total] + [before.total] * (recipe.quantize is not None)
    sizes += [after.total] * ((recipe.prune is not None) + (recipe.distill is not None))
    bytes_each = INT8_OVERHEAD if recipe.quantize else HELD_BYTES
    disk = HELD_BYTES * sum(sizes)  # one checkpoint a row
    disk += HELD_BYTES * before.total + round(bytes_each * sum(sizes[1:])) + ARTIFACT_EXTRAS * (len(sizes) + 1)
    disk += 2 * HELD_BYTES * after.total  # the transformers artifact, and its float32 weights in passing
    # A training step costs three forward passes, one of 2 operations a parameter and token; a teacher one more, once.
    forward, small = (2 * parameters.other * tokens for parameters in (before, after))
    more = taught / tokens
    work = (
        3 * forward * (recipe.prepare.epochs + (recipe.quantize.qat.epochs if recipe.quantize and recipe.quantize.qat else 0))
    )
    if recipe.prune and recipe.prune.recovery:
        work += 3 * small * recipe.prune.recovery.epochs
    if recipe.distill:
        again = -(-recipe.distill.epochs // 2) if recipe.remedy == "apply" else 0
        work += more * (3 * small * (recipe.distill.epochs + again) + forward)
    planned = planned_steps(recipe, data.rows["train"])
    work *= min(1.0, (train.max_steps or planned) / max(planned, 1))
    training = min(work / TRAINING_FLOPS / 60, train.max_minutes or float("inf"))
    tests = data.rows.get("test", round(DEFAULT_TEST_SHARE * data.rows["train"]))
    made = augment_seconds(augment, data.rows["train"]) / 60 if augment else 0.0
    shipping = made + (len(sizes) + 1) * (SHIP_MINUTES + tests / SCORED_ROWS_A_SECOND / 60)
    return Estimate(memory_bytes=memory, disk_bytes=disk, minutes=round(training + shipping, 1))


def planned_steps(recipe: Recipe, rows: int) -> int:
    """Count the optimizer steps that a recipe asks for over `rows` of train, before any limit or early end."""
    epochs = recipe.prepare.epochs
    epochs += recipe.quantize.qat.epochs if recipe.quantize and recipe.quantize.qat else 0
    epochs += recipe.prune.recovery.epochs if recipe.prune and recipe.prune.recovery else 0

    def an_epoch(rows: int) -> int:
        batches = -(-rows // recipe.train.batch)
        return -(-batches // recipe.train.accumulate)

    taught = 0
    if recipe.distill:
        copies = recipe.distill.augment.copies if recipe.distill.augment else 0
        taught = recipe.distill.epochs * an_epoch(rows * (1 + copies))
    return epochs * an_epoch(rows) + taught


def augment_seconds(augment: Augment, rows: int) -> float:
    """Say about how long making the new rows takes. The source `auto` counts as the dearer of the two that it may be."""
    seconds, copies = 0.0, augment.copies
    if augment.back_translation is not None:
        copies -= 1
        seconds += AUGMENT_SECONDS["models" if augment.back_translation.models else "apertium"] * rows
    if augment.synonyms is not None:
        source = augment.synonyms.source
        seconds += AUGMENT_SECONDS["embeddings" if source == "auto" else source] * rows * copies
    return seconds


def _warnings(model: ModelFacts, data: DataFacts, recipe: Recipe, before: Parameters, after: Parameters) -> Iterator[str]:
    """Say what is allowed, but unlikely to be meant."""
    for name, least in (("train", 1000), ("validation", 100), ("test", 200)):
        if name in data.rows and data.rows[name] < least:
            yield f"{name} has {data.rows[name]} rows: with fewer than {least} the score tells little."
    missing = [name for name in ("validation", "test") if name not in data.rows]
    if missing:
        yield f"There is no {' and no '.join(missing)} split: it is carved from train."
    if data.mean_words * TOKENS_A_WORD > recipe.train.max_length and data.task != "question-answering":
        yield f"The texts average {data.mean_words:.0f} words; most are cut to {recipe.train.max_length} tokens."
    counts = data.label_counts["train"]
    rarest = min(counts, key=lambda label: counts[label], default=None)
    if rarest is not None and counts[rarest] < 8:
        what = "words" if data.task == "token-classification" else "rows"
        yield f"Only {counts[rarest]} {what} of train bear the label {rarest!r}."
    if model.labels is not None and not has_head(model, data.task):
        yield "The model's head is for another task: it is left out, and a new one drawn."
    if recipe.prune and after.total == before.total:
        yield f"The ratio {recipe.prune.ratio} rounds to no change of shape."
    if recipe.prune and recipe.distill is None and recipe.prune.recovery is None:
        yield "The model is pruned and not trained afterwards: expect its score to fall."
    planned, most = planned_steps(recipe, data.rows["train"]), recipe.train.max_steps
    if most is not None and most < planned:
        yield f"train.max_steps ends training after {most} of about {planned} steps: later stages get what earlier ones leave."
    if recipe.prepare.epochs == 0 and not has_head(model, data.task):
        yield "The model is a bare encoder and prepare.epochs is 0: its head stays as it was drawn."


def _listed(labels: tuple[str, ...], most: int = 8) -> str:
    shown = ", ".join(map(repr, labels[:most]))
    return shown if len(labels) <= most else f"{shown} and {len(labels) - most} more"
