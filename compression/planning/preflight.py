"""The preflight: checks model, data and recipe against each other before a job is accepted."""

import json
from collections.abc import Collection, Sequence
from dataclasses import dataclass, fields, replace
from typing import Annotated

from pydantic import Field

from compression.models.architectures import heads
from compression.models.architectures.families import ARCHITECTURE_SPECS, ArchitectureSpec, check_served
from compression.models.architectures.shapes import check_axes, deepest_shape, planned_shape
from compression.planning.auto_rules import auto_notes, check_auto
from compression.planning.card_memory import harness_bytes
from compression.planning.distillation_rules import check_feature_terms, check_models, check_teacher, check_vocabularies
from compression.planning.estimator import Estimate, PlannedJob, estimate
from compression.planning.formats import check_formats
from compression.planning.latency_bounds import target_notes
from compression.planning.memory import HARNESS_BYTES, HELD_BYTES, PROCESS_BYTES
from compression.planning.model_sizes import ModelSizes, has_head
from compression.planning.network_rules import axes_notes, check_network, check_recomputing, check_without_network, fitted
from compression.planning.on_disk import fits_a_graph, from_file_to_file, untrained, warning, without_solving
from compression.planning.search.costs import Sizes
from compression.planning.search_rules import check_search
from compression.planning.sharded_rules import check_sharded
from compression.planning.warnings import warned
from compression.schema.config import Config
from compression.schema.errors import ConfigMismatch, InvalidSpec, LabelMismatch, UnsupportedShape, listed
from compression.schema.recipe.augment import AUGMENTED_TASKS
from compression.schema.recipe.base import Task
from compression.schema.recipe.recipe import OF_EACH, Evaluate, JobEvaluate, Recipe, Targets, Train
from compression.schema.report.measurements import Parameters, Shape
from compression.schema.tasks import TASKS
from compression.schema.validation import DataFacts, ModelFacts

GENERATING = " or ".join(name for name, spec in TASKS.items() if spec.generates)
"""The tasks of language models."""


class Preflight(Config):
    """The expected result and cost of a job, before it is accepted."""

    shape: Annotated[Shape, Field(description="Of the result; the model's own where nothing is pruned.")]
    parameters: Annotated[Parameters, Field(description="Of the result, its classification head included.")]
    baseline_parameters: Annotated[Parameters, Field(description="Of the baseline, its classification head included.")]
    multiply_adds: int | None = None
    """Of the result, for one image, or one text of evaluate.length tokens; null if the family's are not known."""
    baseline_multiply_adds: Annotated[int | None, Field(description="Of the baseline, as `multiply_adds`.")] = None
    estimate: Estimate
    warnings: tuple[str, ...]


def evaluation_settings(evaluate: JobEvaluate, place: int, datasets: int, task: Task, labels: tuple[str, ...]) -> Evaluate:
    """Return how the dataset at a place, from 0, is evaluated. labels: of its data.

    Raises InvalidSpec for a metric or a label that it does not have; the param is `evaluate.metric.<place>` if a list names it.
    """
    own = evaluate.each(datasets)[place]
    param = {
        key: f"evaluate.{key}.{place}" if isinstance(getattr(evaluate, key), tuple) else f"evaluate.{key}" for key in OF_EACH
    }
    if len(TASKS[task].metrics) == 1:
        for key, usual in (("metric", "auto"), ("positive", None)):
            if getattr(own, key) != usual:
                cause = f"{task} has one headline metric, and {key} is for classification"
                remedy = "Leave it out." if datasets == 1 else f"Leave it out, or send a list with {json.dumps(usual)} here."
                raise InvalidSpec(cause, param=param[key], remedy=remedy)
    elif own.metric not in ("auto", *TASKS[task].metrics):
        cause = f"{task} has no metric {own.metric}; it has {listed(TASKS[task].metrics)}"
        raise InvalidSpec(cause, param=param["metric"], remedy="Name one of these, or auto.")
    elif own.positive is not None and "f1" not in TASKS[task].metrics:
        raise InvalidSpec(f"{task} has no F1, which positive is for", param=param["positive"], remedy="Leave it out.")
    elif own.positive is not None and own.positive not in labels:
        cause = f"the data has no label {own.positive!r:.100}; it has {listed(labels)}"
        raise InvalidSpec(cause, param=param["positive"])
    return own


