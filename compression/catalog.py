"""The model families that Lathe can take apart, their shapes, and what a job will cost. Torch-free.

The API answers preflights from here, the engine prunes to the shapes planned here: one place says what a ratio becomes.
"""

from collections.abc import Mapping
from typing import Any

from compression.errors import UnsupportedArchitecture, UnsupportedShape
from compression.recipe import Axis, Config, Prune
from compression.report import Parameters, Shape


class Family(Config):
    """One model family: what its stock config can express, and which architectures belong to it."""

    name: str
    model_type: str
    architectures: tuple[str, ...]
    axes: tuple[Axis, ...]
    tasks: tuple[str, ...]
    limits: str


BERT = Family(
    name="bert",
    model_type="bert",
    architectures=("BertModel", "BertForSequenceClassification", "BertForMaskedLM", "BertForPreTraining"),
    axes=("hidden", "heads", "ffn"),
    tasks=("text-classification",),
    limits="hidden = heads × head size, so hidden and heads shrink together; every layer has the same widths.",
)
FAMILIES: dict[str, Family] = {BERT.model_type: BERT}


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
        heads = round(shape.heads * (1 - prune.ratio))
        hidden = heads * (shape.hidden // shape.heads)
    if "ffn" in prune.axes:
        ffn = min(round(shape.ffn * (1 - prune.ratio) / prune.multiple) * prune.multiple, shape.ffn)
    if heads < 1 or ffn < 1:
        raise UnsupportedShape(
            f"ratio {prune.ratio} with multiple {prune.multiple} leaves {heads} heads and {ffn} feed-forward units",
            param="recipe.prune.ratio",
        )
    return Shape(layers=shape.layers, hidden=hidden, heads=heads, ffn=ffn, vocabulary=shape.vocabulary)


def bert_parameters(shape: Shape, *, positions: int, types: int, labels: int | None) -> Parameters:
    """Count a BERT encoder's parameters with its pooler, and its classification head where `labels` is given."""
    h, f = shape.hidden, shape.ffn
    tables = (shape.vocabulary + positions + types) * h
    attention = 4 * (h * h + h) + 2 * h
    feed_forward = 2 * h * f + f + h + 2 * h
    head = (h * labels + labels) if labels else 0
    other = 2 * h + shape.layers * (attention + feed_forward) + (h * h + h) + head
    return Parameters(total=tables + other, embedding=tables, other=other)
