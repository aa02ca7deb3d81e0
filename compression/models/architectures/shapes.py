"""Derive a shape from a ratio or a target, and count the parameters of a shape."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from math import prod

from compression.models.architectures.decoder_configs import Biases, decoder_shape
from compression.models.architectures.decoder_tensor_names import CORRECTION, FAMILIES, decoder_tensors
from compression.models.architectures.families import INSTALLED, ArchitectureSpec
from compression.models.architectures.network_shapes import at_least, check_network_cut, filled, mildest, network_shape_at
from compression.models.architectures.tensor_names import TABLES, encoder_tensors
from compression.schema.errors import InvalidSpec, UnsupportedShape
from compression.schema.recipe.base import Axis
from compression.schema.recipe.prune import Prune
from compression.schema.report.measurements import Parameters, Shape
from compression.schema.report.network import NetworkFacts

MOST_RATIO = 0.8
"""The largest ratio to which a target cuts an axis. Beyond it too little of a small encoder remains to recover by training."""
Ratios = Mapping[Axis, float]
"""The share removed of each axis except the vocabulary."""
OF_NETWORKS_ALONE = {"refresh_statistics": True, "stock": False}
"""Keys of a cut that only networks of images have, and their defaults."""
Count = Callable[[Shape], int]
"""Returns the number of parameters of a model of a shape, or another size."""
Counts = Mapping[str, Count]
"""What counts the sizes that a cut may aim at, by key of the recipe."""
NO_COUNTS: Counts = {}
CountParts = Callable[[Shape], Parameters]
"""Returns the parameters of a model of a shape, those of its tables apart, head included."""
COUNTED = {"target_params": "parameters", "target_flops": "multiply-adds", "target_bytes": "bytes"}
"""What the sizes that a cut may aim at are of, by key."""


def planned_shape(
    family: ArchitectureSpec, shape: Shape, prune: Prune, *, counts: Counts = NO_COUNTS, network: NetworkFacts | None = None
) -> Shape:
    """Return the shape that the recipe's ratio or target leads to; `planned` returns the ratios too."""
    return planned(family, shape, prune, counts=counts, network=network)[1]


def planned(
    family: ArchitectureSpec,
    shape: Shape,
    prune: Prune,
    *,
    counts: Counts = NO_COUNTS,
    vocabulary: int | None = None,
    network: NetworkFacts | None = None,
) -> tuple[Ratios, Shape]:
    """Return the recipe's ratios and the nearest shape that the stock config can express.

    Encoders' hidden = heads × head size: with one ratio whole heads go; if hidden loses more, each head becomes narrower, in
    steps of an eighth of it; heads alone cannot go. Decoders: `decoder_configs`. Networks of images: `network_shapes`. counts:
    what counts the sizes of targets. vocabulary: the tokens that stay, if known. network: of a network of images, its costs.
    target_latency alone leaves the shape whole: only a measurement finds it. With prune.search this is a forecast, of equal
    ratios that meet all sizes, or of the deepest: other widths may reach what these do not.

    Raises UnsupportedShape if an axis alone cannot be expressed, nothing is left, or the target cannot be reached, and
    InvalidSpec if units cannot be scored as requested.
    """
    check_axes(family, prune, shape, network)
    whole = shape.model_copy(update={"vocabulary": vocabulary or shape.vocabulary})
    if prune.target_latency is not None and not prune.has_size_target:
        return dict.fromkeys(prune.ratios, 0.0), whole
    if not prune.has_target:
        return prune.ratios, shape_at(family, whole, prune, prune.ratios, network)
    limits = _limits(prune, shape, counts)
    if network is not None:
        return _of_network(family, whole, prune, network, limits)
    return _of_transformer(family, whole, prune, limits)