def check_task(task: Task, recipe: Recipe, evaluate: JobEvaluate) -> None:
    """Check that a task has the recipe's settings. Raises InvalidSpec."""
    if recipe.distill is not None and recipe.distill.augment is not None and task not in AUGMENTED_TASKS:
        cause = f"texts of {task} cannot be augmented: its answers are places in the text, which would shift"
        if not TASKS[task].sequences:
            cause = f"augmentation rewrites texts, and the data is for {task}"
        raise InvalidSpec(cause, param="recipe.distill.augment", remedy="Leave distill.augment out.")
    if recipe.train.views is not None and not TASKS[task].views:
        cause = f"views vary images, and the data is for {task}"
        raise InvalidSpec(cause, param="recipe.train.views", remedy="Leave it out.")
    if evaluate.raw_inputs and not TASKS[task].raw_inputs:
        cause = f"raw inputs are images of 8 bits, and the data is for {task}"
        raise InvalidSpec(cause, param="evaluate.raw_inputs", remedy="Leave it out.")
    if not TASKS[task].sequences:
        _check_lengths(task, recipe, evaluate)
    if TASKS[task].generates:
        _check_language(recipe)
    else:
        for key in ("window", "tokens"):
            if getattr(evaluate, key) != Evaluate.model_fields[key].default:
                cause = f"{key} is of {GENERATING}, and the data is for {task}"
                raise InvalidSpec(cause, param=f"evaluate.{key}", remedy="Leave it out.")
        if evaluate.lm_eval is not None:
            cause = f"lm-eval asks language models, and the data is for {task}"
            raise InvalidSpec(cause, param="evaluate.lm_eval", remedy="Leave it out.")
    if recipe.distill is not None and recipe.distill.kept is not None and not TASKS[task].generates:
        cause = f"next tokens are of {GENERATING}, and the data is for {task}"
        raise InvalidSpec(cause, param="recipe.distill.kept", remedy="Leave it out.")
    if TASKS[task].windows and recipe.train.max_length < heads.FEWEST_TOKENS:
        cause = f"{recipe.train.max_length} tokens have no room for a question and its context"
        remedy = f"Choose at least {heads.FEWEST_TOKENS}; 384 is usual."
        raise InvalidSpec(cause, param="recipe.train.max_length", remedy=remedy)


def _check_lengths(task: Task, recipe: Recipe, evaluate: JobEvaluate) -> None:
    """Refuse lengths of rows that have none. Raises InvalidSpec."""
    for given, usual, param in (
        (recipe.train.max_length, Train.model_fields["max_length"].default, "recipe.train.max_length"),
        (evaluate.length, Evaluate.model_fields["length"].default, "evaluate.length"),
    ):
        if given != usual:
            raise InvalidSpec(f"rows of {task} have no length", param=param, remedy="Leave it out.")


def _check_language(recipe: Recipe) -> None:
    """Check that a language model has the recipe's settings. Raises InvalidSpec."""
    if recipe.prune is not None and "vocabulary" in recipe.prune.axes:
        cause = "a language model's outputs are its tokens: it could never produce those that the texts do not need"
        raise InvalidSpec(cause, param="recipe.prune.axes", remedy="Leave vocabulary out of the axes.")
    distill = recipe.distill
    if distill is None:
        return
    compared = "attention" in distill.weights() or (distill.general is not None and distill.general.attention)
    if compared and distill.attention_by == "scores":
        cause = "decoders' queries and keys are turned by their positions before they are scores"
        raise InvalidSpec(cause, param="recipe.distill.attention_by", remedy="Choose relations or auto.")


