"""Model, data and recipe held against each other before a job is accepted."""

import json
import math
from collections.abc import Iterator, Sequence
from typing import Annotated

from pydantic import Field

from compression.models.architectures import heads
from compression.models.architectures.families import ARCHITECTURE_SPECS, ArchitectureSpec, check_served
from compression.models.architectures.shapes import Count, deepest_shape, parameters_at, planned_shape, table_rows
from compression.planning.distillation_rules import check_feature_terms, check_models, check_one_teacher, check_teacher
from compression.planning.estimator import (
    HARNESS_BYTES,
    HELD_BYTES,
    MEASURE_SECONDS,
    PROCESS_BYTES,
    Counted,
    Estimate,
    estimate,
    objectives,
    planned_steps,
    scoring_seconds,
)
from compression.planning.on_disk import fits_a_graph, from_file_to_file, untrained, warning, without_solving
from compression.planning.pruning_reach import goes_past
from compression.planning.teacher_cost import TEACHER_BYTES, Lessons
from compression.planning.token_estimates import TOKENS_A_WORD, packed
from compression.schema.errors import ConfigMismatch, InvalidSpec, LabelMismatch, UnsupportedShape, listed
from compression.schema.recipe.augment import AUGMENTED_TASKS
from compression.schema.recipe.base import Config, Task
from compression.schema.recipe.prune import Prune, Recovery
from compression.schema.recipe.recipe import OF_EACH, Evaluate, JobEvaluate, Recipe
from compression.schema.report.measurements import Parameters, Shape
from compression.schema.validation import DataFacts, ModelFacts

DEEP = 0.4
"""A share of a decoder's parameters that is better cut in steps (Minitron, Muralidharan et al. 2024, cuts by half at most)."""
MOST_STEPS = 20
"""As many cuts as a recipe may ask for."""
SPILL_MARGIN = 1.2
"""Of the disk that is proposed for a teacher's states, by what they are reckoned to take."""


class Preflight(Config):
    """What a job will become, said before it is accepted."""

    shape: Annotated[Shape, Field(description="Of the result; the model's own where nothing is pruned.")]
    parameters: Annotated[Parameters, Field(description="Of the result, its classification head included.")]
    baseline_parameters: Annotated[Parameters, Field(description="Of the baseline, its classification head included.")]
    estimate: Estimate
    warnings: tuple[str, ...]


def evaluation_settings(evaluate: JobEvaluate, place: int, datasets: int, task: Task, labels: tuple[str, ...]) -> Evaluate:
    """Say what is asked for one of a job's datasets, and refuse a metric that its task or a label that its data does not have.

    place: of the dataset in the job's order, from 0; labels: of its data. Raises InvalidSpec, whose param is
    `evaluate.metric.<place>` where a list names it.
    """
    own = evaluate.each(datasets)[place]
    param = {
        key: f"evaluate.{key}.{place}" if isinstance(getattr(evaluate, key), tuple) else f"evaluate.{key}" for key in OF_EACH
    }
    if task not in ("text-classification", "text-pair-classification"):
        for key, usual in (("metric", "auto"), ("positive", None)):
            if getattr(own, key) != usual:
                cause = f"{task} has one headline metric, and {key} is for classification"
                remedy = "Leave it out." if datasets == 1 else f"Leave it out, or send a list with {json.dumps(usual)} here."
                raise InvalidSpec(cause, param=param[key], remedy=remedy)
    elif own.positive is not None and own.positive not in labels:
        cause = f"the data has no label {own.positive!r:.100}; it has {listed(labels)}"
        raise InvalidSpec(cause, param=param["positive"])
    return own


