"""Derive a shape from a ratio or a target, and count the parameters of a shape."""

from collections.abc import Callable, Iterator, Mapping
from math import prod

from compression.models.architectures.decoder_configs import Biases, decoder_shape
from compression.models.architectures.decoder_tensor_names import CORRECTION, FAMILIES, decoder_tensors
from compression.models.architectures.families import INSTALLED, ArchitectureSpec
from compression.models.architectures.tensor_names import TABLES, encoder_tensors
from compression.schema.errors import InvalidSpec, UnsupportedShape
from compression.schema.recipe.base import Axis
from compression.schema.recipe.prune import Prune
from compression.schema.report.measurements import Parameters, Shape

MOST_RATIO = 0.8
"""The largest ratio to which a target cuts an axis.

Beyond it too little of a small encoder remains to recover by training.
"""
Ratios = Mapping[Axis, float]
"""The share removed of each axis except the vocabulary."""
Count = Callable[[Shape], int]
"""Returns the number of parameters of a model of a shape."""


def planned_shape(
    family: ArchitectureSpec, shape: Shape, prune: Prune, *, count: Count | None = None, vocabulary: int | None = None
) -> Shape:
    """Return the shape that the recipe's ratio or target leads to; `planned` returns the ratios too."""
    return planned(family, shape, prune, count=count, vocabulary=vocabulary)[1]


def planned(
    family: ArchitectureSpec, shape: Shape, prune: Prune, *, count: Count | None = None, vocabulary: int | None = None
) -> tuple[Ratios, Shape]:
    """Return the recipe's ratios and the nearest shape that the stock config can express.

    Encoders' configs have no head size of their own (hidden = heads × head size). So heads and hidden channels with one ratio
    are removed together, a whole head at a time; if hidden loses more, each head becomes narrower, in steps of an eighth of it;
    heads alone cannot be removed. `decoder_configs` says what decoders' configs can express. count: for target_params.
    vocabulary: the number of tokens that stay, if it is known; else the whole vocabulary counts. Only a measurement finds the
    shape with a given latency: here target_latency leaves the shape whole. Raises UnsupportedShape if an axis alone cannot be
    expressed, nothing is left, or the target cannot be reached, and InvalidSpec if the family's units cannot be scored as
    requested.
    """
    check_axes(family, prune, shape)
    whole = shape.model_copy(update={"vocabulary": vocabulary or shape.vocabulary})
    if prune.target_latency is not None:
        return dict.fromkeys(prune.ratios, 0.0), whole
    if prune.target_params is None:
        return prune.ratios, shape_at(family, whole, prune, prune.ratios)
    if count is None:
        raise ValueError("parameters cannot be aimed at without counting them")
    return _of_parameters(family, whole, prune, count, before=count(shape))


def check_axes(family: ArchitectureSpec, prune: Prune, shape: Shape) -> None:
    """Refuse axes that this model's stock config cannot express, and scores that its units cannot have.

    Raises UnsupportedShape and InvalidSpec.
    """
    lacking = {"query_rank"} if shape.latent is not None and shape.latent.query is None else set[str]()
    unknown = [axis for axis in prune.axes if axis not in family.axes or axis in lacking]
    if unknown:
        raise UnsupportedShape(f"family {family.name} has no axis {unknown[0]!r}", param="recipe.prune.axes")
    if family.coupled:
        _check_coupled(family, prune)
    if family.decodes and prune.importance not in ("l1", "l2"):
        raise InvalidSpec(
            f"units of decoders are scored by what they say on calibration rows, not by {prune.importance}",
            param="recipe.prune.importance",
            remedy="Choose l1 or l2.",
        )