def check_kept(recipe: Recipe, vocabulary: int) -> None:
    """Refuse a `kept` that covers all next tokens. vocabulary: of the models. Raises InvalidSpec."""
    kept = recipe.distill.kept if recipe.distill is not None else None
    if kept is not None and kept >= vocabulary:
        cause = f"of {vocabulary} tokens, {kept} cannot be kept with others beside them"
        raise InvalidSpec(cause, param="recipe.distill.kept", remedy="Choose fewer, or null.")


def has_labels(own: Collection[str], data: Collection[str], task: Task) -> bool:
    """Return whether a head with its own labels serves data: they are the same, or the data have some of them."""
    return set(data) <= set(own) if TASKS[task].some_labels else set(data) == set(own)


@dataclass(frozen=True)
class AskedJob:
    """What is asked of one dataset. student, teachers: beside the model."""

    model: ModelFacts
    data: DataFacts
    recipe: Recipe
    evaluate: JobEvaluate
    student: ModelFacts | None = None
    teachers: Sequence[ModelFacts] = ()


def preflight(
    model: ModelFacts,
    data: DataFacts,
    recipe: Recipe,
    evaluate: JobEvaluate,
    student: ModelFacts | None = None,
    teachers: Sequence[ModelFacts] = (),
    *,
    targets: Targets = Targets(),  # noqa: B008 (frozen)
    devices: Collection[str] = (),
) -> Preflight:
    """Check models, data and recipe of a job with one dataset, and return the expected result, as `preflight_dataset` does."""
    return preflight_dataset(AskedJob(model, data, recipe, evaluate, student, teachers), targets, devices)


def preflight_dataset(given: AskedJob, targets: Targets, devices: Collection[str], *, alone: bool = True) -> Preflight:
    """Check models, data and recipe against each other and return the expected result. devices: names of the team's; alone:
    whether the dataset is the job's only one, without which nothing goes from file to file.

    Raises ConfigMismatch, InvalidSpec, LabelMismatch, TargetOutOfReach, UnsupportedShape and UnsupportedTask, each with its
    field.
    """
    model, data, recipe, evaluate, student, teachers = (getattr(given, each.name) for each in fields(given))
    family = ARCHITECTURE_SPECS[model.family]
    asked, recipe = recipe, fitted(recipe, family, model.shape)
    wanted = _checked(model, data, recipe, evaluate, student, teachers)

    counting = ModelSizes(data, wanted, recipe.quantize, evaluate.length)
    sizes = counting.of(model)
    shape = expected_shape(family, model.shape, recipe, sizes)
    check_search(recipe, family, model.shape, sizes)
    if student is not None:
        shape = student.shape
    elif recipe.distill is not None and (recipe.distill.teachers.seeds or recipe.distill.general):
        cut = shape
        if recipe.prune and recipe.prune.target_latency:
            cut = deepest_shape(family, model.shape, recipe.prune, model.network)
        check_feature_terms(recipe.distill, cut, model.shape)  # the tokens of named teachers are compared when they are opened
    whole, *named = counting.whole((model, *teachers))
    job = PlannedJob(whole, counting.counted(student or model, shape), data, recipe, evaluate, named)
    before = whole.parameters
    if not fits_a_graph(before.total) and not family.decodes:  # a decoder's weights are stored beside its graph
        cause = f"{before.total:,} parameters in float32 do not fit into an ONNX file, which holds 2 GiB"
        raise UnsupportedShape(cause, param="config.json", remedy="Send a smaller model of the family.")
    found, more = _estimated(job, model, alone=alone)
    aimed = job
    if (
        recipe.prune and recipe.prune.target_latency and student is None
    ):  # which shape that needs is not known: at most this cut
        least = deepest_shape(family, model.shape, recipe.prune, model.network)
        aimed = replace(job, result=counting.counted(model, least))
    notes = [*target_notes(aimed, targets, devices), *auto_notes(job, targets), *axes_notes(asked, recipe, model.shape)]
    warnings = (*warned(job, model, sizes.parameters, headed=has_head(model, data.task)), *more, *notes)
    return Preflight(
        shape=shape,
        parameters=job.result.parameters,
        baseline_parameters=before,
        multiply_adds=_operations(counting.of(student or model), shape),
        baseline_multiply_adds=_operations(sizes, model.shape),
        estimate=found,
        warnings=warnings,
    )