def check_task(task: Task, recipe: Recipe, evaluate: JobEvaluate) -> None:
    """Refuse what a task cannot be asked for. Raises InvalidSpec."""
    if recipe.distill is not None and recipe.distill.augment is not None and task not in AUGMENTED_TASKS:
        raise InvalidSpec(
            f"texts of {task} cannot be augmented: its answers are places in the text, which would shift",
            param="recipe.distill.augment",
            remedy="Leave distill.augment out.",
        )
    if task == "causal-lm":
        _check_language(recipe)
    else:
        for key in ("window", "tokens"):
            if getattr(evaluate, key) != Evaluate.model_fields[key].default:
                cause = f"{key} is of causal-lm, and the data is for {task}"
                raise InvalidSpec(cause, param=f"evaluate.{key}", remedy="Leave it out.")
        if evaluate.lm_eval is not None:
            cause = f"lm-eval asks language models, and the data is for {task}"
            raise InvalidSpec(cause, param="evaluate.lm_eval", remedy="Leave it out.")
    if recipe.distill is not None and recipe.distill.kept is not None and task != "causal-lm":
        cause = f"next tokens are of causal-lm, and the data is for {task}"
        raise InvalidSpec(cause, param="recipe.distill.kept", remedy="Leave it out.")
    if task == "question-answering" and recipe.train.max_length < heads.FEWEST_TOKENS:
        cause = f"{recipe.train.max_length} tokens have no room for a question and its context"
        remedy = f"Choose at least {heads.FEWEST_TOKENS}; 384 is usual."
        raise InvalidSpec(cause, param="recipe.train.max_length", remedy=remedy)


def _check_language(recipe: Recipe) -> None:
    """Refuse what a language model cannot be asked for. Raises InvalidSpec."""
    if recipe.prune is not None and "vocabulary" in recipe.prune.axes:
        cause = "a language model's answers are its tokens: those that the texts do not need could never be said again"
        raise InvalidSpec(cause, param="recipe.prune.axes", remedy="Leave vocabulary out of the axes.")
    distill = recipe.distill
    if distill is None:
        return
    if "attention" in distill.weights() and distill.attention_by == "scores":
        cause = "decoders' queries and keys are turned by their positions before they are scores"
        raise InvalidSpec(cause, param="recipe.distill.attention_by", remedy="Choose relations or auto.")
    if distill.general is not None:
        cause = "the general phase is for texts without labels, and causal-lm has none but such"
        raise InvalidSpec(cause, param="recipe.distill.general", remedy="Set it to null, and put all texts into train.")
    if distill.teachers.seeds > 1:
        cause = "distributions over a vocabulary are not averaged: a language model has one teacher"
        raise InvalidSpec(cause, param="recipe.distill.teachers.seeds", remedy="Choose 1, or 0 and name one teacher.")


def check_kept(recipe: Recipe, vocabulary: int) -> None:
    """Refuse to keep all of a teacher's next tokens. vocabulary: of the models. Raises InvalidSpec."""
    kept = recipe.distill.kept if recipe.distill is not None else None
    if kept is not None and kept >= vocabulary:
        cause = f"of {vocabulary} tokens, {kept} cannot be kept with others beside them"
        raise InvalidSpec(cause, param="recipe.distill.kept", remedy="Choose fewer, or null.")


def has_head(model: ModelFacts, task: Task) -> bool:
    """Say whether a model comes with the head that a task needs."""
    return heads.of_architecture(model.architecture) == heads.of_task(task)


