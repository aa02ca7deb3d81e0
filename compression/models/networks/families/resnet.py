"""transformers' ResNet: v1.5 by default, with basic or bottleneck blocks."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from compression.models.networks.families.builder import Builder
from compression.models.networks.families.family import Size, StockFamily, by_stage, image_size, named_in, outputs_of
from compression.models.networks.families.settings import MOST_BLOCKS, MOST_CHANNELS, Settings
from compression.models.networks.graph import INPUT, Graph

REDUCTION = 4
"""Outputs of a bottleneck block for each of its inner channels."""


@dataclass(frozen=True)
class ResNetSizes:
    """What a ResNet's computation depends on."""

    size: Size
    channels: int
    stem: int
    widths: tuple[int, ...]  #: of each stage
    depths: tuple[int, ...]
    bottleneck: bool
    activation: str
    first_stride: int  #: of the first stage
    stride_first: bool  #: whether a bottleneck's first convolution has its stride, not the second


class ResNet(StockFamily[ResNetSizes]):
    """ResNetForImageClassification."""

    kind = "resnet"

    def read(self, settings: Settings, size: Size | None) -> ResNetSizes:
        """Read what the computation depends on."""
        widths = settings.wholes("hidden_sizes", (256, 512, 1024, 2048), MOST_CHANNELS)
        depths = settings.wholes("depths", (3, 4, 6, 3), MOST_BLOCKS)
        if not settings.problems and (len(widths) != len(depths) or sum(depths) > MOST_BLOCKS):
            cause = f"depths is {depths}, hidden_sizes {widths}: as many stages each, of at most {MOST_BLOCKS} blocks"
            settings.mismatched("depths", cause)
        bottleneck = settings.choice("layer_type", "bottleneck", ("basic", "bottleneck")) == "bottleneck"
        if bottleneck and min(widths) < REDUCTION:
            settings.mismatched("hidden_sizes", f"hidden_sizes is {widths}, and a bottleneck has a quarter of the channels")
        return ResNetSizes(
            image_size(settings, size, fixed=False),
            settings.channels(),
            settings.whole("embedding_size", 64, MOST_CHANNELS),
            widths,
            depths,
            bottleneck,
            settings.activation("hidden_act", "relu"),
            2 if settings.flag("downsample_in_first_stage", default=False) else 1,
            settings.flag("downsample_in_bottleneck", default=False),
        )

    def build(self, sizes: ResNetSizes, outputs: int) -> tuple[Builder, tuple[str, ...]]:
        """Build the graph."""
        made = Builder((sizes.channels, *sizes.size))
        stem = f"{self.prefix}embedder.embedder"
        value = _conv(made, "stem", INPUT, stem, (sizes.stem, sizes.channels), 7, 2)
        value = made.activation("stem_activation", value, sizes.activation)
        value = made.add(
            "stem_pool", "max_pool", value, kernel=(3, 3), stride=(2, 2), padding=(1, 1, 1, 1), ceil=0, dilation=(1, 1)
        )
        width = sizes.stem
        for stage, (out, depth) in enumerate(zip(sizes.widths, sizes.depths, strict=True)):
            for block in range(depth):
                stride = 1 if block else sizes.first_stride if stage == 0 else 2
                stock = f"{self.prefix}encoder.stages.{stage}.layers.{block}"
                value = _block(made, f"stage{stage}_block{block}", value, stock, (out, width), stride, sizes)
                width = out
        value = made.add("pool", "reduce_mean", value, axes=(2, 3), keep=0)
        return made, made.classifier(value, "classifier.1", width, outputs)

    def narrower(self, config: Mapping[str, Any], graph: Graph) -> dict[str, Any] | None:
        """Return the widths of the stages and their numbers of blocks."""
        stages = by_stage(graph, r"stage(\d+)_block(\d+)_last")
        widths = [outputs_of(graph, f"stage{stage}_block{blocks[0]}_last") for stage, blocks in stages.items()]
        depths = [len(blocks) for blocks in stages.values()]
        return {**config, "embedding_size": outputs_of(graph, "stem"), "hidden_sizes": widths, "depths": depths}

    def ties(self, graph: Graph) -> list[list[str]]:
        """Return for each stage all its convolutions: the inner widths follow from the outer one."""
        names: dict[int, list[str]] = {}
        for stage, block, part in named_in(graph, r"stage(\d+)_block(\d+)_(first|middle|last)"):
            names.setdefault(int(stage), []).append(f"stage{stage}_block{block}_{part}.weight")
        return list(names.values())


def _conv(made: Builder, name: str, value: str, stock: str, widths: tuple[int, int], kernel: int, stride: int = 1) -> str:
    """Add a convolution and its batch norm. widths: (outputs, inputs)."""
    edge = kernel // 2
    value = made.conv(
        name,
        value,
        f"{stock}.convolution",
        (*widths, kernel, kernel),
        stride=(stride, stride),
        padding=(edge, edge, edge, edge),
    )
    return made.batch_norm(f"{name}_norm", value, f"{stock}.normalization", widths[0])


def _block(made: Builder, name: str, value: str, stock: str, widths: tuple[int, int], stride: int, sizes: ResNetSizes) -> str:
    """Add a residual block. widths: (outputs, inputs)."""
    out, width = widths
    inner = out // REDUCTION if sizes.bottleneck else out
    residual = value
    if sizes.bottleneck:
        strides = (stride, 1) if sizes.stride_first else (1, stride)
        parts = [
            ("first", (inner, width), 1, strides[0]),
            ("middle", (inner, inner), 3, strides[1]),
            ("last", (out, inner), 1, 1),
        ]
    else:
        parts = [("first", (inner, width), 3, stride), ("last", (out, inner), 3, 1)]
    for number, (part, shape, kernel, step) in enumerate(parts):
        value = _conv(made, f"{name}_{part}", value, f"{stock}.layer.{number}", shape, kernel, step)
        if part != "last":
            # Within a block stock code takes ReLU, whatever hidden_act says.
            value = made.activation(f"{name}_{part}_activation", value, "relu")
    if out != width or stride != 1:
        residual = _conv(made, f"{name}_shortcut", residual, f"{stock}.shortcut", widths, 1, stride)
    value = made.add(f"{name}_sum", "add", value, residual)
    return made.activation(f"{name}_activation", value, sizes.activation)


RESNET = ResNet()
