"""transformers' ConvNeXt and ConvNeXt V2: depthwise convolutions with feed-forward parts over the channels."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from compression.models.networks.families.builder import Builder
from compression.models.networks.families.family import Size, StockFamily, by_stage, image_size, named_in, outputs_of
from compression.models.networks.families.settings import MOST_BLOCKS, MOST_CHANNELS, Settings
from compression.models.networks.graph import INPUT, Graph

EXPANSION = 4
"""Inner channels of a block for each of its outputs."""
EPSILON = 1e-6
"""Of all norms but the last."""
LAST_AXIS, SECOND_AXIS = (0, 2, 3, 1), (0, 3, 1, 2)
"""Orders that bring the channels of a map to the last axis, and back."""


@dataclass(frozen=True)
class ConvNextSizes:
    """What a ConvNeXt's computation depends on."""

    size: Size
    patch: Size
    channels: int
    widths: tuple[int, ...]  #: of each stage
    depths: tuple[int, ...]
    activation: str
    epsilon: float  #: of the last norm
    scaled: bool  #: whether a block's result has a scale for each channel


class ConvNext(StockFamily[ConvNextSizes]):
    """ConvNextForImageClassification."""

    kind = "convnext"
    responds: ClassVar[bool] = False
    """Whether a block has a global response normalization in place of scales."""

    def read(self, settings: Settings, size: Size | None) -> ConvNextSizes:
        """Read what the computation depends on."""
        widths = settings.wholes("hidden_sizes", (96, 192, 384, 768), MOST_CHANNELS)
        depths = settings.wholes("depths", (3, 3, 9, 3), MOST_BLOCKS)
        stages = settings.whole("num_stages", 4, MOST_BLOCKS)
        settings.same("num_hidden_layers", "num_stages", stages)
        fits = len(widths) == len(depths) == stages and sum(depths) <= MOST_BLOCKS
        if not settings.problems and not fits:
            cause = (
                f"num_stages is {stages}, depths {depths}, hidden_sizes {widths}: as many each, of {MOST_BLOCKS} blocks at most"
            )
            settings.mismatched("num_stages", cause)
        scale = 0.0 if self.responds else settings.number("layer_scale_init_value", 1e-6, 1e3, -1e3)
        return ConvNextSizes(
            image_size(settings, size, fixed=False),
            settings.sides("patch_size", 4, 1_024),
            settings.channels(),
            widths,
            depths,
            settings.activation("hidden_act", "gelu"),
            settings.number("layer_norm_eps", 1e-12, 1.0),
            scale > 0,
        )

    def build(self, sizes: ConvNextSizes, outputs: int) -> tuple[Builder, tuple[str, ...]]:
        """Build the graph."""
        made = Builder((sizes.channels, *sizes.size))
        stock, width = f"{self.prefix}embeddings", sizes.widths[0]
        weight = (width, sizes.channels, *sizes.patch)
        value = made.conv("stem", INPUT, f"{stock}.patch_embeddings", weight, stride=sizes.patch, bias=True)
        value = _norm(made, "stem_norm", value, f"{stock}.layernorm", width)
        for stage, (out, depth) in enumerate(zip(sizes.widths, sizes.depths, strict=True)):
            stock = f"{self.prefix}encoder.stages.{stage}"
            if stage:
                value = _norm(made, f"stage{stage}_norm", value, f"{stock}.downsampling_layer.0", width)
                weight, down = (out, width, 2, 2), f"{stock}.downsampling_layer.1"
                value = made.conv(f"stage{stage}_down", value, down, weight, stride=(2, 2), bias=True)
            width = out
            for block in range(depth):
                value = self._block(made, f"stage{stage}_block{block}", value, f"{stock}.layers.{block}", width, sizes)
        value = made.add("pool", "reduce_mean", value, axes=(2, 3), keep=0)
        value = made.layer_norm("norm", value, f"{self.prefix}layernorm", width, sizes.epsilon)
        return made, made.classifier(value, "classifier", width, outputs)

    def _block(self, made: Builder, name: str, value: str, stock: str, width: int, sizes: ConvNextSizes) -> str:
        before, inner = value, EXPANSION * width
        weight, padding = (width, 1, 7, 7), (3, 3, 3, 3)
        value = made.conv(f"{name}_spread", value, f"{stock}.dwconv", weight, padding=padding, groups=width, bias=True)
        value = made.add(f"{name}_turned", "transpose", value, order=LAST_AXIS)
        value = made.layer_norm(f"{name}_norm", value, f"{stock}.layernorm", width, EPSILON)
        value = made.linear(f"{name}_up", value, f"{stock}.pwconv1", (inner, width))
        value = made.activation(f"{name}_activation", value, sizes.activation)
        if self.responds:
            value = _response(made, f"{name}_response", value, f"{stock}.grn", inner)
        value = made.linear(f"{name}_down", value, f"{stock}.pwconv2", (width, inner))
        if sizes.scaled:
            scale = made.constant(f"{name}_scale", f"{stock}.layer_scale_parameter", (width,))
            value = made.add(f"{name}_scaled", "mul", scale, value)
        value = made.add(f"{name}_back", "transpose", value, order=SECOND_AXIS)
        return made.add(f"{name}_sum", "add", before, value)

    def narrower(self, config: Mapping[str, Any], graph: Graph) -> dict[str, Any] | None:
        """Return the widths of the stages and their numbers of blocks."""
        stages = by_stage(graph, r"stage(\d+)_block(\d+)_down")
        widths = [outputs_of(graph, f"stage{stage}_block{blocks[0]}_down") for stage, blocks in stages.items()]
        return {**config, "hidden_sizes": widths, "depths": [len(blocks) for blocks in stages.values()]}

    def ties(self, graph: Graph) -> list[list[str]]:
        """Return for each stage the stream and the inner widths of all blocks."""
        names: dict[int, list[str]] = {}
        for stage, block in named_in(graph, r"stage(\d+)_block(\d+)_down"):
            found = names.setdefault(int(stage), [f"stage{stage}_block{block}_down.weight"])
            found.append(f"stage{stage}_block{block}_up.weight")
        return list(names.values())


