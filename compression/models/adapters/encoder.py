"""Adapt encoders: post-norm layers of stock transformers.

One residual stream (`hidden` = heads × head size) runs through all layers, and LayerNorm normalizes it after each addition. A
cut selects channels of the stream once for the model; heads, channels of heads and feed-forward units per layer. The outputs of
a pooler or dense layer are a separate space. A cut equals masking the same units in the whole model, except for stream
channels: LayerNorm then takes its mean and variance over fewer channels.
"""

import copy
import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import Tensor, nn
from transformers import PretrainedConfig, PreTrainedModel

from compression.models.adapters.adapter import ArchitectureAdapter
from compression.models.adapters.cutting import Cut, scaled
from compression.models.adapters.layer_widths import check_filled, fill, layer_widths, narrow, set_layer_widths
from compression.models.adapters.structure import Attention, EncoderLayer, Feed, Head, PruningPlan, Tap
from compression.models.architectures import heads
from compression.models.architectures.pruning_groups import Tensors, axis_and_layer, units_at
from compression.models.architectures.tensor_names import (
    NAMES,
    TABLES,
    encoder_shape,
    encoder_tensors,
    head_tensors,
    pooler_tensors,
)
from compression.schema.report.measurements import Shape


class PostNormEncoder(ArchitectureAdapter):
    """One family of encoders, by the model_type of its config.

    ELECTRA's tables may be narrower than the stream and are then projected into it. With a projection (the small models) only
    the stream shrinks; without one the tables and the stream shrink together. MPNet's layers share a relative position bias
    with one column per head, so a head is removed from all layers or from none.
    """

    tables = TABLES
    shallow = ("embeddings", "embeddings_project", "relative_attention_bias")

    def __init__(self, kind: str) -> None:
        self.kind, self.names = kind, NAMES[kind]
        self.block, self.attention = self.names.block, self.names.attention
        self.shared_axes = frozenset({"heads"} if "relative_attention_num_buckets" in self.names.fixed else ())

    def shape_of(self, config: PretrainedConfig) -> Shape:
        """Read the widths from a stock config, and those of single layers where they have some of their own."""
        stated = encoder_shape({meaning: getattr(config, key) for meaning, (key, *_) in self.names.keys.items()})
        own = layer_widths(config)
        return stated if own is None else stated.with_ffns(own)

    def max_positions(self, config: PretrainedConfig) -> int:
        """Return the maximum number of tokens in a text. Rows of the position table before the first token's row are unused."""
        return int(config.max_position_embeddings) - self._first_position(config)

    def types(self, config: PretrainedConfig) -> int:
        """Return the number of token types. With fewer than two the model takes no token_type_ids."""
        return int(config.type_vocab_size) if "types" in self.names.keys else 0

    def fixed_tokens(self, config: PretrainedConfig) -> tuple[int, ...]:
        """Return the first token ids: the padding token's id determines where positions begin."""
        return tuple(range(self._first_position(config)))

    def layers(self, model: PreTrainedModel) -> list[EncoderLayer]:
        """Return the encoder's layers, shallow first."""
        parts = self.names.parts.items()
        return [
            EncoderLayer(whole=block, **{part: block.get_submodule(name) for part, name in parts})
            for block in self._blocks(model)
        ]

    def attentions(self, model: PreTrainedModel) -> list[Attention]:
        """Return the attention projections of each layer, shallow first."""
        layers = self.layers(model)
        return [Attention((layer.query, layer.key, layer.value), lambda *made: made) for layer in layers]

    def embeddings(self, model: PreTrainedModel) -> nn.Module:
        """Return the module that holds the token, position and type tables."""
        module: nn.Module = model.base_model.embeddings
        return module

    def head(self, model: PreTrainedModel) -> Head:
        """Return the head after the encoder."""
        answer: Any = getattr(model, "classifier", None) or getattr(model, "qa_outputs", None)
        if hasattr(answer, "out_proj"):
            return Head(dense=answer.dense, out=answer.out_proj)
        pooler: Any = getattr(model.base_model, "pooler", None)
        # In DistilBERT the counterpart of other families' pooler belongs to the head.
        return Head(dense=pooler.dense if pooler is not None else getattr(model, "pre_classifier", None), out=answer)

    def stream_norms(self, model: PreTrainedModel) -> list[nn.Module]:
        """Return every module whose output is the residual stream; the embeddings' comes first."""
        first: Any = getattr(model.base_model, "embeddings_project", None) or self.embeddings(model).LayerNorm
        return [first, *(norm for layer in self.layers(model) for norm in (layer.attended_norm, layer.norm))]

    def observed(self, model: PreTrainedModel) -> Mapping[str, Sequence[Tap]]:
        """Return where each group's units are observed: channels that queries and keys share, in both."""
        found: dict[str, list[Tap]] = {"hidden": [(norm, "out") for norm in self.stream_norms(model)]}
        head = self.head(model)
        if head.dense is not None and head.out is not None:
            found["pooled"] = [(head.out, "in")]
        for number, layer in enumerate(self.layers(model)):
            found[f"heads.{number}"] = found[f"values.{number}"] = [(layer.attended, "in")]
            found[f"compared.{number}"] = [(layer.query, "out"), (layer.key, "out")]
            found[f"ffn.{number}"] = [(layer.down, "in")]
        return found

    def feeds(self, model: PreTrainedModel) -> list[Feed]:
        """Return value → attention output, ReLU's up → down, the last norm → head, and ELECTRA's projection."""
        found: list[Feed] = []
        projection = getattr(model.base_model, "embeddings_project", None)
        if projection is not None:
            found.append((self.embeddings(model).LayerNorm, (projection,)))  # type: ignore[arg-type]
        bends = getattr(model.config, "hidden_act", None) or getattr(model.config, "activation", None)
        for layer in self.layers(model):
            found.append((layer.value, (layer.attended,)))
            if bends == "relu":
                found.append((layer.up, (layer.down,)))
        head = self.head(model)
        reader = head.dense if head.dense is not None else head.out
        if reader is not None:
            found.append((self.stream_norms(model)[-1], (reader,)))
        return found

    def made(self, kind: type[PreTrainedModel], config: PretrainedConfig) -> PreTrainedModel:
        """Build a model of a config, with new weights; its layers are as wide as the config says of each."""
        model = super().made(kind, config)
        return narrow(model, self.layers(model))

    def evened(self, model: PreTrainedModel) -> PreTrainedModel:
        """Return the model with layers of one width: itself, or a copy filled with zeros, simulated integers included."""
        if layer_widths(model.config) is None:
            return model
        twin = copy.deepcopy(model)
        fill(twin, self.layers(twin), self.shape_of(model.config).ffn)
        return twin

    def form_notes(self, model: PreTrainedModel) -> list[str]:
        """Return how checkpoints state layers with widths of their own, with both counts of parameters."""
        shape, own = self.shape_of(model.config), self.parameters_of(model).total
        if shape.ffns is None:
            return []
        # A unit has a row and a bias in the one layer, and a column in the other.
        zeros = sum(shape.ffn - units for units in shape.ffns) * (2 * shape.hidden + 1)
        return [
            f"Its layers have {', '.join(map(str, shape.ffns))} feed-forward units, and so have ONNX and OpenVINO files: "
            f"{own:,} parameters. A stock config states one width, so checkpoints that transformers opens have {shape.ffn} in "
            f"each layer, narrower ones filled with zeros: {own + zeros:,} parameters, and the same answers."
        ]

    def save(self, model: PreTrainedModel, folder: Path) -> None:
        """Write a checkpoint whose config says how wide each layer is, if they differ; its tensors have one width."""
        stock = self.evened(model)
        set_layer_widths(stock.config, layer_widths(model.config))
        stock.save_pretrained(folder)

    def reopened(self, model: PreTrainedModel) -> PreTrainedModel:
        """Make the layers of a saved model as wide as its config says. Raises ConfigMismatch if that loses weights."""
        if layer_widths(model.config) is not None:
            check_filled(model, self.layers(model))
            narrow(model, self.layers(model))
        return model

    def as_sent(self, config: PretrainedConfig) -> None:
        """Remove the widths of single layers: an uploaded checkpoint has one width, which its tensors have, too."""
        set_layer_widths(config, None)

    def shape_after(self, shape: Shape, plan: PruningPlan) -> Shape:
        """Return the shape that a plan leads to; each layer keeps feed-forward units of its own. Raises ValueError."""
        others = {key: units for key, units in plan.kept.items() if axis_and_layer(key)[0] != "ffn"}
        found = super().shape_after(shape, replace(plan, kept=others))
        layers = plan.layers if plan.layers is not None else range(shape.layers)
        kept = [(number, plan.of("ffn", number)) for number in layers]
        return found.with_ffns([units_at(shape, "ffn", number) if own is None else len(own) for number, own in kept])

    def declared(self, config: PretrainedConfig, architecture: str, prefix: str) -> Tensors:
        """Return the tensors of a model with their widths."""
        shape, head = self.shape_of(config), heads.of_architecture(architecture)
        bare = encoder_tensors(self.kind, shape, config.max_position_embeddings, self.types(config))
        found = {f"{prefix}{name}": widths for name, widths in {**bare, **pooler_tensors(self.kind, shape)}.items()}
        return found if head is None else {**found, **head_tensors(self.kind, shape, head, config.num_labels)}

    def after_cut(self, cut: Cut, name: str, tensor: Tensor) -> Tensor:
        """Scale the queries of narrower heads: stock models divide by the root of the head size."""
        if f".{self.names.parts['query']}." not in name:
            return tensor
        before, after = (config.hidden_size // config.num_attention_heads for config in (cut.before, cut.config))
        return scaled(tensor, math.sqrt(after / before))

    def _set_widths(self, config: PretrainedConfig, shape: Shape) -> None:
        if shape.embedding == shape.hidden:
            raise ValueError(f"{shape.hidden} channels, as many as the tables have: the projection cannot be expressed")
        config.hidden_size, config.num_attention_heads = shape.hidden, shape.heads
        setattr(config, self.names.keys["ffn"][0], shape.ffn)
        set_layer_widths(config, shape.ffns)
        if "embedding" in self.names.keys:
            config.embedding_size = shape.embedding or shape.hidden

    def _first_position(self, config: PretrainedConfig) -> int:
        """Return the row of the position table that a text's first token has."""
        first = self.names.first_position
        return int(config.pad_token_id) + 1 if first is None else first