def _check_coupled(family: ArchitectureSpec, prune: Prune) -> None:
    hidden, heads = prune.ratios["hidden"], prune.ratios["heads"]
    if "heads" in prune.axes and "hidden" not in prune.axes:
        raise UnsupportedShape(
            f"family {family.name} cannot shrink heads alone: {family.limits}",
            param="recipe.prune.axes",
            remedy="Name both hidden and heads, or neither.",
        )
    if family.decodes and hidden != heads:
        raise UnsupportedShape(
            f"hidden and heads of the family {family.name} go together: {family.limits}",
            param="recipe.prune.ratio" if {"hidden", "heads"} <= set(prune.axes) else "recipe.prune.axes",
            remedy="Name both hidden and heads, with one ratio, or neither.",
        )
    if heads > hidden:
        raise UnsupportedShape(
            f"heads of the family {family.name} cannot lose a larger share than hidden: {family.limits}",
            param="recipe.prune.ratio",
            remedy="Give hidden at least the ratio of heads.",
        )


def shape_at(family: ArchitectureSpec, shape: Shape, prune: Prune, ratios: Ratios) -> Shape:
    """Return the shape nearest to these ratios, on the recipe's axes. Raises UnsupportedShape."""
    if family.name in INSTALLED:
        return INSTALLED[family.name].shape_at(shape, prune, ratios)
    if family.decodes:
        named = {axis: ratio for axis, ratio in ratios.items() if axis in prune.axes}
        return decoder_shape(family.model_type, shape, named, prune.multiple)
    ffn, layers = shape.ffn, shape.layers
    heads, hidden = _heads_and_hidden(shape, ratios)
    if "ffn" in prune.axes:
        ffn = min(round(shape.ffn * (1 - ratios["ffn"]) / prune.multiple) * prune.multiple, shape.ffn)
    if "layers" in prune.axes:
        layers = round(shape.layers * (1 - ratios["layers"]))
    if heads < 1 or ffn < 1 or layers < 1:
        asked = ", ".join(f"{axis} {ratios[axis]:g}" for axis in ("heads", "ffn", "layers") if axis in prune.axes)
        raise UnsupportedShape(
            f"the ratios {asked} with multiple {prune.multiple} leave {layers} layers of {heads} heads and {ffn} feed-forward "
            "units",
            param="recipe.prune.ratio",
        )
    return shape.model_copy(update={"hidden": hidden, "heads": heads, "ffn": ffn, "layers": layers})