class ConvNextV2(ConvNext):
    """ConvNextV2ForImageClassification."""

    kind = "convnextv2"
    responds = True


def _norm(made: Builder, name: str, value: str, stock: str, width: int) -> str:
    """Add a layer norm over the channels of a map."""
    value = made.add(f"{name}_turned", "transpose", value, order=LAST_AXIS)
    value = made.layer_norm(name, value, stock, width, EPSILON)
    return made.add(f"{name}_back", "transpose", value, order=SECOND_AXIS)


def _response(made: Builder, name: str, value: str, stock: str, width: int) -> str:
    """Add a global response normalization (Woo et al. 2023, algorithm 1) of (rows, height, width, channels).

    With n_c the norm of a channel over its positions: weight · x · n_c / (Σ n_c / channels + ε) + bias + x. A cut network keeps
    dividing by the whole one's number of channels, so it computes what the whole one does with zeros in place of the others.
    Stock code divides by its own number: then the weight takes the ratio of both (ε aside).
    """
    squares = made.add(f"{name}_squares", "mul", value, value)
    squares = made.add(f"{name}_total", "reduce_sum", squares, axes=(1, 2), keep=1)
    norms = made.add(f"{name}_norms", "sqrt", squares)
    # Not a mean: its number would be another one in a cut network, and the response of what is left with it.
    total = made.add(f"{name}_sum", "reduce_sum", norms, axes=(3,), keep=1)
    mean = made.add(f"{name}_mean", "mul", total, made.number(f"{name}_part", 1 / width, taken_by=f"{name}_weight"))
    mean = made.add(f"{name}_above_zero", "add", mean, made.number(f"{name}_epsilon", 1e-6))
    share = made.add(f"{name}_share", "div", norms, mean)
    scaled = made.add(f"{name}_scaled", "mul", value, share)
    weight = made.constant(f"{name}_weight", f"{stock}.weight", (1, 1, 1, width))
    scaled = made.add(f"{name}_weighted", "mul", weight, scaled)
    bias = made.constant(f"{name}_bias", f"{stock}.bias", (1, 1, 1, width))
    scaled = made.add(f"{name}_shifted", "add", scaled, bias)
    return made.add(name, "add", scaled, value)


CONVNEXT, CONVNEXT_V2 = ConvNext(), ConvNextV2()
