"""What all families share: post-norm encoders of stock transformers, taken apart by their modules and not by their names.

One residual stream (`hidden`) runs through all layers and is normalized by LayerNorm after each addition;
`hidden = heads × head size`. Channels of the stream are chosen once for the model; heads, channels of heads and feed-forward
units for each layer. What lies between the stream and a classifier (a pooler, a dense layer) reads the stream, but its
outputs are a space of their own, so they are chosen apart.

A family says which module is which (`_blocks`, `_layer`, `head`) and how its config names the widths; everything else is
here, and holds for every head class of the family, since these share the encoder.
"""

import copy
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PretrainedConfig, PreTrainedModel

from compression.models.adapters.structure import SPECIAL_IDS, Attention, Axes, EncoderLayer, Head, PruningPlan
from compression.schema.report.measurements import Parameters, Shape


class PostNormEncoder:
    """The shared implementation, with the names of BERT's own config and modules."""

    ffn_key = "intermediate_size"
    attention = "sdpa"
    shallow: tuple[str, ...] = ("embeddings",)
    """Names of modules before the first layer, or beside them all."""

    def shape_of(self, config: PretrainedConfig) -> Shape:
        """Read the widths from a stock config."""
        return Shape(
            layers=config.num_hidden_layers,
            hidden=config.hidden_size,
            heads=config.num_attention_heads,
            ffn=getattr(config, self.ffn_key),
            vocabulary=config.vocab_size,
        )

    def max_positions(self, config: PretrainedConfig) -> int:
        """Say how many tokens a text may have."""
        return int(config.max_position_embeddings)

    def types(self, config: PretrainedConfig) -> int:
        """Count the token types that the model tells apart; fewer than two means that it takes no token_type_ids."""
        return int(config.type_vocab_size)

    def biases(self, config: PretrainedConfig) -> tuple[()]:  # noqa: ARG002 (the protocol's)
        """No config asks for biases: they are always there."""
        return ()

    def layers(self, model: PreTrainedModel) -> list[EncoderLayer]:
        """Return the encoder's layers, shallow first."""
        return [self._layer(block) for block in self._blocks(model)]

    def attentions(self, model: PreTrainedModel) -> list[Attention]:
        """Return where each layer's queries, keys and values are made, shallow first."""
        layers = self.layers(model)
        return [Attention((layer.query, layer.key, layer.value), lambda *said: said) for layer in layers]

    def embeddings(self, model: PreTrainedModel) -> nn.Module:
        """Return the module that holds the token, position and type tables."""
        module: nn.Module = model.base_model.embeddings
        return module

    def head(self, model: PreTrainedModel) -> Head:
        """Return what follows the encoder."""
        answer: Any = getattr(model, "classifier", None) or getattr(model, "qa_outputs", None)
        if hasattr(answer, "out_proj"):
            return Head(dense=answer.dense, out=answer.out_proj)
        return Head(dense=self._pooler(model), out=answer)

    def stream_norms(self, model: PreTrainedModel) -> list[nn.Module]:
        """Return every module whose output is the residual stream, the embeddings' first."""
        first: nn.Module = self._stream_start(model)
        return [first, *(norm for layer in self.layers(model) for norm in (layer.attended_norm, layer.norm))]

    def stream_makers(self, model: PreTrainedModel) -> list[Tensor]:
        """Return the weights that write the stream, each (hidden, inputs)."""
        return self._first_makers(model) + [
            part.weight for layer in self.layers(model) for part in (layer.attended, layer.down)
        ]

    def stream_readers(self, model: PreTrainedModel) -> list[Tensor]:
        """Return the weights that read the stream, each (outputs, hidden)."""
        layers, head = self.layers(model), self.head(model)
        last = head.dense or head.out
        parts = [part for layer in layers for part in (layer.query, layer.key, layer.value, layer.up)]
        return [part.weight for part in [*parts, *([last] if last is not None else [])]]

    def head_scores(self, scores: list[Tensor]) -> list[Tensor]:
        """Make the scores of each layer's heads such that a choice by them can be built. (heads,) each -> the same."""
        return scores

    def layer_parameters(self, model: PreTrainedModel) -> list[list[nn.Parameter]]:
        """Return the parameters of each encoder layer, shallow first."""
        return [list(block.parameters()) for block in self._blocks(model)]

    def quantization_group(self, name: str) -> int:
        """Say how deep a module of this name lies: 0 the embeddings, 1 and on the layers, a large number what follows them."""
        parts = name.split(".")
        if "layer" in parts:
            return 1 + int(parts[parts.index("layer") + 1])
        return 0 if set(self.shallow) & set(parts) else 10_000

    def parameters_of(self, model: PreTrainedModel) -> Parameters:
        """Count elements of unique parameters, those of the token, position and type tables apart."""
        tables = {id(p): p.numel() for m in _tables(self.embeddings(model)) for p in m.parameters()}
        unique = {id(p): p.numel() for p in model.parameters()}
        embedding, total = sum(tables.values()), sum(unique.values())
        return Parameters(total=total, embedding=embedding, other=total - embedding)

    def everything(self, model: PreTrainedModel) -> PruningPlan:
        """Return the choice that keeps the model as it is."""
        return _all_of(self.shape_of(model.config))

    @torch.no_grad()
    def narrowed(self, model: PreTrainedModel, kept: PruningPlan) -> PreTrainedModel:
        """Build the stock model of the narrower stock config and fill it with the kept slices of `model`.

        Removing feed-forward units, heads or channels of heads alone equals the dense model with those units masked, exactly;
        removing stream channels does not, because LayerNorm then takes its mean and variance over fewer of them.
        """
        if kept.layers is not None:
            model = self.without_layers(model, list(kept.layers))
        config = copy.deepcopy(model.config)
        self._set_widths(config, kept)
        small = _stock(model, config)
        axes = self._axes(model, kept)
        for name, target in small.named_parameters():
            path, _, leaf = name.rpartition(".")
            source = model.get_submodule(path)
            rows, columns = axes.get(source, (None, None))
            weight = getattr(source, leaf)
            weight = weight if rows is None else weight[rows]
            target.copy_(weight[:, columns] if leaf == "weight" and columns is not None else weight)
        for layer in self.layers(small):
            for parameter in layer.query.parameters():
                parameter.mul_(kept.query_scale(self._head_size(model)))
        return small

    def drawn(self, model: PreTrainedModel, shape: Shape) -> PreTrainedModel:
        """Build a stock model like `model` with other widths and layers, its weights drawn anew. The vocabulary stays."""
        config = copy.deepcopy(model.config)
        self._set_widths(config, _all_of(shape))
        config.num_hidden_layers = shape.layers
        return _stock(model, config)

    @torch.no_grad()
    def without_layers(self, model: PreTrainedModel, keep: list[int]) -> PreTrainedModel:
        """Build the stock model that has only the layers named, in that order. keep: numbers from 0, at least one.

        Raises ValueError where a number is not a layer's, or none is left.
        """
        blocks = self._blocks(model)
        if not keep or not all(0 <= number < len(blocks) for number in keep):
            raise ValueError(f"layers {keep} of a model that has {len(blocks)}")
        config = copy.deepcopy(model.config)
        config.num_hidden_layers = len(keep)
        small = _stock(model, config)
        moved = zip(self._blocks(small), (blocks[number] for number in keep), strict=True)
        sources = {new: old for block, other in moved for new, old in zip(block.parameters(), other.parameters(), strict=True)}
        own = dict(model.named_parameters())
        for name, target in small.named_parameters():
            target.copy_(sources[target] if target in sources else own[name])
        return small

    @torch.no_grad()
    def with_vocabulary(self, model: PreTrainedModel, kept_token_ids: list[int]) -> PreTrainedModel:
        """Build the stock model that knows only the tokens named: old ids, each once; their order gives the new ids.

        Special tokens that the config names get their new ids, those that are dropped become None. Raises ValueError where
        an id is not in the table or named twice, or where the padding token is dropped or `fixed_tokens` move.
        """
        old = model.config
        if len(set(kept_token_ids)) != len(kept_token_ids) or not set(kept_token_ids) <= set(range(old.vocab_size)):
            raise ValueError("the ids to keep are not different rows of the token table")
        if old.pad_token_id is not None and old.pad_token_id not in kept_token_ids:
            raise ValueError(f"the padding token {old.pad_token_id} cannot be dropped")
        fixed = self.fixed_tokens(old)
        if tuple(kept_token_ids[: len(fixed)]) != fixed:
            raise ValueError(f"the first {len(fixed)} tokens must keep their ids: positions are counted from the padding's")
        new_ids = {old_id: new_id for new_id, old_id in enumerate(kept_token_ids)}
        config = copy.deepcopy(old)
        config.vocab_size = len(kept_token_ids)
        for key in SPECIAL_IDS:
            if isinstance(getattr(config, key, None), int):
                setattr(config, key, new_ids.get(getattr(config, key)))
        small = _stock(model, config)
        tokens = model.get_input_embeddings().weight
        own = dict(model.named_parameters())
        for name, target in small.named_parameters():
            target.copy_(own[name][kept_token_ids] if own[name] is tokens else own[name])
        return small

    def fixed_tokens(self, config: PretrainedConfig) -> tuple[int, ...]:  # noqa: ARG002 (families that count positions so use it)
        """Return the first token ids, which must keep their numbers when the vocabulary shrinks."""
        return ()

    def _blocks(self, model: PreTrainedModel) -> nn.ModuleList:
        blocks: nn.ModuleList = model.base_model.encoder.layer
        return blocks

    def _layer(self, block: Any) -> EncoderLayer:
        return EncoderLayer(
            query=block.attention.self.query,
            key=block.attention.self.key,
            value=block.attention.self.value,
            attended=block.attention.output.dense,
            attended_norm=block.attention.output.LayerNorm,
            up=block.intermediate.dense,
            down=block.output.dense,
            norm=block.output.LayerNorm,
        )

    def _pooler(self, model: PreTrainedModel) -> nn.Linear | None:
        pooler = getattr(model.base_model, "pooler", None)
        return pooler.dense if pooler is not None else None

    def _stream_start(self, model: PreTrainedModel) -> Any:
        return model.base_model.embeddings.LayerNorm

    def _first_makers(self, model: PreTrainedModel) -> list[Tensor]:
        return [table.weight.t() for table in _tables(self.embeddings(model))]

    def _head_size(self, model: PreTrainedModel) -> int:
        shape = self.shape_of(model.config)
        return shape.hidden // shape.heads

    def _set_widths(self, config: PretrainedConfig, kept: PruningPlan) -> None:
        config.hidden_size = len(kept.hidden)
        config.num_attention_heads = len(kept.heads[0])
        setattr(config, self.ffn_key, len(kept.ffn[0]))

    def _axes(self, model: PreTrainedModel, kept: PruningPlan) -> dict[nn.Module, Axes]:
        """Say of every module whose widths are coupled which of its outputs and inputs stay."""
        head, layers, attention = self.head(model), self.layers(model), kept.attention_rows(self._head_size(model))
        axes: dict[nn.Module, Axes] = dict.fromkeys(self.stream_norms(model), (kept.hidden, None))
        axes |= dict.fromkeys(_tables(self.embeddings(model)), (None, kept.hidden))
        for layer, (compared, said), units in zip(layers, attention, kept.ffn, strict=True):
            axes |= dict.fromkeys((layer.query, layer.key), (compared, kept.hidden))
            axes |= {layer.value: (said, kept.hidden), layer.attended: (kept.hidden, said)}
            axes |= {layer.up: (units, kept.hidden), layer.down: (kept.hidden, units)}
        if head.dense is not None:
            axes[head.dense] = (kept.pooled, kept.hidden)
        if head.out is not None:
            axes[head.out] = (None, kept.pooled if head.dense is not None else kept.hidden)
        return axes


def linear_modules(model: nn.Module) -> Iterator[nn.Linear]:
    """Yield every linear layer, fake-quantized or not."""
    for module in model.modules():
        if isinstance(module, nn.Linear):
            yield module


def _all_of(shape: Shape) -> PruningPlan:
    return PruningPlan(
        hidden=torch.arange(shape.hidden),
        pooled=torch.arange(shape.hidden),
        heads=tuple(torch.arange(shape.heads) for _ in range(shape.layers)),
        ffn=tuple(torch.arange(shape.ffn) for _ in range(shape.layers)),
    )


def _tables(module: nn.Module) -> list[nn.Embedding]:
    return [found for found in module.modules() if isinstance(found, nn.Embedding)]


def _stock(model: PreTrainedModel, config: PretrainedConfig) -> PreTrainedModel:
    """Build a model of the same stock class, type of number and mode from another config."""
    small = type(model)(config).to(next(model.parameters()).dtype)
    small.train(model.training)
    return small
