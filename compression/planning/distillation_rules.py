"""Rules of distillation: what a student learns, and which models a recipe may name. Torch-free."""

from collections.abc import Mapping
from typing import Literal

from compression.models.architectures import heads
from compression.schema.errors import InvalidSpec, LabelMismatch
from compression.schema.recipe.base import Task
from compression.schema.recipe.distill import Distill
from compression.schema.recipe.recipe import Recipe
from compression.schema.report.measurements import Shape

Pairs = tuple[tuple[int, int], ...]
"""Pairs (student, teacher) of layer numbers from 1, in ascending order of the student's."""


def layer_pairs(mapping: Literal["uniform", "last"] | Pairs, student: int, teacher: int) -> Pairs:
    """Return the teacher layer that each student layer follows (TinyBERT, Jiao et al. 2020).

    uniform: layer m follows layer m × teacher / student, rounded half up; last: the last layers of both, as many as the smaller
    model has. Raises InvalidSpec if a pair names a layer that does not exist.
    """
    if mapping == "uniform":
        return tuple((m, max((2 * m * teacher + student) // (2 * student), 1)) for m in range(1, student + 1))
    if mapping == "last":
        both = min(student, teacher)
        return tuple((student - both + m, teacher - both + m) for m in range(1, both + 1))
    for one, other in mapping:
        for whose, number, has in (("student", one, student), ("teacher", other, teacher)):
            if number > has:
                raise InvalidSpec(f"the {whose} has {has} layers, no layer {number}", param="recipe.distill.layers")
    return tuple(sorted(mapping))


def attention_form(
    form: Literal["auto", "scores", "relations"], student: Shape, teacher: Shape
) -> Literal["scores", "relations"]:
    """Return how attention is compared, or raise InvalidSpec: decoders' rotated queries and keys do not give scores."""
    if not student.heads or not teacher.heads:
        cause = "the models have no attention to compare"
        raise InvalidSpec(cause, param="recipe.distill.attention", remedy="Set distill.attention to 0.")
    decodes = student.groups is not None or teacher.groups is not None
    if form == "auto":
        return "scores" if student.heads == teacher.heads and not decodes else "relations"
    if form == "scores" and (student.heads != teacher.heads or decodes):
        cause, remedy = "decoders' queries and keys are turned by their positions before they are scores", "relations or auto"
        if not decodes:
            cause = f"the student has {student.heads} heads and the teacher {teacher.heads}"
            remedy += ", or leave the axis heads out of the cut"
        cause = f"{cause}: attention scores cannot be compared"
        raise InvalidSpec(cause, param="recipe.distill.attention_by", remedy=f"Choose {remedy}.")
    return form


def compares_states(distill: Distill) -> bool:
    """Return whether a recipe compares internal features of student and teacher, not only outputs."""
    return bool({"hidden", "attention", "embedding"} & set(distill.weights())) or distill.general is not None


def check_feature_terms(distill: Distill, student: Shape, teacher: Shape) -> None:
    """Check that two shapes can be compared by the recipe's feature terms. Raises InvalidSpec.

    Networks of images compare maps, whose sizes are the same whatever is cut.
    """
    if student.widths is None and teacher.widths is None and compares_states(distill):
        layer_pairs(distill.layers, student.layers, teacher.layers)
        if "attention" in distill.weights() or (distill.general is not None and distill.general.attention):
            attention_form(distill.attention_by, student, teacher)


def check_models(recipe: Recipe, *, student: bool, teachers: int) -> None:
    """Check that the recipe uses each model that the job names beside its base. Raises InvalidSpec."""
    distill = recipe.distill
    if distill is None:
        for there, param in ((student, "models.student"), (teachers, "models.teachers")):
            if there:
                cause = "the recipe has no distillation, the only stage that would use it"
                raise InvalidSpec(cause, param=param, remedy="Give the recipe a distill stage, or name no such model.")
        return
    if student and recipe.prune is not None:
        cause = "a student is named, and the recipe prunes: the pruned model would be the student"
        raise InvalidSpec(cause, param="recipe.prune", remedy="Set prune to null, or name no student.")
    if teachers and "soft" not in distill.weights():
        cause = "named teachers teach by their outputs, whose weight (soft) is 0"
        raise InvalidSpec(cause, param="recipe.distill.soft", remedy="Give soft a weight, or name no teachers.")
    if distill.augment is not None and set(distill.weights()) == {"hard"}:
        cause = "the rows that augmentation makes have no labels, and no term but that of the labels (hard) has a weight"
        remedy = "Give soft a weight, or set distill.augment to null."
        raise InvalidSpec(cause, param="recipe.distill.augment", remedy=remedy)
    if not teachers and distill.teachers.seeds == 0:
        cause = "no original is trained as a teacher, and no teacher is named"
        raise InvalidSpec(cause, param="recipe.distill.teachers.seeds", remedy="Choose at least 1, or name teachers.")
    if distill.teachers.seeds > 1 and not recipe.prepare.trains:
        cause = f"{distill.teachers.seeds} originals are to be teachers, and prepare.epochs is 0: nothing would tell them apart"
        raise InvalidSpec(cause, param="recipe.distill.teachers.seeds", remedy="Give prepare epochs, or choose 1.")


def check_vocabularies(teachers: Mapping[str, int], student: int) -> None:
    """Check that a language model's teachers, by their names in the job, predict as many tokens as the student. Raises
    InvalidSpec: distributions over other tokens are neither compared nor averaged.
    """
    for param, wide in teachers.items():
        if wide != student:
            cause = f"{param} has a vocabulary of {wide} tokens, and the student's has {student}: their next tokens differ"
            remedy = "Name teachers with the student's tokenizer and a vocabulary of the same size."
            raise InvalidSpec(cause, param=param, remedy=remedy)


def check_whole_teachers(recipe: Recipe) -> None:
    """Refuse a teacher in 8 bits on several devices, where its layers are in shards. Raises InvalidSpec."""
    if recipe.train.devices > 1 and recipe.distill is not None and recipe.distill.teachers.precision == "int8":
        cause = f"a teacher is to be in 8 bits, and the layers of teachers are sharded over {recipe.train.devices} devices"
        remedy = "Set distill.teachers.precision to auto or float32, or train.devices to 1."
        raise InvalidSpec(cause, param="recipe.distill.teachers.precision", remedy=remedy)


def check_teacher(labels: tuple[str, ...] | None, architecture: str, task: Task, wanted: tuple[str, ...], param: str) -> None:
    """Check that a named teacher has a head for the task and the labels `wanted`, if any. Raises LabelMismatch."""
    if heads.of_architecture(architecture) != heads.of_task(task):
        remedy = "Name a teacher that was tuned on this task: nobody tunes it here."
        raise LabelMismatch(f"the teacher ({architecture}) has no head for {task}", param=param, remedy=remedy)
    outputs = heads.outputs(task, len(wanted))
    if wanted and set(labels or ()) != set(wanted):
        own, data = (", ".join(map(repr, each[:8])) for each in (labels or (), wanted))
        remedy = "Name a teacher with exactly the data's labels (its config's id2label)."
        raise LabelMismatch(f"the teacher's head has the labels {own}, the data has {data}", param=param, remedy=remedy)
    if not wanted and labels is not None and len(labels) != outputs:
        raise LabelMismatch(f"the teacher's head has {len(labels)} outputs, {task} needs {outputs}", param=param)