def preflight(
    model: ModelFacts,
    data: DataFacts,
    recipe: Recipe,
    evaluate: JobEvaluate,
    student: ModelFacts | None = None,
    teachers: Sequence[ModelFacts] = (),
) -> Preflight:
    """Hold models, data and recipe against each other and say what will come out.

    student, teachers: those that the job names beside its model. Raises ConfigMismatch, InvalidSpec, LabelMismatch,
    UnsupportedShape and UnsupportedTask, each naming the field that it is about.
    """
    check_models(recipe, student=student is not None, teachers=len(teachers))
    evaluation_settings(evaluate, 0, 1, data.task, data.labels)
    check_task(data.task, recipe, evaluate)
    if data.task == "causal-lm":
        check_one_teacher(recipe, len(teachers))
        check_kept(recipe, model.shape.vocabulary)
    check_served(ARCHITECTURE_SPECS[model.family], data.task)
    if student is not None:
        check_served(ARCHITECTURE_SPECS[student.family], data.task, "models.student")
    wanted = _fitting(model, data, recipe, evaluate)
    if student is not None:
        try:
            _fitting(student, data, recipe, evaluate)
        except (ConfigMismatch, InvalidSpec, LabelMismatch) as problem:
            raise type(problem)(
                f"the student: {problem.cause}", param=_param_of_student(problem.param), remedy=problem.remedy_text
            ) from problem
    for number, teacher in enumerate(teachers):
        check_teacher(teacher.labels, teacher.architecture, data.task, data.labels, f"models.teachers.{number}")
    family = ARCHITECTURE_SPECS[model.family]

    def count(each: Shape) -> int:
        return _parameters(model, each, data, wanted).total

    shape = forecast(family, model.shape, recipe.prune, count) if recipe.prune else model.shape
    before, after = (_parameters(model, each, data, wanted) for each in (model.shape, shape))
    if student is not None:
        shape, after = student.shape, _parameters(student, student.shape, data, wanted)
    baseline_shows = recipe.distill is not None and (recipe.distill.teachers.seeds or recipe.distill.general)
    if recipe.distill is not None and student is None and baseline_shows:
        cut = deepest_shape(family, model.shape, recipe.prune) if recipe.prune and recipe.prune.target_latency else shape
        check_feature_terms(recipe.distill, cut, model.shape)  # whose tokens named teachers have is found when they are opened
    may_stream = family.decodes and has_head(model, data.task)
    streamed = may_stream and untrained(recipe)
    if not fits_a_graph(before.total) and not family.decodes:  # whose weights lie beside their graph
        raise UnsupportedShape(
            f"{before.total:,} parameters in float32 do not fit into an ONNX file, which holds 2 GiB",
            param="config.json",
            remedy="Send a smaller model of the family.",
        )
    whole, *named = (_counted(each, each.shape, data, wanted) for each in (model, *teachers))
    result = _counted(student or model, shape, data, wanted)
    found = estimate(whole, result, data, recipe, evaluate, named)
    warnings = [*_warnings(model, data, recipe, before, after), *_unknown(family, model.shape, recipe.prune, count)]
    if recipe.prune is not None:
        warnings += goes_past(family, model.shape, recipe.prune, shape, count)
    warnings += _asked_again(objectives(whole, result, data, recipe, named), recipe, data.task)
    warnings += _too_long(data, scoring_seconds(whole, data, recipe.train, evaluate))
    if streamed:
        found = from_file_to_file(found, model, before.total, recipe)
        warnings.append(warning(before.total))
    elif may_stream and (plain := without_solving(recipe)) is not None:
        less = from_file_to_file(found, model, before.total, plain).memory_bytes
        if less < found.memory_bytes:
            warnings.append(
                f"Least squares after the cut take the whole model in memory, about {found.memory_bytes:,} bytes: with "
                f"prune.reconstruct: false it goes from file to file, in {less:,}."
            )
    if evaluate.lm_eval is not None:
        unknown = "lm-eval's tasks take time that the forecast does not know."
        warnings.append("lm-eval's tasks will not be asked of a model that goes from file to file." if streamed else unknown)
        if not streamed:  # in a process of their own, of the model's copy on disk
            more = {"memory_bytes": PROCESS_BYTES + HARNESS_BYTES, "disk_bytes": HELD_BYTES * before.total}
            found = found.model_copy(update={name: getattr(found, name) + amount for name, amount in more.items()})
    return Preflight(shape=shape, parameters=after, baseline_parameters=before, estimate=found, warnings=tuple(warnings))


def forecast(family: ArchitectureSpec, shape: Shape, prune: Prune, count: Count) -> Shape:
    """Say what is known of the shape before the texts are tokenized: tokens that they do not need still count.

    So where target_params cannot be reached without them, the deepest cut is foretold. Raises UnsupportedShape.
    """
    try:
        return planned_shape(family, shape, prune, count=count)
    except UnsupportedShape:
        if prune.target_params is None or "vocabulary" not in prune.axes:
            raise
        return deepest_shape(family, shape, prune)


def _unknown(family: ArchitectureSpec, shape: Shape, prune: Prune | None, count: Count) -> Iterator[str]:
    """Say what only the worker finds out, and between what it lies."""
    if prune is None:
        return
    if prune.target_latency is not None:
        least = count(deepest_shape(family, shape, prune))
        yield (
            f"Which shape target_latency needs is measured on the worker: between {least:,} and {count(shape):,} "
            "parameters. What is foretold here is without a cut."
        )
    if "vocabulary" in prune.axes:
        fewest = max(round(shape.vocabulary * (1 - prune.vocabulary_ratio)), 1)
        spared = count(shape) - count(shape.model_copy(update={"vocabulary": fewest}))
        yield (
            f"Which of {shape.vocabulary:,} tokens the texts need is found on the worker: up to {spared:,} parameters of the "
            "model go with the others. What is foretold here is with all tokens."
        )