def check_axes(family: ArchitectureSpec, prune: Prune, shape: Shape, network: NetworkFacts | None = None) -> None:
    """Refuse axes and scores that this model cannot have. Raises UnsupportedShape and InvalidSpec."""
    lacking = {"query_rank"} if shape.latent is not None and shape.latent.query is None else set[str]()
    unknown = [axis for axis in prune.axes if axis not in family.axes or axis in lacking]
    if unknown:
        raise UnsupportedShape(f"family {family.name} has no axis {unknown[0]!r}", param="recipe.prune.axes")
    if prune.search is not None:
        check_search_axes(prune, shape)
    if prune.search is not None and prune.target_latency is not None and (family.decodes or family.name in INSTALLED):
        cause = f"no latency of the family {family.name} is predicted, by which a solver could choose"
        raise UnsupportedShape(cause, param="recipe.prune.search", remedy="Aim at target_params, or set search to null.")
    if prune.target_flops is not None and network is None and family.name in INSTALLED:
        cause = f"the multiply-adds of the family {family.name}, which is of an installed package, are not known"
        raise InvalidSpec(cause, param="recipe.prune.target_flops", remedy="Aim at target_params or target_bytes.")
    if prune.free_widths and "ffn" not in family.free_axes:
        why = "have widths of their own in any case" if network is not None else "have one feed-forward width in all files"
        cause = f"layers of the family {family.name} {why}"
        raise InvalidSpec(cause, param="recipe.prune.free_widths", remedy="Leave prune.free_widths out.")
    if network is not None:
        check_network_cut(shape, prune, network)
        return
    for key, usual in OF_NETWORKS_ALONE.items():
        if getattr(prune, key) != usual:
            cause = f"{key} is of networks of images, and the family {family.name} is none"
            raise InvalidSpec(cause, param=f"recipe.prune.{key}", remedy="Leave it out.")
    if prune.importance == "bn_scale":
        cause = f"models of the family {family.name} have no batch normalization"
        raise InvalidSpec(cause, param="recipe.prune.importance", remedy="Choose l1 or l2.")
    if family.coupled:
        _check_coupled(family, prune)


def check_search_axes(prune: Prune, shape: Shape) -> None:
    """Refuse axes of a mixture of experts among whose widths no search can choose. Raises UnsupportedShape."""
    if apart := {"experts", "expert_ffn"} & {*prune.axes}:
        cause = f"what {min(apart)} lose is not in the error tables, which are of layers with one matrix"
        remedy = "Leave it out of prune.axes, or set prune.search to null."
        raise UnsupportedShape(cause, param="recipe.prune.search", remedy=remedy)
    if "layers" in prune.axes and shape.experts is not None:
        cause = "layers of a mixture of experts cost differently, which the solver does not count"
        remedy = "Leave layers out of prune.axes, or set prune.search to null."
        raise UnsupportedShape(cause, param="recipe.prune.axes", remedy=remedy)


def _check_coupled(family: ArchitectureSpec, prune: Prune) -> None:
    hidden, heads = prune.ratios["hidden"], prune.ratios["heads"]
    if "heads" in prune.axes and "hidden" not in prune.axes:
        cause = f"family {family.name} cannot shrink heads alone: {family.limits}"
        raise UnsupportedShape(cause, param="recipe.prune.axes", remedy="Name both hidden and heads, or neither.")
    if prune.search is not None and "hidden" in prune.axes and "heads" not in prune.axes and not family.decodes:
        cause = "hidden without heads makes heads narrower, and what their channels lose is not in the error tables"
        raise UnsupportedShape(cause, param="recipe.prune.axes", remedy="Name heads too, or set prune.search to null.")
    if family.decodes and hidden != heads:
        cause = f"hidden and heads of the family {family.name} go together: {family.limits}"
        param = "recipe.prune.ratio" if {"hidden", "heads"} <= set(prune.axes) else "recipe.prune.axes"
        raise UnsupportedShape(cause, param=param, remedy="Name both hidden and heads, with one ratio, or neither.")
    if heads > hidden:
        cause = f"heads of the family {family.name} cannot lose a larger share than hidden: {family.limits}"
        raise UnsupportedShape(cause, param="recipe.prune.ratio", remedy="Give hidden at least the ratio of heads.")


def shape_at(
    family: ArchitectureSpec, shape: Shape, prune: Prune, ratios: Ratios, network: NetworkFacts | None = None
) -> Shape:
    """Return the shape nearest to these ratios, on the recipe's axes. Raises UnsupportedShape."""
    if network is not None:
        return network_shape_at(shape, prune, ratios, network)
    if family.name in INSTALLED:
        return INSTALLED[family.name].shape_at(shape, prune, ratios)
    if family.decodes:
        named = {axis: ratio for axis, ratio in ratios.items() if axis in prune.axes}
        return decoder_shape(family.model_type, shape, named, prune.rounding)
    ffn, layers = shape.ffn, shape.layers
    heads, hidden = _heads_and_hidden(shape, ratios)
    if "ffn" in prune.axes:
        ffn = min(round(shape.ffn * (1 - ratios["ffn"]) / prune.rounding) * prune.rounding, shape.ffn)
    if "layers" in prune.axes:
        layers = round(shape.layers * (1 - ratios["layers"]))
    if heads < 1 or ffn < 1 or layers < 1:
        shares = ", ".join(f"{axis} {ratios[axis]:g}" for axis in ("heads", "ffn", "layers") if axis in prune.axes)
        left = f"{layers} layers of {heads} heads and {ffn} feed-forward units"
        raise UnsupportedShape(f"the ratios {shares} with multiple {prune.rounding} leave {left}", param="recipe.prune.ratio")
    return shape.model_copy(update={"hidden": hidden, "heads": heads, "ffn": ffn, "layers": layers})


