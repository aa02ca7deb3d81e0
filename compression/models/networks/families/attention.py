"""Add attention of several heads to a graph that is being built, over all tokens or within windows."""

from collections.abc import Mapping
from dataclasses import dataclass

from compression.models.networks.families.builder import Builder


@dataclass(frozen=True)
class Attention:
    """What an attention is like."""

    tokens: int  #: of a window
    hidden: int
    heads: int
    width: int  #: channels of a head
    bias: bool  #: whether queries, keys and values have one
    stock: Mapping[str, str]  #: stock names of "query", "key", "value" and "output"
    windows: int = 1  #: windows of an image, each of which attends to itself


def add_attention(
    made: Builder, name: str, value: str, like: Attention, *, by_head: str | None = None, by_window: str | None = None
) -> str:
    """Add attention to a value (rows × windows, tokens, hidden).

    Values that are added to the scores: by_head (heads, tokens, tokens), by_window (windows, 1, tokens, tokens).
    """
    windows, tokens, heads, width = like.windows, like.tokens, like.heads, like.width
    turned = {}
    for part, order in (("query", (0, 2, 1, 3)), ("key", (0, 2, 3, 1)), ("value", (0, 2, 1, 3))):
        part_name = f"{name}_{part}"
        one = made.linear(part_name, value, like.stock[part], (heads * width, like.hidden), bias=like.bias)
        one = made.add(f"{part_name}_heads", "reshape", one, shape=(windows, tokens, heads, width))
        turned[part] = made.add(f"{part_name}_turned", "transpose", one, order=order)
    scores = made.add(f"{name}_products", "matmul", turned["query"], turned["key"])
    scores = made.add(f"{name}_scores", "mul", scores, made.number(f"{name}_scale", width**-0.5))
    if by_head is not None:
        scores = made.add(f"{name}_by_head", "add", scores, by_head)
    if by_window is not None:
        scores = made.add(f"{name}_by_row", "reshape", scores, shape=(1, windows, heads, tokens, tokens))
        scores = made.add(f"{name}_by_window", "add", scores, by_window)
        scores = made.add(f"{name}_windows", "reshape", scores, shape=(windows, heads, tokens, tokens))
    shares = made.add(f"{name}_shares", "softmax", scores, axis=-1)
    found = made.add(f"{name}_read", "matmul", shares, turned["value"])
    found = made.add(f"{name}_back", "transpose", found, order=(0, 2, 1, 3))
    found = made.add(f"{name}_joined", "reshape", found, shape=(windows, tokens, heads * width))
    return made.linear(f"{name}_output", found, like.stock["output"], (like.hidden, heads * width))
