"""What a recipe may say to a network of images, and what such a network has of its own in a forecast. Torch-free."""

import json
from collections.abc import Iterator, Mapping

from compression.models.architectures.families import ArchitectureSpec
from compression.models.architectures.network_shapes import axes_of, network_parameters, own_axes
from compression.schema.errors import InvalidSpec
from compression.schema.recipe.distill import Distill
from compression.schema.recipe.prune import AxisRatios
from compression.schema.recipe.quantize import Quantize
from compression.schema.recipe.recipe import Recipe
from compression.schema.report.measurements import Parameters, Shape
from compression.schema.report.network import NetworkFacts
from compression.schema.schemes import SCHEMES

IN_MEMORY = 1 << 30
"""Bytes of a split's pixels that are kept in memory; more are in a file (compression/modalities/image/pixel_store.py)."""
Refusal = tuple[bool, str, str, str]
"""Whether it applies, the key below `recipe`, the cause and the remedy."""


def fitted(recipe: Recipe, family: ArchitectureSpec, shape: Shape) -> Recipe:
    """Return the recipe with the axes that it cuts of a model of this shape. Raises UnsupportedShape if there is none."""
    if shape.widths is None or recipe.prune is None:
        return recipe
    prune = own_axes(shape, recipe.prune, family.usual_axes)
    return recipe if prune is recipe.prune else recipe.model_copy(update={"prune": prune})


def axes_notes(asked: Recipe, recipe: Recipe, shape: Shape) -> Iterator[str]:
    """Warn if a network loses other axes than a recipe spells out. recipe: `asked`, `fitted` to the shape."""
    before, after = asked.prune, recipe.prune
    if before is None or after is None or before.axes == after.axes or isinstance(before.ratio, AxisRatios):
        return
    if "axes" in before.model_fields_set:
        own = axes_of(shape)
        named = {axis: before.ratio for axis in before.axes if axis in own} or {after.axes[0]: before.ratio}
        yield (
            f"prune.axes is {', '.join(before.axes)}, the default of texts, which recipes have that were read and sent back: "
            f"of this network, {', '.join(after.axes)} are cut instead. To cut other axes, give each its ratio: "
            f"prune.ratio: {json.dumps(named)}, without prune.axes."
        )


def check_network(recipe: Recipe) -> None:
    """Refuse settings that mean nothing to a network of images. Raises InvalidSpec."""
    refusals = [_of_training(recipe), _of_points(recipe)]
    if recipe.quantize is not None:
        refusals.append(_of_integers(recipe.quantize))
    if recipe.distill is not None:
        refusals.append(_of_distillation(recipe.distill))
    for applies, key, cause, remedy in (each for some in refusals for each in some):
        if applies:
            raise InvalidSpec(cause, param=f"recipe.{key}", remedy=remedy)


def check_without_network(recipe: Recipe) -> None:
    """Refuse settings that only networks of images have. Raises InvalidSpec."""
    if recipe.quantize is not None and recipe.quantize.symmetric:
        cause = "symmetric ranges are of networks of images, and the model is none"
        raise InvalidSpec(cause, param="recipe.quantize.symmetric", remedy="Leave it out.")


def check_recomputing(recipe: Recipe, family: ArchitectureSpec) -> None:
    """Refuse gradient checkpointing for a family whose layers cannot be computed again. Raises InvalidSpec."""
    if recipe.train.checkpointing == "on" and not family.recomputes:
        cause = f"layers of the family {family.name} cannot be computed again in the backward pass"
        remedy = "Choose a smaller batch, and train.accumulate."
        raise InvalidSpec(cause, param="recipe.train.checkpointing", remedy=remedy)


def _of_points(recipe: Recipe) -> Iterator[Refusal]:
    prune = recipe.prune
    cause = "a network that has lost residual blocks is not cut again, and each of several sizes is cut from the one before it"
    blocks = prune is not None and prune.points > 1 and "layers" in prune.axes
    yield blocks, "prune.points", cause, "Leave layers out of prune.axes, or set it to 1."


def _of_training(recipe: Recipe) -> Iterator[Refusal]:
    if recipe.distill is not None:
        cause = "a teacher's maps are not kept: it runs on each batch that compares them"
        yield recipe.distill.spill_gib not in ("auto", 0), "distill.spill_gib", cause, "Leave it out."
    yield recipe.train.compile == "on", "train.compile", "only layers of transformers of text are compiled", "Leave it out."


def _of_integers(quantize: Quantize) -> Iterator[Refusal]:
    cause = "factors are moved between the layers of transformers of text alone"
    yield quantize.smoothing is not None, "quantize.smoothing", cause, "Set it to null."
    cause = f"convolutions have integers of weights and activations, and {quantize.assumed} leaves activations as they are"
    grouped = not SCHEMES[quantize.assumed].rounds_activations
    yield grouped, "quantize.scheme", cause, "Choose static-int8, or dynamic-int8."


def _of_distillation(distill: Distill) -> Iterator[Refusal]:
    ends = distill.to.embedding if distill.to is not None else None
    cause = "a network of images has no token tables, whose output could be compared"
    yield bool(distill.embedding or ends), "distill.embedding", cause, "Set it to null or 0."
    cause = "attention of networks of images is compared as the energy of their maps"
    yield distill.attention_by != "auto", "distill.attention_by", cause, "Choose auto."
    cause = "the last maps of each size are compared, in their order"
    yield distill.layers != "uniform", "distill.layers", cause, "Leave it out."
    cause = "the general phase compares token states on texts without labels"
    yield distill.general is not None, "distill.general", cause, "Set it to null."


def pixel_bytes(network: NetworkFacts, rows: Mapping[str, int]) -> tuple[int, int]:
    """Return the bytes of all splits' pixels, one byte each, in memory and on disk. rows: of each split."""
    each = [count * network.inputs for count in rows.values()]
    return sum(size for size in each if size <= IN_MEMORY), sum(size for size in each if size > IN_MEMORY)


def counted_parameters(network: NetworkFacts, shape: Shape, outputs: int | None) -> Parameters:
    """Count the parameters of a network at a shape. outputs: of a new last layer; None if the network keeps its own."""
    total = network_parameters(network, shape)
    if outputs is not None:
        last = next((layer for layer in reversed(network.layers) if layer.kind == "linear"), None)
        own = last.parameters({**network.widths, **(shape.widths or {})}) if last is not None else 0
        total += outputs * (shape.hidden + 1) - own
    return Parameters(total=total, embedding=0, other=total)