def _heads_and_hidden(shape: Shape, ratios: Ratios) -> tuple[int, int]:
    """Return the heads and hidden channels of an encoder that are nearest to the ratios.

    Returns no heads if none would be left.
    """
    size = shape.hidden // shape.heads
    heads, width, step = round(shape.heads * (1 - ratios["heads"])), size, max(size // 8, 1)
    if heads and ratios["hidden"] != ratios["heads"]:
        width = min(max(round(shape.hidden * (1 - ratios["hidden"]) / (heads * step)), 1) * step, size)
    if heads * width == shape.embedding:
        # With hidden as wide as the narrow tables, no projection could be expressed. The tables are narrower than the original
        # stream.
        heads, width = (heads, min(width + step, size)) if width < size else (heads + 1, width)
    return heads, heads * width


def stepped(ratios: Ratios, step: int, steps: int) -> dict[Axis, float]:
    """Return the ratios after a step, counted from 1; the last step reaches `ratios`.

    What is left shrinks by the same factor in each step.
    """
    # The last step returns its ratios unchanged: a root and its power may differ from them in the last digit and round
    # differently.
    return dict(ratios) if step == steps else {axis: 1 - (1 - ratio) ** (step / steps) for axis, ratio in ratios.items()}


def steps_to(family: ArchitectureSpec, start: Shape, prune: Prune, ratios: Ratios, end: Shape) -> list[Shape]:
    """Return the shapes of a cut in steps; the last is `end`, and no axis grows from one to the next.

    ratios: the ratios that lead to `end`. Some configs require hidden to be a multiple of the heads, which shrink too, so the
    size nearest to a step's own ratio may be smaller than what a later step leaves: then hidden and heads wait for that step.
    They also wait if an encoder's heads would be narrower than in a later step.
    """
    found, here = [], start
    for step in range(1, prune.steps):
        to = shape_at(family, start, prune, stepped(ratios, step, prune.steps))
        narrower = family.decodes or _size(end) <= _size(to) <= _size(here)
        if not (narrower and end.hidden <= to.hidden <= here.hidden):
            to = to.model_copy(update={"hidden": here.hidden, "heads": here.heads, "groups": here.groups})
        found.append(to)
        here = to
    return [*found, end]


def candidates(family: ArchitectureSpec, shape: Shape, prune: Prune) -> Iterator[tuple[dict[Axis, float], Shape]]:
    """Yield each shape that a target may take once, with its ratios, the mildest (no cut) first.

    The deepest axis goes up to MOST_RATIO by hundredths, the others in the proportion of the recipe's ratios. If heads are
    removed and become narrower too, some shapes are wider than a milder one: those are left out.
    """
    asked = prune.ratios
    last = None
    for percent in range(round(100 * MOST_RATIO) + 1):
        ratios = {axis: ratio / prune.deepest * percent / 100 for axis, ratio in asked.items()}
        try:
            found = shape_at(family, shape, prune, ratios)
        except UnsupportedShape:
            return
        if last is None or (found != last and found.hidden <= last.hidden):
            last = found
            yield ratios, found


def deepest_shape(family: ArchitectureSpec, shape: Shape, prune: Prune) -> Shape:
    """Return the deepest cut that a target may take."""
    *_, (_, found) = candidates(family, shape, prune)
    return found


def _of_parameters(family: ArchitectureSpec, shape: Shape, prune: Prune, count: Count, before: int) -> tuple[Ratios, Shape]:
    target = prune.target_params or 0.0
    most = int(target) if target >= 1 else int(before * (1 - target))
    smallest = before
    for ratios, found in candidates(family, shape, prune):
        smallest = count(found)
        if smallest <= most:
            return ratios, found
    raise UnsupportedShape(
        f"target_params asks for at most {most:,} parameters; the deepest cut of {', '.join(prune.axes)} leaves {smallest:,}",
        param="recipe.prune.target_params",
        remedy="Choose a milder target, or name more axes.",
    )


def _size(shape: Shape) -> int:
    return shape.hidden // shape.heads if shape.heads else 0


def parameters_at(
    family: ArchitectureSpec, shape: Shape, *, rows: int = 0, outputs: int | None, dense: bool = True, biases: Biases = ()
) -> Parameters:
    """Count the parameters of a family's model at a shape; tied ones count once.

    The head is included if it has `outputs`. rows: of the position and type tables together. dense: whether a dense layer lies
    between an encoder's stream and its output layer (pooler, pre_classifier); the stock classes for sequences have one, those
    for tokens and spans have none. biases: of a decoder; its head has none.
    """
    if family.name in INSTALLED:
        return INSTALLED[family.name].parameters_at(shape, outputs or 0)
    if family.decodes:
        tensors = decoder_tensors(family.model_type, shape, rows, biases)
        tables, head = FAMILIES[family.model_type].tables, (outputs or 0) * shape.hidden
    else:
        tensors, tables = encoder_tensors(family.model_type, shape, rows, 0), TABLES
        head = ((outputs or 0) + dense * shape.hidden) * (shape.hidden + 1)
    sizes = {name: prod(widths) for name, widths in tensors.items() if not name.endswith(CORRECTION)}
    total, embedding = sum(sizes.values()) + head, sum(sizes.get(name, 0) for name in tables)
    return Parameters(total=total, embedding=embedding, other=total - embedding)


def table_rows(parameters: Parameters, shape: Shape) -> int:
    """Return the number of rows of the position and type tables: the rest of the embedding parameters."""
    return parameters.embedding // (shape.embedding or shape.hidden) - shape.vocabulary