def _estimated(job: PlannedJob, model: ModelFacts, *, alone: bool) -> tuple[Estimate, list[str]]:
    """Return a job's estimate, and notes if it runs from file to file or could. alone: whether it has one dataset."""
    found, parameters, warnings = estimate(job), job.model.parameters.total, list[str]()
    may_stream = alone and ARCHITECTURE_SPECS[model.family].decodes and has_head(model, job.data.task)
    streamed = may_stream and untrained(job.recipe)
    if streamed:
        found = from_file_to_file(found, model, parameters, job.recipe)
        warnings.append(warning(parameters))
    elif may_stream and (plain := without_solving(job.recipe)) is not None:
        less = from_file_to_file(found, model, parameters, plain).memory_bytes
        if less < found.memory_bytes:
            warnings.append(
                f"Least squares after the cut take the whole model in memory, about {found.memory_bytes:,} bytes: with "
                f"prune.reconstruct: false it goes from file to file, in {less:,}."
            )
    if job.evaluate.lm_eval is not None:
        unknown = "lm-eval's tasks take time that the forecast does not know."
        warnings.append("lm-eval's tasks are not run on a model that goes from file to file." if streamed else unknown)
        if not streamed:  # runs in a process of its own, on the model's copy on disk
            own = PROCESS_BYTES + HARNESS_BYTES
            more = {"memory_bytes": own, "host_bytes_with_card": own, "disk_bytes": HELD_BYTES * parameters}
            sums = {name: getattr(found, name) + amount for name, amount in more.items()}
            card = max(found.card_bytes, harness_bytes(parameters))
            found = found.model_copy(update={**sums, "card_bytes": card})
    return found, warnings


def _checked(
    model: ModelFacts,
    data: DataFacts,
    recipe: Recipe,
    evaluate: JobEvaluate,
    student: ModelFacts | None,
    teachers: Sequence[ModelFacts],
) -> int:
    """Return the number of outputs that the task needs of a model. Raises the errors of `preflight`."""
    check_models(recipe, student=student is not None, teachers=len(teachers))
    check_sharded(recipe)
    check_auto(recipe, ARCHITECTURE_SPECS[model.family], data)
    evaluation_settings(evaluate, 0, 1, data.task, data.labels)
    check_task(data.task, recipe, evaluate)
    if TASKS[data.task].generates:
        check_kept(recipe, model.shape.vocabulary)
        if recipe.distill is not None:
            wide = {f"models.teachers.{number}": each.shape.vocabulary for number, each in enumerate(teachers)}
            own = {"models.base": model.shape.vocabulary} if recipe.distill.teachers.seeds else {}
            check_vocabularies(own | wide, (student or model).shape.vocabulary)
    check_served(ARCHITECTURE_SPECS[model.family], data.task)
    check_formats(recipe, student or model, data.task)
    for one in (model, *([student] if student is not None else [])):
        check_recomputing(recipe, ARCHITECTURE_SPECS[one.family])
    if model.network is not None:
        check_network(recipe)
    else:
        check_without_network(recipe)
    wanted = _fitting(model, data, recipe, evaluate)
    if student is not None:
        check_served(ARCHITECTURE_SPECS[student.family], data.task, "models.student")
        try:
            _fitting(student, data, recipe, evaluate)
        except (ConfigMismatch, InvalidSpec, LabelMismatch) as problem:
            param = "models.student" if (problem.param or "config.json").startswith("config.json") else problem.param
            raise type(problem)(f"the student: {problem.cause}", param=param, remedy=problem.remedy_text) from problem
    for number, teacher in enumerate(teachers):
        named = model.labels if TASKS[data.task].some_labels and has_head(model, data.task) else None
        labels = named or data.labels  # of the student's outputs
        check_teacher(teacher.labels, teacher.architecture, data.task, labels, f"models.teachers.{number}")
    return wanted


