"""transformers' MobileNetV2: inverted residual blocks, whose widths all follow from one multiplier."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from compression.models.networks.families.builder import Builder
from compression.models.networks.families.family import Size, StockFamily, image_size, outputs_of
from compression.models.networks.families.settings import MOST_CHANNELS, Settings
from compression.models.networks.graph import INPUT, Graph

WIDTHS = (16, 24, 24, 32, 32, 32, 64, 64, 64, 64, 96, 96, 96, 160, 160, 160, 320)
"""Outputs of the stem and of each block at a multiplier of 1 (Sandler et al. 2018, table 2)."""
STRIDES = (2, 1, 2, 1, 1, 2, 1, 1, 1, 1, 1, 1, 2, 1, 1, 1)
STEM, LAST = 32, 1280


@dataclass(frozen=True)
class MobileNetV2Sizes:
    """What a MobileNetV2's computation depends on."""

    size: Size
    channels: int
    multiplier: float
    multiple: int  #: of channels that every width is a multiple of
    least: int  #: channels of any width
    expansion: float
    output_stride: int
    stem_expands: bool  #: whether the first convolution is the stem's expansion too
    wide_end: bool  #: whether a multiplier below 1 leaves the last convolution as it is
    activation: str
    padded_late: bool  #: whether odd padding goes to the bottom and the right, as in TensorFlow
    epsilon: float

    def rounded(self, channels: float) -> int:
        """Return the width nearest to a number of channels, at least 90% of it."""
        found = max(self.least, int(channels + self.multiple / 2) // self.multiple * self.multiple)
        return found + self.multiple if found < 0.9 * channels else found

    def width(self, channels: int) -> int:
        """Return the width that stands for one at a multiplier of 1."""
        return self.rounded(round(channels * self.multiplier))

    def expanded(self, channels: int) -> int:
        """Return the inner width of a block."""
        return self.rounded(round(channels * self.expansion))

    @property
    def last(self) -> int:
        """Return the outputs of the last convolution."""
        return LAST if self.wide_end and self.multiplier < 1 else self.width(LAST)


class MobileNetV2(StockFamily[MobileNetV2Sizes]):
    """MobileNetV2ForImageClassification."""

    kind = "mobilenet_v2"

    def read(self, settings: Settings, size: Size | None) -> MobileNetV2Sizes:
        """Read what the computation depends on."""
        found = MobileNetV2Sizes(
            image_size(settings, size, fixed=False),
            settings.channels(),
            settings.number("depth_multiplier", 1.0, 8.0, 0.01),
            settings.whole("depth_divisible_by", 8, 1_024),
            settings.whole("min_depth", 8, 1_024),
            settings.number("expand_ratio", 6.0, 64.0, 0.01),
            settings.whole("output_stride", 32, 1_024),
            settings.flag("first_layer_is_expansion", default=True),
            settings.flag("finegrained_output", default=True),
            settings.activation("hidden_act", "relu6"),
            settings.flag("tf_padding", default=True),
            settings.number("layer_norm_eps", 0.001, 1.0),
        )
        widest = max(found.last, found.expanded(found.width(WIDTHS[-2])))
        if not settings.problems and widest > MOST_CHANNELS:
            settings.mismatched("depth_multiplier", f"it makes {widest:,} channels; {MOST_CHANNELS:,} are the most")
        return found

    def build(self, sizes: MobileNetV2Sizes, outputs: int) -> tuple[Builder, tuple[str, ...]]:
        """Build the graph."""
        layers = _Layers(sizes)
        stock, width, out = f"{self.prefix}conv_stem", sizes.width(STEM), sizes.width(WIDTHS[0])
        value = layers.add("stem_first", INPUT, f"{stock}.first_conv", (width, sizes.channels), 3, stride=2)
        if not sizes.stem_expands:
            value = layers.add("stem_expand", value, f"{stock}.expand_1x1", (width, width))
        value = layers.add("stem_middle", value, f"{stock}.conv_3x3", (width, width), 3, groups=width)
        value = layers.add("stem_last", value, f"{stock}.reduce_1x1", (out, width), activated=0)
        reached, spread = 2, 1
        for block, step in enumerate(STRIDES):
            stride, dilation = step, 1
            if reached == sizes.output_stride:
                stride, dilation = 1, spread
                spread *= step  # the next block sees as far as it would on the smaller map
            reached *= stride
            width, out = out, sizes.width(WIDTHS[block + 1])
            value = self._block(layers, block, value, (out, width), stride, dilation)
        value = layers.add("end", value, f"{self.prefix}conv_1x1", (sizes.last, out))
        value = layers.made.add("pool", "reduce_mean", value, axes=(2, 3), keep=0)
        return layers.made, layers.made.classifier(value, "classifier", sizes.last, outputs)

    def _block(self, layers: "_Layers", block: int, value: str, widths: tuple[int, int], stride: int, dilation: int) -> str:
        """Add a block. widths: (outputs, inputs)."""
        (out, width), name, stock = widths, f"block{block}", f"{self.prefix}layer.{block}"
        inner, before = layers.sizes.expanded(width), value
        value = layers.add(f"{name}_expand", value, f"{stock}.expand_1x1", (inner, width))
        shape, spread = (inner, inner), {"groups": inner, "dilation": dilation}
        value = layers.add(f"{name}_middle", value, f"{stock}.conv_3x3", shape, 3, stride=stride, **spread)
        value = layers.add(f"{name}_last", value, f"{stock}.reduce_1x1", (out, inner), activated=0)
        return layers.made.add(f"{name}_sum", "add", before, value) if stride == 1 and out == width else value

    def narrower(self, config: Mapping[str, Any], graph: Graph) -> dict[str, Any] | None:
        """Return the multiplier that the last block's width shows, if it is not the old one."""
        sizes, out = self.read(Settings(config), None), outputs_of(graph, f"block{len(STRIDES) - 1}_last")
        same = sizes.width(WIDTHS[-1]) == out
        return {**config, "depth_multiplier": sizes.multiplier if same else out / WIDTHS[-1]}

    def ties(self, graph: Graph) -> list[list[str]]:  # noqa: ARG002 (no widths in proportion are all multiples of 8)
        """Return none: the multiplier rounds each width by itself."""
        return []


class _Layers:
    """Adds convolutions with their norms and activations, and follows the size of the maps."""

    def __init__(self, sizes: MobileNetV2Sizes) -> None:
        self.sizes, self.made = sizes, Builder((sizes.channels, *sizes.size))
        self._map = sizes.size

    def add(self, name: str, value: str, stock: str, widths: tuple[int, int], kernel: int = 1, **more: int) -> str:
        """Add a layer. widths: (outputs, inputs); more: stride, dilation, groups; activated is 0 if it ends with the norm."""
        stride, dilation, groups = more.get("stride", 1), more.get("dilation", 1), more.get("groups", 1)
        sides = [self._padding(side, kernel, stride, dilation) for side in self._map]
        self._map = tuple(
            (side + sum(pads) - dilation * (kernel - 1) - 1) // stride + 1 for side, pads in zip(self._map, sides, strict=True)
        )  # type: ignore[assignment]  # of two sides again
        value = self.made.conv(
            name,
            value,
            f"{stock}.convolution",
            (widths[0], widths[1] // groups, kernel, kernel),
            stride=(stride, stride),
            padding=(sides[0][0], sides[1][0], sides[0][1], sides[1][1]),
            dilation=(dilation, dilation),
            groups=groups,
        )
        value = self.made.batch_norm(f"{name}_norm", value, f"{stock}.normalization", widths[0], self.sizes.epsilon)
        return self.made.activation(f"{name}_activation", value, self.sizes.activation) if more.get("activated", 1) else value

    def _padding(self, side: int, kernel: int, stride: int, dilation: int) -> tuple[int, int]:
        """Return the padding before and after a side of a map."""
        if not self.sizes.padded_late:
            return (kernel - 1) // 2 * dilation, (kernel - 1) // 2 * dilation
        missing = max(kernel - (side % stride or stride), 0)
        return missing // 2 * dilation, (missing - missing // 2) * dilation


MOBILENET_V2 = MobileNetV2()
