"""Find the widths that a decoder's stock config can express, and the nearest ones to a request. Torch-free.

All layers have the same widths; a KV head is removed with the query heads that read it. Further constraints were read in the
modelling code of transformers 5.24; they hold for a checkpoint that stock `from_pretrained` must open.
"""

import math
from collections.abc import Iterator, Mapping
from typing import Literal

from compression.schema.errors import UnsupportedShape
from compression.schema.recipe.base import Axis
from compression.schema.report.decoder_widths import Experts
from compression.schema.report.measurements import Shape

Biases = tuple[Literal["attention", "mlp"], ...]
"""Parts of a layer whose linear layers have biases because the config enables them."""
DIVIDED = frozenset({"llama", "deepseek_v2"})
"""Families whose hidden size must be a multiple of the number of heads, even if the head size is explicit."""
COUPLED_HEADS = frozenset({"gpt2"})
"""Families whose head size is not in the config. It is hidden / heads, so both shrink together or neither does."""
RANKED_GROUPS = frozenset({"deepseek_v3"})
"""Families whose router ranks a group of experts by its two best, even if there is only one group."""

PAIRED_RANK = frozenset({"deepseek_v2"})
"""Families that rotate pairs of channels as complex numbers. The pairs come after the KV rank, so the KV rank is even."""
EXPERT_STEP = 8
"""The multiple of hidden and of the experts' units in models with experts: torch's grouped_mm, which multiplies the rows of all
experts at once, needs rows of a multiple of 16 bytes, also of 16-bit weights."""


def check_decoder(kind: str, shape: Shape) -> None:
    """Refuse a shape that the stock config cannot express. kind: its model_type. Raises UnsupportedShape."""
    for cause in _problems(kind, shape):
        raise UnsupportedShape(f"{kind} cannot be saved so: {cause}", param="recipe.prune.ratio")