def _fitting(model: ModelFacts, data: DataFacts, recipe: Recipe, evaluate: JobEvaluate) -> int:
    """Return how many outputs the task needs of a model. Raises ConfigMismatch, InvalidSpec and LabelMismatch where not."""
    lengths = [(recipe.train.max_length, "recipe.train.max_length"), (evaluate.length, "evaluate.length")]
    for value, param in (*lengths, (evaluate.window or 0, "evaluate.window")):
        if value > model.max_positions:
            raise InvalidSpec(
                f"{value} tokens, but the model has {model.max_positions} positions",
                param=param,
                remedy=f"Choose at most {model.max_positions}.",
            )
    if data.task == "causal-lm" and not model.speaks:
        cause = f"the model ({model.architecture}) comes without its output layer, which cannot be drawn anew"
        remedy = "Send the language model itself (...ForCausalLM)."
        raise ConfigMismatch(cause, param="config.json:architectures", remedy=remedy)
    wanted = heads.outputs(data.task, len(data.labels))
    if model.labels is not None and has_head(model, data.task):
        if not data.labels and len(model.labels) != wanted:
            raise LabelMismatch(
                f"the model's head has {len(model.labels)} outputs, {data.task} needs {wanted}", param="config.json:id2label"
            )
        if data.labels and set(model.labels) != set(data.labels):
            raise LabelMismatch(
                f"the model's head has the labels {listed(model.labels)}, the data {listed(data.labels)}",
                param="config.json:id2label",
            )
    return wanted


def _param_of_student(param: str | None) -> str | None:
    return "models.student" if param is None or param.startswith("config.json") else param


def _parameters(model: ModelFacts, shape: Shape, data: DataFacts, outputs: int) -> Parameters:
    """Count a model's parameters at a shape, its head for the data's task included."""
    family, rows = ARCHITECTURE_SPECS[model.family], table_rows(model.parameters, model.shape)
    dense = heads.of_task(data.task) == heads.CLASSIFIER

    def at(shape: Shape, outputs: int) -> Parameters:
        return parameters_at(family, shape, rows=rows, outputs=outputs, dense=dense, biases=model.biases)

    return at(shape, model.shape.vocabulary if _spoken(model, data) else outputs)


def _counted(model: ModelFacts, shape: Shape, data: DataFacts, outputs: int) -> Counted:
    spoken = _spoken(model, data)
    tied = data.task == "causal-lm" and not spoken
    return Counted(shape, _parameters(model, shape, data, outputs), tied, spoken)


def _spoken(model: ModelFacts, data: DataFacts) -> int:
    """Count the elements of a language model's output layer that is not its table; 0 where it is, and of other tasks."""
    if data.task != "causal-lm":
        return 0
    rows = table_rows(model.parameters, model.shape)
    tied = parameters_at(ARCHITECTURE_SPECS[model.family], model.shape, rows=rows, outputs=0, dense=False, biases=model.biases)
    layer = model.shape.vocabulary * model.shape.hidden
    return layer if tied.total + layer <= model.parameters.total else 0  # a classifier's head is more too, and less than that


