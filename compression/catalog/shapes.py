"""What a ratio becomes, and how many parameters a shape has."""

from compression.catalog.families import Family
from compression.errors import UnsupportedShape
from compression.recipe import Prune
from compression.report import Parameters, Shape


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
