"""transformers' Swin: attention within windows, which are shifted in every second block."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np

from compression.models.networks.families.attention import Attention, add_attention
from compression.models.networks.families.builder import Builder, Entries, Floats
from compression.models.networks.families.family import Size, StockFamily, by_stage, image_size, outputs_of
from compression.models.networks.families.settings import MOST_BLOCKS, MOST_CHANNELS, Settings
from compression.models.networks.graph import INPUT, Graph, Shape

PARTS = {"query": "self.query", "key": "self.key", "value": "self.value", "output": "output.dense"}
MOST_HEADS = 1_024
MOST_WINDOW = 64
MOST_MADE = 1 << 26
"""Of the numbers that a config makes of tables and windows: a short file could ask for any number of them."""
EPSILON = 1e-5
"""Of the norms whose epsilon no config sets."""
HIDDEN_FROM = -100.0
"""What stock code adds to the score of a token that another does not see."""


@dataclass(frozen=True)
class SwinSizes:
    """What a Swin's computation depends on."""

    size: Size
    patch: Size
    channels: int
    hidden: int  #: of the first stage; each next one is twice as wide
    depths: tuple[int, ...]
    heads: tuple[int, ...]
    window: int
    ratio: float  #: of feed-forward units to channels
    bias: bool  #: of queries, keys and values
    positions: bool  #: whether the patches have embeddings of their places
    activation: str
    epsilon: float

    @property
    def maps(self) -> tuple[Size, ...]:
        """Return height and width of each stage's map."""
        found = [(-(-self.size[0] // self.patch[0]), -(-self.size[1] // self.patch[1]))]
        for _ in self.depths[1:]:
            found.append((-(-found[-1][0] // 2), -(-found[-1][1] // 2)))
        return tuple(found)

    def windows(self, stage: int) -> Size:
        """Return how many windows cover a stage's map."""
        height, width = self.maps[stage]
        return -(-height // self.window), -(-width // self.window)

    def shift(self, stage: int, block: int) -> int:
        """Return by how many places the windows of a block are shifted."""
        return 0 if block % 2 == 0 or min(self.maps[stage]) <= self.window else self.window // 2

    @property
    def made(self) -> int:
        """Return how many numbers a graph has that are made of tables and windows."""
        area = self.window**2
        tables = sum(area**2 * heads * depth for heads, depth in zip(self.heads, self.depths, strict=True))
        return tables + sum(prod(self.windows(stage)) * area**2 for stage in range(len(self.depths)))


class Swin(StockFamily[SwinSizes]):
    """SwinForImageClassification."""

    kind = "swin"
    renamed = (
        ("attention.self.relative_position_bias_table", "attention.relative_position_bias.relative_position_bias_table"),
        ("attention.self.query", "attention.q_proj"),
        ("attention.self.key", "attention.k_proj"),
        ("attention.self.value", "attention.v_proj"),
        ("attention.output.dense", "attention.o_proj"),
        ("intermediate.dense", "mlp.fc1"),
        ("output.dense", "mlp.fc2"),
    )

    def read(self, settings: Settings, size: Size | None) -> SwinSizes:
        """Read what the computation depends on."""
        depths = settings.wholes("depths", (2, 2, 6, 2), MOST_BLOCKS)
        heads = settings.wholes("num_heads", (3, 6, 12, 24), MOST_HEADS)
        settings.same("num_attention_heads", "num_heads", heads)
        positions = settings.flag("use_absolute_embeddings", default=False)
        found = SwinSizes(
            image_size(settings, size, fixed=positions),
            settings.sides("patch_size", 4, 1_024),
            settings.channels(),
            settings.whole("embed_dim", 96, MOST_CHANNELS),
            depths,
            heads,
            settings.whole("window_size", 7, MOST_WINDOW),
            settings.number("mlp_ratio", 4.0, 64.0, 0.01),
            settings.flag("qkv_bias", default=True),
            positions,
            settings.activation("hidden_act", "gelu"),
            settings.number("layer_norm_eps", 1e-5, 1.0),
        )
        if settings.problems:
            return found  # what does not fit would follow from the defaults
        if len(heads) != len(depths) or sum(depths) > MOST_BLOCKS:
            cause = f"depths is {depths}, num_heads {heads}: as many stages each, of at most {MOST_BLOCKS} blocks"
            settings.mismatched("depths", cause)
        elif any((found.hidden << stage) % count for stage, count in enumerate(heads)):
            settings.mismatched("num_heads", f"{found.hidden} channels, doubled at each stage, are no multiples of {heads}")
        elif found.hidden << (len(depths) - 1) > MOST_CHANNELS or found.hidden * found.ratio < 1:
            settings.mismatched("embed_dim", f"{found.hidden} channels are too many or too few for {len(depths)} stages")
        elif small := next((each for each in found.maps if min(each) < found.window), None):
            cause = f"window_size is {found.window}, a stage's map has {small} places, and stock code fails on a smaller map"
            settings.unsupported("window_size", cause)
        elif found.made > MOST_MADE:
            settings.unsupported("window_size", f"window_size is {found.window}: {found.made:,} pairs of places are too many")
        if found.positions and any(side % patch for side, patch in zip(found.size, found.patch, strict=True)):
            cause = f"image_size {found.size} is no multiple of patch_size {found.patch}, so the place of no patch is known"
            settings.mismatched("image_size", cause)
        return found

    def build(self, sizes: SwinSizes, outputs: int) -> tuple[Builder, tuple[str, ...]]:
        """Build the graph."""
        made = Builder((sizes.channels, *sizes.size))
        value, hidden = self._embeddings(made, sizes), sizes.hidden
        for stage, depth in enumerate(sizes.depths):
            stock = f"{self.prefix}encoder.layers.{stage}"
            if stage:
                before = f"{self.prefix}encoder.layers.{stage - 1}.downsample"
                value, hidden = _merged(made, f"stage{stage}_merge", value, before, sizes.maps[stage - 1], hidden), 2 * hidden
            builder = _Blocks(made, sizes, stage, hidden)
            for block in range(depth):
                value = builder.add(block, value, f"{stock}.blocks.{block}")
        value = made.layer_norm("norm", value, f"{self.prefix}layernorm", hidden, sizes.epsilon)
        value = made.add("pool", "reduce_mean", value, axes=(1,), keep=0)
        return made, made.classifier(value, "classifier", hidden, outputs)

    def _embeddings(self, made: Builder, sizes: SwinSizes) -> str:
        stock, (height, width), value = f"{self.prefix}embeddings", sizes.maps[0], INPUT
        missing = [count * patch - side for count, patch, side in zip(sizes.maps[0], sizes.patch, sizes.size, strict=True)]
        if any(missing):
            value = made.add("image", "pad", value, pads=(0, 0, 0, missing[0], 0, missing[1]), value=0.0)
        weight = (sizes.hidden, sizes.channels, *sizes.patch)
        value = made.conv("patches", value, f"{stock}.patch_embeddings.projection", weight, stride=sizes.patch, bias=True)
        value = made.add("patches_flat", "reshape", value, shape=(1, sizes.hidden, height * width))
        value = made.add("patches_turned", "transpose", value, order=(0, 2, 1))
        value = made.layer_norm("patches_norm", value, f"{stock}.norm", sizes.hidden, EPSILON)
        if sizes.positions:
            places = made.constant("places", f"{stock}.position_embeddings", (1, height * width, sizes.hidden))
            value = made.add("placed", "add", value, places)
        return value

    def spare(self, sizes: SwinSizes) -> dict[str, Shape]:
        """Return the token for masked patches, and the places of the tables, which older versions saved."""
        found: dict[str, Shape] = {"embeddings.mask_token": (1, 1, sizes.hidden)}
        places = "encoder.layers.{}.blocks.{}.attention.self.relative_position_index"
        area = sizes.window**2
        for stage, depth in enumerate(sizes.depths):
            found |= {places.format(stage, block): (area, area) for block in range(depth)}
        return found

    def narrower(self, config: Mapping[str, Any], graph: Graph) -> dict[str, Any] | None:
        """Return the embedding size, the heads and the blocks of each stage, and the feed-forward parts' ratio."""
        stages, hidden = by_stage(graph, r"stage(\d+)_block(\d+)_up"), outputs_of(graph, "patches")
        first = [f"stage{stage}_block{blocks[0]}" for stage, blocks in stages.items()]
        shapes = [graph.named(f"{name}_attention_query_heads").attributes["shape"] for name in first]
        units = [(outputs_of(graph, f"{name}_up"), hidden << stage) for stage, name in enumerate(first)]
        heads = [shape[2] for shape in shapes if isinstance(shape, tuple)]
        found = {
            **config,
            "embed_dim": hidden,
            "num_heads": heads,
            "depths": [len(blocks) for blocks in stages.values()],
            "mlp_ratio": _ratio(units, config.get("mlp_ratio", 4.0)),
        }
        found.pop("num_attention_heads", None)  # a second name
        return found

    def ties(self, graph: Graph) -> list[list[str]]:
        """Return the streams of all stages with the heads of all blocks, and the feed-forward units of all blocks."""
        stages = by_stage(graph, r"stage(\d+)_block(\d+)_up")
        names = [f"stage{stage}_block{block}" for stage, blocks in stages.items() for block in blocks]
        streams = ["patches.weight", *(f"stage{stage}_merge_down.weight" for stage in stages if stage)]
        heads = [f"{name}_attention_query.weight" for name in names]
        return [[*streams, *heads], [f"{name}_up.weight" for name in names]]


class _Blocks:
    """Adds the blocks of a stage."""

    def __init__(self, made: Builder, sizes: SwinSizes, stage: int, hidden: int) -> None:
        self.made, self.sizes, self.stage, self.hidden = made, sizes, stage, hidden
        self._hiding: str | None = None

    def add(self, block: int, value: str, stock: str) -> str:
        """Add a block to a value (rows, places, channels)."""
        made, sizes, name, hidden = self.made, self.sizes, f"stage{self.stage}_block{block}", self.hidden
        inner = made.layer_norm(f"{name}_before", value, f"{stock}.layernorm_before", hidden, sizes.epsilon)
        inner = self._attention(name, inner, stock, sizes.shift(self.stage, block))
        value = made.add(f"{name}_attended", "add", value, inner)
        inner, units = made.layer_norm(f"{name}_after", value, f"{stock}.layernorm_after", hidden, sizes.epsilon), self._units()
        inner = made.linear(f"{name}_up", inner, f"{stock}.intermediate.dense", (units, hidden))
        inner = made.activation(f"{name}_activation", inner, sizes.activation)
        inner = made.linear(f"{name}_down", inner, f"{stock}.output.dense", (hidden, units))
        return made.add(f"{name}_sum", "add", inner, value)

    def _units(self) -> int:
        return int(self.sizes.ratio * self.hidden)

    def _attention(self, name: str, value: str, stock: str, shift: int) -> str:
        """Add the attention of a block between its cut into windows and its way back."""
        made, (height, width), window = self.made, self.sizes.maps[self.stage], self.sizes.window
        down, across = self.sizes.windows(self.stage)
        count, tall, wide, hidden = down * across, down * window, across * window, self.hidden
        value = made.add(f"{name}_map", "reshape", value, shape=(1, height, width, hidden))
        if (tall, wide) != (height, width):
            value = made.add(f"{name}_padded", "pad", value, pads=(0, tall - height, 0, wide - width, 0, 0), value=0.0)
        value = self._rolled(f"{name}_shifted", value, shift, (tall, wide))
        value = made.add(f"{name}_cut", "reshape", value, shape=(1, down, window, across, window, hidden))
        value = made.add(f"{name}_windows", "transpose", value, order=(0, 1, 3, 2, 4, 5))
        value = made.add(f"{name}_apart", "reshape", value, shape=(count, window**2, hidden))
        table = f"{stock}.attention.self.relative_position_bias_table"
        heads = self.sizes.heads[self.stage]
        entries = Entries(((2 * window - 1) ** 2, heads), window)
        by_head = made.constant(f"{name}_distances", table, (heads, window**2, window**2), entries)
        parts = {part: f"{stock}.attention.{called}" for part, called in PARTS.items()}
        like = Attention(window**2, hidden, heads, hidden // heads, self.sizes.bias, parts, count)
        hiding = self._hidden_pairs((tall, wide), shift) if shift else None
        value = add_attention(made, f"{name}_attention", value, like, by_head=by_head, by_window=hiding)
        value = made.add(f"{name}_whole", "reshape", value, shape=(1, down, across, window, window, hidden))
        value = made.add(f"{name}_rows", "transpose", value, order=(0, 1, 3, 2, 4, 5))
        value = made.add(f"{name}_joined", "reshape", value, shape=(1, tall, wide, hidden))
        value = self._rolled(f"{name}_returned", value, -shift, (tall, wide))
        for axis, side, kept in ((1, tall, height), (2, wide, width)):
            if side != kept:
                value = made.add(f"{name}_part{axis}", "slice", value, axis=axis, start=0, end=kept, step=1)
        return made.add(f"{name}_flat", "reshape", value, shape=(1, height * width, hidden))

    def _rolled(self, name: str, value: str, shift: int, sides: Size) -> str:
        """Move a map up and to the left by `shift` places; what leaves it comes in on the other side."""
        for axis, side in enumerate(sides, 1) if shift else ():
            at = shift % side
            parts = (("behind", at, side), ("before", 0, at))
            cut = [
                self.made.add(f"{name}{axis}_{part}", "slice", value, axis=axis, start=start, end=end, step=1)
                for part, start, end in parts
            ]
            value = self.made.add(f"{name}{axis}", "concat", *cut, axis=axis)
        return value

    def _hidden_pairs(self, sides: Size, shift: int) -> str:
        """Return the value that hides from each other what a shift has brought into one window: one for all blocks."""
        if self._hiding is None:
            window = self.sizes.window
            down, across = sides[0] // window, sides[1] // window
            shape = (down * across, 1, window**2, window**2)
            self._hiding = self.made.fixed_values(
                f"stage{self.stage}_hidden_pairs", shape, lambda: _hiding(sides, window, shift)
            )
        return self._hiding


def _ratio(widths: Sequence[tuple[int, int]], old: float) -> float:
    """Return the ratio that makes the units of channels, rounded down: the old one if it does. widths: (units, channels)."""
    low, high = max(units / width for units, width in widths), min((units + 1) / width for units, width in widths)
    exact = (ratio for ratio in (old, low) if all(int(ratio * width) == units for units, width in widths))
    return next(exact, (low + high) / 2)


def _merged(made: Builder, name: str, value: str, stock: str, sides: Size, hidden: int) -> str:
    """Add a merging of two by two places, one after the other by column, then row, into one of twice the channels."""
    height, width = sides
    value = made.add(f"{name}_map", "reshape", value, shape=(1, height, width, hidden))
    tall, wide = height + height % 2, width + width % 2
    if (tall, wide) != (height, width):
        value = made.add(f"{name}_padded", "pad", value, pads=(0, height % 2, 0, width % 2, 0, 0), value=0.0)
    parts = []
    for column in range(2):
        for row in range(2):
            part = made.add(f"{name}_row{row}{column}", "slice", value, axis=1, start=row, end=tall, step=2)
            parts.append(made.add(f"{name}_part{row}{column}", "slice", part, axis=2, start=column, end=wide, step=2))
    value = made.add(f"{name}_joined", "concat", *parts, axis=3)
    value = made.add(f"{name}_flat", "reshape", value, shape=(1, tall // 2 * (wide // 2), 4 * hidden))
    value = made.layer_norm(f"{name}_norm", value, f"{stock}.norm", 4 * hidden, EPSILON)
    return made.linear(f"{name}_down", value, f"{stock}.reduction", (2 * hidden, 4 * hidden), bias=False)


def _hiding(sides: Size, window: int, shift: int) -> Floats:
    """Return what is added to the scores of a shifted map's windows. -> (windows, 1, places, places)"""
    rows, columns = (np.searchsorted([side - window, side - shift], np.arange(side), side="right") for side in sides)
    regions = rows[:, None] * 3 + columns[None, :]
    height, width = sides
    cut = regions.reshape(height // window, window, width // window, window).swapaxes(1, 2).reshape(-1, 1, window**2)
    found: Floats = np.where(cut[..., None] == cut[..., None, :], 0.0, HIDDEN_FROM).astype(np.float32)
    return found


SWIN = Swin()
