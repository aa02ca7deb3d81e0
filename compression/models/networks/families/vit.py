"""transformers' ViT and DeiT: pre-norm encoders over patches, read at their class token."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from compression.models.networks.families.attention import Attention, add_attention
from compression.models.networks.families.builder import Builder
from compression.models.networks.families.family import Size, StockFamily, image_size, named_in, outputs_of
from compression.models.networks.families.settings import MOST_BLOCKS, MOST_CHANNELS, Settings
from compression.models.networks.graph import INPUT, Graph, Shape

MOST_HEADS = 1_024
MOST_UNITS = 131_072
PARTS = {"query": "attention.query", "key": "attention.key", "value": "attention.value", "output": "output.dense"}


@dataclass(frozen=True)
class VitSizes:
    """What a ViT's computation depends on."""

    size: Size
    patch: Size
    channels: int
    hidden: int
    layers: int
    heads: int
    head: int  #: channels of a head
    units: int  #: of the feed-forward part
    pooled: int  #: of the pooler, which no classifier has
    activation: str
    epsilon: float
    bias: bool  #: of queries, keys and values

    @property
    def patches(self) -> int:
        """Return the number of patches."""
        return (self.size[0] // self.patch[0]) * (self.size[1] // self.patch[1])


class Vit(StockFamily[VitSizes]):
    """ViTForImageClassification."""

    kind = "vit"
    tokens: ClassVar[tuple[str, ...]] = ("cls_token",)
    """The tokens before the patches."""
    renamed = (
        ("encoder.layer.", "layers."),
        ("attention.attention.query", "attention.q_proj"),
        ("attention.attention.key", "attention.k_proj"),
        ("attention.attention.value", "attention.v_proj"),
        ("attention.output.dense", "attention.o_proj"),
        ("intermediate.dense", "mlp.fc1"),
        ("output.dense", "mlp.fc2"),
    )

    def read(self, settings: Settings, size: Size | None) -> VitSizes:
        """Read what the computation depends on."""
        hidden = settings.whole("hidden_size", 768, MOST_CHANNELS)
        heads = settings.whole("num_attention_heads", 12, MOST_HEADS)
        if "head_dim" not in settings.config and hidden < heads:
            settings.mismatched("num_attention_heads", f"{hidden} channels are too few for {heads} heads")
        found = VitSizes(
            image_size(settings, size, fixed=True),
            settings.sides("patch_size", 16, 1_024),
            settings.channels(),
            hidden,
            settings.whole("num_hidden_layers", 12, MOST_BLOCKS),
            heads,
            settings.whole("head_dim", max(hidden // heads, 1), MOST_CHANNELS),
            settings.whole("intermediate_size", 3072, MOST_UNITS),
            settings.whole("pooler_output_size", hidden, MOST_CHANNELS)
            if settings.config.get("pooler_output_size")
            else hidden,
            settings.activation("hidden_act", "gelu"),
            settings.number("layer_norm_eps", 1e-12, 1.0),
            settings.flag("qkv_bias", default=True),
        )
        if not found.patches:
            settings.mismatched("patch_size", f"no patch of {found.patch} pixels fits into an image of {found.size}")
        return found

    def build(self, sizes: VitSizes, outputs: int) -> tuple[Builder, tuple[str, ...]]:
        """Build the graph."""
        made = Builder((sizes.channels, *sizes.size))
        value = self._embeddings(made, sizes)
        for layer in range(sizes.layers):
            value = self._layer(made, layer, value, sizes)
        value = made.layer_norm("norm", value, f"{self.prefix}layernorm", sizes.hidden, sizes.epsilon)
        value = made.add("read", "slice", value, axis=1, start=0, end=1, step=1)
        value = made.add("pool", "reshape", value, shape=(1, sizes.hidden))
        return made, made.classifier(value, "classifier", sizes.hidden, outputs)

    def _embeddings(self, made: Builder, sizes: VitSizes) -> str:
        stock, hidden, patches = f"{self.prefix}embeddings", sizes.hidden, sizes.patches
        weight = (hidden, sizes.channels, *sizes.patch)
        value = made.conv("patches", INPUT, f"{stock}.patch_embeddings.projection", weight, stride=sizes.patch, bias=True)
        value = made.add("patches_flat", "reshape", value, shape=(1, hidden, patches))
        value = made.add("patches_turned", "transpose", value, order=(0, 2, 1))
        before = []
        for token in self.tokens:
            constant = made.constant(token, f"{stock}.{token}", (1, 1, hidden))
            before.append(made.add(f"{token}_rows", "expand", constant, shape=(1, 1, hidden)))
        value = made.add("tokens", "concat", *before, value, axis=1)
        places = made.constant("positions", f"{stock}.position_embeddings", (1, len(before) + patches, hidden))
        return made.add("embeddings", "add", value, places)

    def _layer(self, made: Builder, layer: int, value: str, sizes: VitSizes) -> str:
        name, stock, hidden = f"layer{layer}", f"{self.prefix}encoder.layer.{layer}", sizes.hidden
        inner = made.layer_norm(f"{name}_before", value, f"{stock}.layernorm_before", hidden, sizes.epsilon)
        tokens = len(self.tokens) + sizes.patches
        parts = {part: f"{stock}.attention.{called}" for part, called in PARTS.items()}
        attention = Attention(tokens, hidden, sizes.heads, sizes.head, sizes.bias, parts)
        inner = add_attention(made, f"{name}_attention", inner, attention)
        value = made.add(f"{name}_attended", "add", inner, value)
        inner = made.layer_norm(f"{name}_after", value, f"{stock}.layernorm_after", hidden, sizes.epsilon)
        inner = made.linear(f"{name}_up", inner, f"{stock}.intermediate.dense", (sizes.units, hidden))
        inner = made.activation(f"{name}_activation", inner, sizes.activation)
        inner = made.linear(f"{name}_down", inner, f"{stock}.output.dense", (hidden, sizes.units))
        return made.add(f"{name}_sum", "add", inner, value)

    def spare(self, sizes: VitSizes) -> dict[str, Shape]:
        """Return the pooler and the token for masked patches."""
        pooler = {"pooler.dense.weight": (sizes.pooled, sizes.hidden), "pooler.dense.bias": (sizes.pooled,)}
        return {**pooler, "embeddings.mask_token": (1, 1, sizes.hidden)}

    def narrower(self, config: Mapping[str, Any], graph: Graph) -> dict[str, Any] | None:
        """Return the widths of the first layer that is left."""
        layers = [layer for (layer,) in named_in(graph, r"layer(\d+)_up")]
        heads = [node.attributes["shape"] for node in graph.used() if node.name.endswith("_query_heads")]
        if not layers or not heads or not isinstance(heads[0], tuple):
            return None
        hidden, (*_, count, width) = outputs_of(graph, "patches"), heads[0]
        found = {
            **config,
            "hidden_size": hidden,
            "num_hidden_layers": len(layers),
            "num_attention_heads": count,
            "intermediate_size": outputs_of(graph, f"layer{layers[0]}_up"),
            # A classifier has no pooler; its size would follow the hidden size anyway.
            "pooler_output_size": hidden,
        }
        found.pop("head_dim", None)
        return found if hidden // count == width else {**found, "head_dim": width}

    def ties(self, graph: Graph) -> list[list[str]]:
        """Return the heads of all layers, and the feed-forward units of all layers."""
        layers = [layer for (layer,) in named_in(graph, r"layer(\d+)_up")]
        heads = [f"layer{layer}_attention_query.weight" for layer in layers]
        return [heads, [f"layer{layer}_up.weight" for layer in layers]]


class Deit(Vit):
    """DeiTForImageClassification: a ViT with one token more, at which a classifier does not read."""

    kind = "deit"
    tokens = ("cls_token", "distillation_token")


VIT, DEIT = Vit(), Deit()
