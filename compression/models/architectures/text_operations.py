"""Counts the multiply-adds of one text at any shape: products with weights, and of its tokens with each other. Torch-free."""

from math import prod

from compression.models.architectures.decoder_tensor_names import FAMILIES, decoder_tensors
from compression.models.architectures.families import ArchitectureSpec
from compression.models.architectures.pruning_groups import Tensors
from compression.models.architectures.tensor_names import TABLES, encoder_tensors
from compression.schema.report.measurements import Shape

BY_DISTANCE = "relative_attention_bias.weight"
"""A table that is read by distance and multiplies nothing."""


def text_operations(family: ArchitectureSpec, shape: Shape, tokens: int, *, outputs: int | None, dense: bool) -> int:
    """Count the multiply-adds of a text of so many tokens, head included. outputs: of its head; None: it is the token table.
    dense: of an encoder, whether its head reads one token through a dense layer, as stock ones for sequences do; all others
    read each.

    Every token is compared with every other, also where a decoder masks half of them, as stock code and torch's counter do.
    Rotations of positions, normalizations and the like are left out.
    """
    if family.decodes:
        tensors, tables = decoder_tensors(family.model_type, shape, 0, ()), FAMILIES[family.model_type].tables
        head = tokens * shape.hidden * (shape.vocabulary if outputs is None else outputs)
    else:
        tensors, tables = encoder_tensors(family.model_type, shape, 0, 0), TABLES
        head = shape.hidden * (outputs or 0) * (1 if dense else tokens) + dense * shape.hidden**2
    return tokens * _of_token(tensors, tables, shape) + shape.layers * tokens**2 * _compared(shape) + head


def _of_token(tensors: Tensors, tables: tuple[str, ...], shape: Shape) -> int:
    """Count the elements of matrices that a token is multiplied by; of experts those of the chosen ones."""
    matrices = [size for name, size in tensors.items() if name not in tables and not name.endswith(BY_DISTANCE)]
    share = shape.experts.chosen / shape.experts.count if shape.experts is not None else 1.0
    return sum(prod(size) for size in matrices if len(size) == 2) + round(
        share * sum(prod(size) for size in matrices if len(size) > 2)
    )


def _compared(shape: Shape) -> int:
    """Count the channels that two tokens of a layer multiply: of queries with keys, and of weights with values."""
    size = shape.head_size or shape.hidden // shape.heads
    return shape.heads * (size + (shape.latent.value if shape.latent is not None else size))