def _heads_and_hidden(shape: Shape, ratios: Ratios) -> tuple[int, int]:
    """Return the heads and hidden channels of an encoder that are nearest to the ratios; no heads if none would be left."""
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
    """Return the ratios after a step, counted from 1: what is left shrinks by the same factor in each."""
    # The last step returns `ratios` itself: a root and its power may differ from them in the last digit and round differently.
    return dict(ratios) if step == steps else {axis: 1 - (1 - ratio) ** (step / steps) for axis, ratio in ratios.items()}


def steps_to(
    family: ArchitectureSpec, start: Shape, prune: Prune, ratios: Ratios, end: Shape, network: NetworkFacts | None = None
) -> list[Shape]:
    """Return the shapes of a cut in steps; the last is `end`, and no axis grows from one to the next.

    If hidden must divide by the heads, a step's own size may be smaller than what a later step leaves: then hidden and heads
    wait for that step. They also wait if an encoder's heads would be narrower than in a later step.
    """
    found, here = [], start
    for step in range(1, prune.steps):
        to = shape_at(family, start, prune, stepped(ratios, step, prune.steps), network)
        if network is not None:
            found.append(at_least(to, end, network))
            continue
        sizes = [each.hidden // (each.heads or 1) for each in (end, to, here)]
        narrower = family.decodes or sizes == sorted(sizes)
        if not (narrower and end.hidden <= to.hidden <= here.hidden):
            to = to.model_copy(update={"hidden": here.hidden, "heads": here.heads, "groups": here.groups})
        found.append(to)
        here = to
    return [*found, end]


def candidates(
    family: ArchitectureSpec, shape: Shape, prune: Prune, network: NetworkFacts | None = None
) -> Iterator[tuple[dict[Axis, float], Shape]]:
    """Yield each shape that a target may take once, with its ratios, the mildest first; none wider than a milder one."""
    last = None
    for percent in range(round(100 * MOST_RATIO) + 1):
        ratios = _scaled(prune, percent / 100)
        try:
            found = shape_at(family, shape, prune, ratios, network)
        except UnsupportedShape:
            return
        if last is None or (found != last and found.hidden <= last.hidden):
            last = found
            yield ratios, found


def _scaled(prune: Prune, deepest: float) -> dict[Axis, float]:
    """Return the recipe's ratios, of which the largest becomes `deepest`."""
    return {axis: ratio / prune.deepest * deepest for axis, ratio in prune.ratios.items()}


def deepest_shape(family: ArchitectureSpec, shape: Shape, prune: Prune, network: NetworkFacts | None = None) -> Shape:
    """Return the deepest cut that a target may take. Raises UnsupportedShape if there is none, not even without a cut."""
    every = [found for _, found in candidates(family, shape, prune, network)]
    return every[-1] if every else shape_at(family, shape, prune, _scaled(prune, 0.0), network)


@dataclass(frozen=True)
class Limits:
    """The most that a cut's targets allow, and what counts it, by key of the recipe."""

    each: Mapping[str, tuple[int, Count]]

    def excess(self, cut: Shape) -> int:
        """Return by how much a shape is above the limit that it exceeds most; 0 or less if it is above none."""
        return max(cost(cut) - most for most, cost in self.each.values())


def _limits(prune: Prune, before: Shape, counts: Counts) -> Limits:
    """Return the limits of a cut's sizes. before: the shape of which targets remove shares."""
    found = dict[str, tuple[int, Count]]()
    for key in COUNTED:
        if (target := getattr(prune, key)) is None:
            continue
        if key not in counts:
            raise ValueError(f"{key} cannot be aimed at without counting")
        found[key] = allowed(target, counts[key](before)), counts[key]
    return Limits(found)


def _of_network(
    family: ArchitectureSpec, shape: Shape, prune: Prune, network: NetworkFacts, limits: Limits
) -> tuple[Ratios, Shape]:
    def shape_of(deepest: float) -> Shape:
        return shape_at(family, shape, prune, _scaled(prune, deepest), network)

    found = mildest(shape_of, 0, limits.excess, MOST_RATIO)
    if found is None:
        if prune.search is not None:
            return _scaled(prune, MOST_RATIO), shape_of(MOST_RATIO)
        raise _out_of_reach(prune, limits, shape_of(MOST_RATIO))
    milder, deep = map(shape_of, found)
    # Widths of a stage that go together have no other proportion.
    return _scaled(prune, found[1]), deep if prune.stock else filled(deep, milder, 0, limits.excess, network)


def allowed(target: float, before: int) -> int:
    """Return the most that a target allows of what is now `before`: itself, or below 1 what is left without that share."""
    return int(target) if target >= 1 else int(before * (1 - target))


def _out_of_reach(prune: Prune, limits: Limits, deepest: Shape) -> UnsupportedShape:
    key, (most, cost) = next(iter(limits.each.items()))  # the only one: several need a search
    asked = f"{key} asks for at most {most:,} {COUNTED[key]}"
    cause = f"{asked}; the deepest cut of {', '.join(prune.axes)} leaves {cost(deepest):,}"
    return UnsupportedShape(cause, param=f"recipe.prune.{key}", remedy="Choose a milder target, or name more axes.")


def _of_transformer(family: ArchitectureSpec, shape: Shape, prune: Prune, limits: Limits) -> tuple[Ratios, Shape]:
    last: tuple[Ratios, Shape] = dict.fromkeys(prune.ratios, 0.0), shape
    for ratios, found in candidates(family, shape, prune):
        last = ratios, found
        if limits.excess(found) <= 0:
            return _widened(shape, prune, ratios, found, limits)
    if prune.search is not None:
        return last
    raise _out_of_reach(prune, limits, last[1])


def _widened(whole: Shape, prune: Prune, ratios: Ratios, found: Shape, limits: Limits) -> tuple[Ratios, Shape]:
    """Return a cut with as many feed-forward units as its targets allow: heads and channels go in coarse steps, and the last of
    them may take more than was asked. `found` is within the limits.
    """
    if "ffn" not in prune.axes or not ratios["ffn"]:
        return ratios, found
    step, ffn = prune.rounding, found.ffn
    while ffn + step <= whole.ffn and limits.excess(found.model_copy(update={"ffn": ffn + step})) <= 0:
        ffn += step
    return {**ratios, "ffn": 1 - ffn / whole.ffn}, found.model_copy(update={"ffn": ffn})


def parameters_at(
    family: ArchitectureSpec,
    shape: Shape,
    *,
    rows: int = 0,
    outputs: int | None,
    dense: bool = True,
    biases: Biases = (),
    biased: bool = False,
) -> Parameters:
    """Count the parameters of a family's model at a shape; tied ones count once. outputs: of its head, if it has one.

    rows: of the position and type tables together. dense: whether a dense layer lies between an encoder's stream and its output
    layer, as in stock classes for sequences, not in those for tokens and spans. biases: of a decoder; biased: whether its
    head has one too, as a reader's alone has.
    """
    if family.name in INSTALLED:
        return INSTALLED[family.name].parameters_at(shape, outputs or 0)
    if family.decodes:
        tensors = decoder_tensors(family.model_type, shape, rows, biases)
        tables, head = FAMILIES[family.model_type].tables, (outputs or 0) * (shape.hidden + biased)
    else:
        tensors, tables = encoder_tensors(family.model_type, shape, rows, 0), TABLES
        head = ((outputs or 0) + dense * shape.hidden) * (shape.hidden + 1)
    sizes = {name: prod(widths) for name, widths in tensors.items() if not name.endswith(CORRECTION)}
    return total_of(sizes, tables, head)


def total_of(sizes: Mapping[str, int], tables: Iterable[str], more: int = 0) -> Parameters:
    """Add up the elements of tensors, those of the tables separately. more: elements beside them."""
    total, embedding = sum(sizes.values()) + more, sum(sizes.get(name, 0) for name in tables)
    return Parameters(total=total, embedding=embedding, other=total - embedding)


def table_rows(parameters: Parameters, shape: Shape) -> int:
    """Return the number of rows of the position and type tables: the rest of the embedding parameters, none in families of
    installed packages that count no tables.
    """
    return max(parameters.embedding // (shape.embedding or shape.hidden) - shape.vocabulary, 0)
