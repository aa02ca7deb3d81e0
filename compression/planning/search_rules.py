"""What a recipe may ask whose widths a search chooses (`prune.search`): refused before anything is computed. Torch-free."""

from compression.models.architectures.families import INSTALLED, ArchitectureSpec
from compression.planning.distillation_rules import compares_states
from compression.planning.search.costs import Sizes
from compression.planning.search.reach import check_reach
from compression.schema.device_table import FORMS
from compression.schema.errors import InvalidSpec
from compression.schema.recipe.distill import Distill
from compression.schema.recipe.prune import Prune
from compression.schema.recipe.recipe import Recipe
from compression.schema.report.measurements import Shape


def check_search(recipe: Recipe, family: ArchitectureSpec, shape: Shape, sizes: Sizes, kept: int | None = None) -> None:
    """Refuse what a search could not end with, whatever widths it finds. shape: of the model before the cut; kept: tokens that
    stay, if they are known.

    Raises InvalidSpec, and TargetOutOfReach for sizes below all cuts.
    """
    prune = recipe.prune
    if prune is None or prune.search is None:
        return
    scheme = recipe.quantize.assumed if recipe.quantize is not None else None
    if prune.mixed_bits:
        _check_mixed(family, shape)
    by_latency = recipe.auto is not None and recipe.auto.objective == "latency"
    if (by_latency or prune.target_latency is not None) and scheme is not None and scheme not in FORMS:
        use = "for auto.objective: latency" if by_latency else "for target_latency"
        cause = f"device tables have no times of {scheme}, by which a search could choose widths {use}"
        other = (
            "set auto.objective to parameters" if by_latency else "set prune.search to null: shapes are then timed one by one"
        )
        remedy = f"Choose dynamic-int8 or static-int8, or {other}{'; leave prune.mixed_bits out' if prune.mixed_bits else ''}."
        raise InvalidSpec(cause, param="recipe.quantize.scheme", remedy=remedy)
    if recipe.distill is not None and sizes.network is None and compares_states(recipe.distill):
        _check_compared(recipe.distill, prune)
    check_reach(family, shape, prune, sizes, kept)


def _check_mixed(family: ArchitectureSpec, shape: Shape) -> None:
    """Refuse a choice of bits for layers whose weights are no matrices of their own, or not known. Raises InvalidSpec."""
    cause = "prune.mixed_bits is of layers of text, and this is a network of images" if shape.widths is not None else None
    if shape.experts is not None:
        cause = "prune.mixed_bits is of layers whose weights are matrices of their own, and this model has experts"
    if family.name in INSTALLED:
        cause = f"prune.mixed_bits is of layers that Lathe knows by name, and the family {family.name} is of a package"
    if cause is not None:
        raise InvalidSpec(cause, param="recipe.prune.mixed_bits", remedy="Leave prune.mixed_bits out.")


def _check_compared(distill: Distill, prune: Prune) -> None:
    """Refuse comparisons of layers or heads that may be gone. Raises InvalidSpec."""
    if "layers" in prune.axes and not isinstance(distill.layers, str):
        last = max(student for student, _ in distill.layers)
        if last > 1:  # one layer stays in any case
            cause = f"distill.layers names the student's layer {last}, and prune.search decides how many layers stay"
            remedy = "Choose uniform or last, or leave layers out of prune.axes."
            raise InvalidSpec(cause, param="recipe.distill.layers", remedy=remedy)
    attends = "attention" in distill.weights() or (distill.general is not None and distill.general.attention)
    if "heads" in prune.axes and attends and distill.attention_by == "scores":
        cause = "attention scores are compared head by head, and prune.search decides how many heads stay"
        remedy = "Choose relations or auto, or leave heads out of prune.axes."
        raise InvalidSpec(cause, param="recipe.distill.attention_by", remedy=remedy)