def decoder_shape(kind: str, shape: Shape, ratios: Mapping[Axis, float], multiple: int) -> Shape:
    """Return the shape nearest to these ratios that the stock config can express. Raises UnsupportedShape.

    ratios: the share removed of each named axis. multiple: what hidden, feed-forward and expert widths and ranks are rounded to
    (hidden to a smaller one if it must divide by the heads). Shared experts shrink with the width of the routed ones.
    """
    if kind in COUPLED_HEADS and ratios.get("hidden", 0.0) != ratios.get("heads", 0.0):
        cause, remedy = "its head size is hidden / heads", "Name both hidden and heads, with one ratio, or neither."
        raise UnsupportedShape(
            f"{kind} cannot shrink hidden and heads apart: {cause}", param="recipe.prune.axes", remedy=remedy
        )

    def near(width: int, axis: Axis, step: int = multiple) -> int:
        return min(round(width * (1 - ratios[axis]) / step) * step, width) if ratios.get(axis) else width

    groups, each = _groups(kind, shape, ratios), shape.heads // (shape.groups or shape.heads)
    heads = groups * each
    step = _step(
        multiple, math.lcm(EXPERT_STEP if shape.experts else 1, heads if kind in DIVIDED and heads else 1), shape.hidden
    )
    hidden = heads * (shape.hidden // shape.heads) if kind in COUPLED_HEADS else near(shape.hidden, "hidden", step)
    if kind in DIVIDED and heads and hidden % heads:  # the whole width was nearest, but is no multiple of fewer heads
        hidden = hidden // step * step
    experts, latent, layers = shape.experts, shape.latent, near(shape.layers, "layers", 1)
    if experts is not None:
        ffn = near(experts.ffn, "expert_ffn", math.lcm(multiple, EXPERT_STEP))
        count, shared = near(experts.count, "experts", experts.groups), experts.shared // experts.ffn * ffn
        widths = {"count": count, "ffn": ffn, "shared": shared, "dense_layers": min(experts.dense_layers, layers)}
        experts = experts.model_copy(update=widths)
    if latent is not None:
        query = latent.query and near(latent.query, "query_rank")
        kv = near(latent.kv, "kv_rank", math.lcm(multiple, 2 if kind in PAIRED_RANK else 1))
        latent = latent.model_copy(update={"query": query, "kv": kv})
    changed = {"layers": layers, "hidden": hidden, "heads": heads, "groups": groups, "ffn": near(shape.ffn, "ffn")}
    found = shape.model_copy(update={**changed, "experts": experts, "latent": latent})
    check_decoder(kind, found)
    return found


def _step(multiple: int, must: int, width: int) -> int:
    """Return the step to round a width to: a multiple of `must`, and of as much of `multiple` as leaves a choice of widths.

    It is at most an eighth of the width, else `multiple` is halved: 64 with SmolLM2's 9 heads would leave all 576 channels.
    """
    while multiple < math.lcm(multiple, must) and math.lcm(multiple, must) * 8 > width and multiple % 2 == 0:
        multiple //= 2
    return math.lcm(multiple, must)


def _groups(kind: str, shape: Shape, ratios: Mapping[Axis, float]) -> int:
    """Return how many groups stay, of equally near numbers the larger: their heads divide a hidden size that stays."""
    groups = shape.groups or shape.heads
    each = shape.heads // groups
    target = groups * (1 - ratios.get("heads", 0.0))
    fixed = kind in DIVIDED and not ratios.get("hidden")
    possible = [number for number in range(groups, 0, -1) if not fixed or shape.hidden % (number * each) == 0]
    return min(possible, key=lambda number: abs(number - target)) if target >= 0.5 else 0


def _problems(kind: str, shape: Shape) -> Iterator[str]:
    """Yield the reasons why a config cannot express a shape."""
    widths = {"layers": shape.layers, "hidden": shape.hidden, "heads": shape.heads, "feed-forward units": shape.ffn}
    if shape.latent is not None:
        widths |= {"channels of the query rank": shape.latent.query or 1, "channels of the KV rank": shape.latent.kv}
    if shape.experts is not None:
        widths |= {"experts": shape.experts.count, "units of an expert": shape.experts.ffn}
    empty = [name for name, width in widths.items() if width < 1]
    if empty:
        yield f"no {empty[0]} would be left"
        return
    if shape.groups is not None and shape.heads % shape.groups:
        yield f"{shape.heads} query heads cannot share {shape.groups} KV heads evenly"
    if shape.latent is not None and shape.groups != shape.heads:
        yield f"latent attention has a key and a value for each of its {shape.heads} heads"
    if kind in PAIRED_RANK and shape.latent is not None and shape.latent.kv % 2:
        yield f"kv_lora_rank {shape.latent.kv} is odd"
    if kind in DIVIDED and shape.hidden % shape.heads:
        yield f"hidden_size {shape.hidden} is no multiple of {shape.heads} heads"
    if kind in COUPLED_HEADS and shape.hidden != shape.heads * (shape.head_size or 0):
        yield f"{shape.heads} heads of {shape.head_size} channels do not make a hidden size of {shape.hidden}"
    if shape.experts is not None:
        if shape.hidden % EXPERT_STEP or shape.experts.ffn % EXPERT_STEP:
            yield f"what experts read, {shape.hidden} channels and {shape.experts.ffn} units, are no multiples of {EXPERT_STEP}"
        yield from _router_problems(kind, shape.experts)


def _router_problems(kind: str, experts: Experts) -> Iterator[str]:
    """Yield the reasons why a router could not choose among so many experts."""
    in_group = experts.count // experts.groups
    if experts.count % experts.groups:
        yield f"{experts.count} experts do not make {experts.groups} groups of one size"
    if kind in RANKED_GROUPS and in_group < 2:
        yield f"the router ranks a group by its two best experts, and {in_group} would be left"
    if experts.chosen > experts.chosen_groups * in_group:
        left = experts.chosen_groups * in_group
        yield f"a token goes to {experts.chosen} experts of {experts.chosen_groups} groups, which would have {left}"
    if experts.shared % experts.ffn or experts.shared < experts.ffn:
        yield f"{experts.shared} units of shared experts are no multiple of the {experts.ffn} of a routed one"