def _warnings(model: ModelFacts, data: DataFacts, recipe: Recipe, before: Parameters, after: Parameters) -> Iterator[str]:
    """Say what is allowed, but unlikely to be meant."""
    fewest = {"train": 1000, "validation": 100, "test": 200}
    if data.task == "causal-lm":  # texts, and not what is learned of them
        fewest = {"test": 30}
    for name, least in fewest.items():
        if name in data.rows and data.rows[name] < least:
            yield f"{name} has {data.rows[name]} rows: with fewer than {least} the score tells little."
    missing = [name for name in ("validation", "test") if name not in data.rows]
    if missing:
        yield f"There is no {' and no '.join(missing)} split: it is carved from train."
    cuts = data.task not in ("question-answering", "causal-lm")
    if data.mean_words * TOKENS_A_WORD > recipe.train.max_length and cuts:
        yield f"The texts average {data.mean_words:.0f} words; most are cut to {recipe.train.max_length} tokens."
    counts = data.label_counts["train"]
    rarest = min(counts, key=lambda label: counts[label], default=None)
    if rarest is not None and counts[rarest] < 8:
        what = "words" if data.task == "token-classification" else "rows"
        yield f"Only {counts[rarest]} {what} of train bear the label {rarest!r}."
    if model.labels is not None and not has_head(model, data.task):
        # A language model's is never drawn: where the upload has none, and no table is tied to it, it was refused.
        speaks = data.task == "causal-lm"
        instead = "next tokens are told by its own output layer, or by the token table" if speaks else "a new one drawn"
        yield f"The model's head is for another task: it is left out, and {instead}."
    settled = recipe.prune and recipe.prune.target_latency is None and set(recipe.prune.axes) != {"vocabulary"}
    if recipe.prune and settled and after.total == before.total:
        yield f"The ratio {recipe.prune.deepest:g} rounds to no change of shape."
    if recipe.prune and settled and ARCHITECTURE_SPECS[model.family].decodes:
        yield from _too_deep(recipe.prune, after.total / before.total)
    if recipe.prune and recipe.distill is None and recipe.prune.recovery is None:
        yield "The model is pruned and not trained afterwards: expect its score to fall."
    if recipe.distill is not None and recipe.distill.general is not None and "unlabelled" not in data.rows:
        yield "There is no unlabelled split: the general phase takes train's texts."
    rows = packed(data, recipe).rows if data.task == "causal-lm" else data.rows
    planned, most = planned_steps(recipe, rows["train"], rows.get("unlabelled")), recipe.train.max_steps
    if most is not None and most < planned:
        yield f"train.max_steps ends training after {most} of about {planned} steps: later stages get what earlier ones leave."
    if not recipe.prepare.trains and data.task != "causal-lm" and not has_head(model, data.task):
        yield "The model comes without a head for the task and prepare.epochs is 0: its head stays as it was drawn."


def _too_long(data: DataFacts, seconds: float) -> Iterator[str]:
    """Say where a score will hardly be had. seconds: that it is reckoned to take."""
    if seconds > MEASURE_SECONDS:
        fewer = "lower evaluate.tokens" if data.task == "causal-lm" else "send fewer test rows, and fewer of validation"
        yield (
            f"Scoring an artifact takes about {seconds / 60:.0f} minutes, and after {MEASURE_SECONDS / 60:.0f} it is given up: "
            f"the score would be not_measured; {fewer}."
        )


def _asked_again(asked: Lessons, recipe: Recipe, task: Task) -> Iterator[str]:
    """Say where a teacher is asked again in each epoch, and what keeps its states."""
    unkept, distill = asked.unkept, recipe.distill
    if unkept is None:
        return
    gib, remedy = unkept.bytes / 2**30, "send fewer texts, or distil too, which may keep them on the worker's disk"
    if distill is not None:
        # Tokens are reckoned of words or characters, and there may be more.
        remedy = f"distill.spill_gib: {math.ceil(SPILL_MARGIN * gib)} keeps them on the worker's disk"
        if task == "causal-lm" and unkept is asked.task and set(distill.weights()) <= {"soft", "hard"}:
            remedy += ", and distill.kept its likeliest tokens alone"
    yield (
        f"The teacher's states take about {gib:.1f} GiB, and memory keeps {TEACHER_BYTES >> 30} of them at most: it is asked "
        f"again in each epoch; {remedy}."
    )


def _too_deep(prune: Prune, left: float) -> Iterator[str]:
    """Say of a decoder's cut whether a step of it goes too deep, and with which keys none does. left: share of parameters."""
    share = 1 - left ** (1 / prune.steps)
    if share <= DEEP:
        return
    steps = min(math.ceil(math.log(left) / math.log(1 - DEEP)), MOST_STEPS)
    recovery = prune.recovery or Recovery()
    own = recovery.model_dump(mode="json", exclude_defaults=True)
    asked = json.dumps({"steps": steps, "recovery": own | {"by": "teacher", "epochs": max(recovery.epochs, steps)}})
    yield (
        f"{share:.0%} of the parameters go in one cut: beyond {DEEP:.0%}, decoders keep more in steps, each followed by "
        f"training that learns the baseline's answers. Put this into prune: {asked}"
    )