def _operations(sizes: Sizes, shape: Shape) -> int | None:
    return sizes.operations(shape) if sizes.operations is not None else None


def expected_shape(family: ArchitectureSpec, shape: Shape, recipe: Recipe, sizes: Sizes) -> Shape:
    """Return the shape of the result with all tokens, or the deepest cut if a target needs fewer. Raises UnsupportedShape and
    InvalidSpec.
    """
    prune = recipe.prune
    if prune is None:
        return shape
    check_axes(family, prune, shape, sizes.network)
    try:
        return planned_shape(family, shape, prune, counts=sizes.counts, network=sizes.network)
    except UnsupportedShape:
        # Tokens that go take no multiply-adds with them: they are rows of tables.
        if not prune.has_target or prune.target_flops is not None or "vocabulary" not in prune.axes:
            raise
        return deepest_shape(family, shape, prune, sizes.network)


def _fitting(model: ModelFacts, data: DataFacts, recipe: Recipe, evaluate: JobEvaluate) -> int:
    """Return the number of outputs that the task needs of a model. Raises ConfigMismatch, InvalidSpec and LabelMismatch."""
    lengths = [(recipe.train.max_length, "recipe.train.max_length"), (evaluate.length, "evaluate.length")]
    for value, param in (*lengths, (evaluate.window or 0, "evaluate.window")):
        if value > model.max_positions and TASKS[data.task].sequences:
            cause = f"{value} tokens, but the model has {model.max_positions} positions"
            raise InvalidSpec(cause, param=param, remedy=f"Choose at most {model.max_positions}.")
    if TASKS[data.task].generates and not model.speaks:
        cause = f"the model ({model.architecture}) comes without its output layer, which cannot be drawn anew"
        remedy = "Send the language model itself (...ForCausalLM)."
        raise ConfigMismatch(cause, param="config.json:architectures", remedy=remedy)
    wanted = heads.outputs(data.task, len(data.labels))
    if not has_head(model, data.task):
        return wanted
    if model.labels is None:
        if model.network is not None and model.network.outputs != wanted:
            cause = f"the model has {model.network.outputs} outputs without names, and the data {wanted} labels"
            raise LabelMismatch(cause, param="config.json:id2label", remedy="Send config.json with id2label.")
        return wanted
    if not data.labels and len(model.labels) != wanted:
        cause = f"the model's head has {len(model.labels)} outputs, {data.task} needs {wanted}"
        raise LabelMismatch(cause, param="config.json:id2label")
    if data.labels and not has_labels(model.labels, data.labels, data.task):
        raise _mismatch(model.labels, data)
    return len(model.labels) if data.labels else wanted


def _mismatch(own: Sequence[str], data: DataFacts) -> LabelMismatch:
    """Return the error of a head with other labels than the data's."""
    cause, remedy = f"the model's head has the labels {listed(own)}, the data {listed(data.labels)}", None
    if TASKS[data.task].some_labels:
        lacking = [label for label in data.labels if label not in own]
        cause = f"the model's head lacks labels of the data: {listed(lacking)}; it has {listed(own)}"
        remedy = "Name the data's classes as the model's config.json does (id2label), or leave those out that it lacks."
    return LabelMismatch(cause, param="config.json:id2label", remedy=remedy)
