"""What decoders share: pre-norm layers with one residual stream, normalized before each part of a layer reads it.

Channels of the stream are chosen once for the model, all else for each layer: groups (a KV head with the query heads that read
it; the head size stays), feed-forward units, and where layers have them experts, their units and the ranks of latent attention.
Unless a family says otherwise a cut computes what the whole model does with the same parts silenced, but for rounding: norms
are RMSNorms, which can be mended (`slices.rms_norm`).

A family says what its layers' weights are called and how its config names the widths; everything else is here, and holds for
every head class of the family, since these share the decoder.
"""

import copy
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PretrainedConfig, PreTrainedModel

from compression.models.adapters import weight_slices
from compression.models.adapters.structure import Attention, DecoderLayer, Feed, Head, PruningPlan, head_rows
from compression.models.adapters.weight_slices import Slices, taken
from compression.models.architectures.decoder_configs import Biases, biases_of, check_decoder
from compression.models.linear_layers import is_linear, matrix
from compression.schema.report.measurements import Parameters, Shape


@dataclass(frozen=True)
class Cut:
    """What a choice makes of a model, before any weight is looked at.

    config: the narrower stock one; slices: what stays of each weight; layers: where each layer comes from; stack: what names of
    layers begin with.
    """

    config: PretrainedConfig
    slices: Slices
    layers: Sequence[int]
    stack: str

    def source(self, name: str) -> str:
        """Say where in the whole model a parameter of the narrower one comes from."""
        if not name.startswith(self.stack):
            return name
        number, _, rest = name.removeprefix(self.stack).partition(".")
        return f"{self.stack}{self.layers[int(number)]}.{rest}"

    def of(self, name: str, whole: Tensor) -> Tensor:
        """Cut a parameter. name: in the narrower model; whole: its source in the whole one."""
        return self.slices.get(self.source(name), taken())(whole)


OUTS = ("lm_head", "score", "qa_outputs")
"""Names of what reads the stream last, in the stock head classes."""


class PreNormDecoder:
    """The shared implementation, with the names of Llama's own config and modules."""

    attention = "sdpa"
    stack = "layers"
    """The name of the list of layers."""
    final_norm = "norm"
    tables: tuple[str, ...] = ("embed_tokens",)
    """Names of the tables whose sum starts the stream, the tokens' first."""
    owns_epsilon = True
    """Whether the config's ε is of the norms over the stream alone."""

    def shape_of(self, config: PretrainedConfig) -> Shape:
        """Read the widths from a stock config."""
        heads = config.num_attention_heads
        return Shape(
            layers=config.num_hidden_layers,
            hidden=config.hidden_size,
            heads=heads,
            ffn=config.intermediate_size,
            vocabulary=config.vocab_size,
            groups=config.num_key_value_heads,
            head_size=getattr(config, "head_dim", None) or config.hidden_size // heads,
        )

    def max_positions(self, config: PretrainedConfig) -> int:
        """Say how many tokens a text may have."""
        return int(config.max_position_embeddings)

    def types(self, config: PretrainedConfig) -> int:  # noqa: ARG002 (the protocol's)
        """There are no token types."""
        return 0

    def fixed_tokens(self, config: PretrainedConfig) -> tuple[int, ...]:  # noqa: ARG002
        """No token has to keep its number."""
        return ()

    def head(self, model: PreTrainedModel) -> Head:
        """Return what follows the decoder: the stock classes have one layer there, or none."""
        return Head(dense=None, out=next((getattr(model, name) for name in OUTS if hasattr(model, name)), None))

    def is_unread(self, config: PretrainedConfig, name: str) -> bool:  # noqa: ARG002 (some families' own)
        """Say whether a tensor of a checkpoint is one that its authors publish and stock code leaves aside."""
        return False

    def biases(self, config: PretrainedConfig) -> Biases:
        """Say where linear layers have biases because the config asks for them."""
        attention, mlp = (bool(getattr(config, key, False)) for key in ("attention_bias", "mlp_bias"))
        return biases_of(config.model_type, attention=attention, mlp=mlp)

    def blocks(self, model: PreTrainedModel) -> list[DecoderLayer]:
        """Return the decoder's layers, shallow first."""
        return [self._block(block) for block in self._stack(model)]

    def attentions(self, model: PreTrainedModel) -> list[Attention]:
        """Return where each layer's queries, keys and values are made, shallow first."""
        shape = self.shape_of(model.config)
        return [self._made(block, shape) for block in self._stack(model)]

    def feeds(self, model: PreTrainedModel) -> list[Feed]:
        """List the norms and layers whose channels can be scaled in the layers that read them as well, in model order."""
        found = [feed for block in self._stack(model) for feed in self._feeds(block)]
        head = self.head(model).out
        if head is not None and head.weight is not model.get_input_embeddings().weight:
            found.append((model.base_model.get_submodule(self.final_norm), (head,)))
        return found

    def outputs_kept(self, model: PreTrainedModel, kept: PruningPlan) -> dict[nn.Module, Tensor]:
        """Say of the linear layers which outputs a cut leaves. -> layer of `model` → (outputs that stay,)

        A layer that a cut scales besides is left out: its outputs are not those of the whole model.
        """
        cuts = self._slices(model, kept, self._checked(model, kept))
        found = {}
        for name, module in model.named_modules():
            if f"{name}.bias" in cuts and is_linear(module):
                rows = cuts[f"{name}.bias"](torch.arange(len(matrix(module)), dtype=torch.float64))
                if rows.equal(rows.round()):
                    found[module] = rows.long()
        return found

    def stream_norms(self, model: PreTrainedModel) -> list[nn.Module]:
        """Return every norm that reads the residual stream, shallow first."""
        last = model.base_model.get_submodule(self.final_norm)
        return [*(norm for block in self.blocks(model) for norm in block.norms), last]

    def head_scores(self, scores: list[Tensor]) -> list[Tensor]:
        """Each layer's groups are chosen by its own scores. (groups,) each -> the same."""
        return scores

    def layer_parameters(self, model: PreTrainedModel) -> list[list[nn.Parameter]]:
        """Return the parameters of each layer, shallow first."""
        return [list(block.whole.parameters()) for block in self.blocks(model)]

    def quantization_group(self, name: str) -> int:
        """Say how deep a module of this name lies: 0 the embeddings, 1 and on the layers, a large number what follows them."""
        parts = name.split(".")
        if self.stack in parts:
            return 1 + int(parts[parts.index(self.stack) + 1])
        return 0 if set(self.tables) & set(parts) else 10_000

    def parameters_of(self, model: PreTrainedModel) -> Parameters:
        """Count elements of unique parameters, those of the token and position tables apart. A tied head is its table."""
        tables = {id(p): p.numel() for name in self.tables for p in model.base_model.get_submodule(name).parameters()}
        unique = {id(p): p.numel() for p in model.parameters()}
        embedding, total = sum(tables.values()), sum(unique.values())
        return Parameters(total=total, embedding=embedding, other=total - embedding)

    def everything(self, model: PreTrainedModel) -> PruningPlan:
        """Return the choice that keeps the model as it is."""
        shape = self.shape_of(model.config)
        each = range(shape.layers)
        return PruningPlan(
            hidden=torch.arange(shape.hidden),
            pooled=torch.arange(0),
            heads=tuple(torch.arange(shape.groups or shape.heads) for _ in each),
            ffn=tuple(torch.arange(shape.ffn) for _ in each),
        )

    def narrowed(self, model: PreTrainedModel, kept: PruningPlan) -> PreTrainedModel:
        """Build the stock model of the narrower stock config and fill it with the kept slices of `model`.

        Raises UnsupportedShape where the config cannot say the shape, ValueError where `kept` is not of one shape.
        """
        return self._built(model, self.cut(model, kept))

    def cut(self, model: PreTrainedModel, kept: PruningPlan) -> Cut:
        """Say what `narrowed` would do. The model's weights need not be there.

        Raises UnsupportedShape where the config cannot say the shape, ValueError where `kept` is not of one shape.
        """
        layers = self._checked(model, kept)
        shape = self._shape_of_kept(model.config, kept, layers)
        config = self._config(model.config, shape, layers)
        return Cut(config, self._slices(model, kept, layers), layers, f"{prefix(model)}{self.stack}.")

    def drawn(self, model: PreTrainedModel, shape: Shape) -> PreTrainedModel:
        """Build a stock model like `model` with other widths and layers, its weights drawn anew. The vocabulary stays.

        Raises UnsupportedShape where the config cannot say the shape.
        """
        config = self._config(model.config, shape, range(shape.layers))
        small = type(model)(config).to(next(model.parameters()).dtype)
        small.train(model.training)
        return small

    def without_layers(self, model: PreTrainedModel, keep: list[int]) -> PreTrainedModel:
        """Build the stock model that has only the layers named, in that order. keep: numbers from 0, at least one.

        Raises ValueError where a number is not a layer's, or none is left.
        """
        whole = self.everything(model)
        if not keep or not all(0 <= number < len(whole.heads) for number in keep):
            raise ValueError(f"layers {keep} of a model that has {len(whole.heads)}")
        return self.narrowed(model, whole.of_layers(keep))

    def with_vocabulary(self, model: PreTrainedModel, kept_token_ids: list[int]) -> PreTrainedModel:
        """Build the stock model that knows only the tokens named: old ids, each once; their order gives the new ids.

        The logits of these stay what they were. Special tokens that the config names get their new ids, those that are dropped
        are named no more. Raises ValueError where an id is not in the table or named twice, or the padding token is dropped.
        """
        old = model.config
        if len(set(kept_token_ids)) != len(kept_token_ids) or not set(kept_token_ids) <= set(range(old.vocab_size)):
            raise ValueError("the ids to keep are not different rows of the token table")
        if old.pad_token_id is not None and old.pad_token_id not in kept_token_ids:
            raise ValueError(f"the padding token {old.pad_token_id} cannot be dropped")
        new_ids = {old_id: new_id for new_id, old_id in enumerate(kept_token_ids)}
        config = copy.deepcopy(old)
        config.vocab_size = len(kept_token_ids)
        _renumber(config, new_ids)
        rows = taken(torch.tensor(kept_token_ids))
        where = prefix(model)
        cuts: Slices = {f"{where}{self.tables[0]}.weight": rows, "lm_head.weight": rows}
        small = self._built(model, Cut(config, cuts, range(old.num_hidden_layers), f"{where}{self.stack}."))
        _renumber(getattr(small, "generation_config", None), new_ids)
        return small

    def _stack(self, model: PreTrainedModel) -> Iterator[nn.Module]:
        stack: nn.Module = model.base_model.get_submodule(self.stack)
        return stack.children()

    def _made(self, layer: Any, shape: Shape) -> Attention:
        attention, groups = layer.self_attn, shape.groups or shape.heads

        def read(query: Tensor, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor, Tensor]:
            times = shape.heads // groups
            return query, shared(key, groups, times), shared(value, groups, times)

        return Attention((attention.q_proj, attention.k_proj, attention.v_proj), read)

    def _feeds(self, layer: Any) -> list[Feed]:
        attention, mlp = layer.self_attn, layer.mlp
        return [
            (layer.input_layernorm, (attention.q_proj, attention.k_proj, attention.v_proj)),
            (layer.post_attention_layernorm, (mlp.gate_proj, mlp.up_proj)),
            (mlp.up_proj, (mlp.down_proj,)),
        ]

    def _block(self, layer: Any) -> DecoderLayer:
        norms = (layer.input_layernorm, layer.post_attention_layernorm)
        return DecoderLayer(whole=layer, norms=norms, attended=layer.self_attn.o_proj, down=layer.mlp.down_proj)

    @torch.no_grad()
    def _built(self, model: PreTrainedModel, cut: Cut) -> PreTrainedModel:
        """Make the model of a config and fill it from `model`."""
        small = type(model)(cut.config)
        own = dict(stored(model))
        for name, target in stored(small):
            value = cut.of(name, own[cut.source(name)].detach())
            if value.shape != target.shape:
                raise ValueError(f"{name} would be {tuple(value.shape)}, and the config says {tuple(target.shape)}")
            # Not copied into the target: routers stay in float32 in models of 16 bit, and each type is the source's.
            target.data = value
        if getattr(model, "generation_config", None) is not None:
            small.generation_config = copy.deepcopy(model.generation_config)
        small.to(next(model.parameters()).device)
        small.train(model.training)
        return small

    def _checked(self, model: PreTrainedModel, kept: PruningPlan) -> Sequence[int]:
        """Return the numbers of the layers that stay, once the choice is known to be of one shape."""
        layers = kept.layers if kept.layers is not None else range(model.config.num_hidden_layers)
        dense = [units for units, routed in zip(kept.ffn, kept.routed or (None,) * len(layers), strict=True) if routed is None]
        for what, chosen in (("groups", kept.heads), ("units", dense), *_ranks(kept)):
            if len({len(each) for each in chosen}) > 1 or (what != "units" and len(chosen) != len(layers)):
                raise ValueError(f"{len(layers)} layers need as many {what} each: {[len(each) for each in chosen]}")
        return layers

    def _shape_of_kept(self, config: PretrainedConfig, kept: PruningPlan, layers: Sequence[int]) -> Shape:
        """Say which shape a choice comes to."""
        shape = self.shape_of(config)
        groups = len(kept.heads[0])
        widths = {"layers": len(layers), "hidden": len(kept.hidden), "groups": groups}
        widths["heads"] = groups * (shape.heads // (shape.groups or shape.heads))
        dense = [units for units, routed in zip(kept.ffn, kept.routed or (None,) * len(layers), strict=True) if routed is None]
        return shape.model_copy(update={**widths, "ffn": len(dense[0]) if dense else shape.ffn})

    def _config(self, old: PretrainedConfig, shape: Shape, layers: Sequence[int]) -> PretrainedConfig:
        """Say a shape with a stock config. layers: the number in `old` of each layer. Raises UnsupportedShape."""
        check_decoder(old.model_type, shape)
        config = copy.deepcopy(old)
        config.num_hidden_layers = shape.layers
        if getattr(old, "layer_types", None) is not None:  # which layers attend within a window alone
            config.layer_types = [old.layer_types[number] for number in layers]
        if self.owns_epsilon:
            config.rms_norm_eps = old.rms_norm_eps * old.hidden_size / shape.hidden
        self._set_widths(config, shape)
        return config

    def _set_widths(self, config: PretrainedConfig, shape: Shape) -> None:
        config.hidden_size, config.intermediate_size = shape.hidden, shape.ffn
        config.num_attention_heads, config.num_key_value_heads = shape.heads, shape.groups
        config.head_dim = shape.head_size

    def _slices(self, model: PreTrainedModel, kept: PruningPlan, layers: Sequence[int]) -> Slices:
        """Say of every weight whose widths are coupled what stays of it."""
        where = prefix(model)
        found: Slices = {f"{where}{table}.weight": taken(None, kept.hidden) for table in self.tables}
        found |= {f"{name}.weight": taken(None, kept.hidden) for name in OUTS}
        found |= self._norm(f"{where}{self.final_norm}", kept.hidden, model.config)
        for place, number in enumerate(layers):
            found |= self._layer(f"{where}{self.stack}.{number}", place, number, kept, model.config)
        return found

    def _norm(self, name: str, kept: Tensor, config: PretrainedConfig) -> Slices:
        return weight_slices.rms_norm(name, kept, config.hidden_size)

    def _layer(self, name: str, place: int, number: int, kept: PruningPlan, config: PretrainedConfig) -> Slices:
        """Say what stays of a layer. place: where it comes to lie and is found in `kept`; number: where it lies."""
        del number
        found: Slices = {}
        for norm in ("input_layernorm", "post_attention_layernorm"):
            found |= self._norm(f"{name}.{norm}", kept.hidden, config)
        found |= self._attention(f"{name}.self_attn", place, kept, config)
        return found | self._feed_forward(f"{name}.mlp", place, kept)

    def _attention(self, name: str, place: int, kept: PruningPlan, config: PretrainedConfig) -> Slices:
        shape, groups = self.shape_of(config), kept.heads[place]
        size, each = shape.head_size or 0, shape.heads // (shape.groups or shape.heads)
        queries, keys = head_rows(groups, each * size), head_rows(groups, size)
        return {
            **weight_slices.linear(f"{name}.q_proj", queries, kept.hidden),
            **weight_slices.linear(f"{name}.k_proj", keys, kept.hidden),
            **weight_slices.linear(f"{name}.v_proj", keys, kept.hidden),
            **weight_slices.linear(f"{name}.o_proj", kept.hidden, queries),
        }

    def _feed_forward(self, name: str, place: int, kept: PruningPlan) -> Slices:
        return gated(name, kept.ffn[place], kept.hidden)


def gated(name: str, units: Tensor, hidden: Tensor) -> Slices:
    """Say what stays of a gated feed-forward part: units and stream channels."""
    return {
        **weight_slices.linear(f"{name}.gate_proj", units, hidden),
        **weight_slices.linear(f"{name}.up_proj", units, hidden),
        **weight_slices.linear(f"{name}.down_proj", hidden, units),
    }


def shared(said: Tensor, groups: int, times: int) -> Tensor:
    """Give each query head its copy of what its group says.

    said: (rows, tokens, groups × size) -> (rows, tokens, groups × times × size).
    """
    return said.view(*said.shape[:-1], groups, -1).repeat_interleave(times, dim=-2).flatten(-2)


def prefix(model: PreTrainedModel) -> str:
    """Return what names of the decoder's parameters begin with in this class."""
    return "" if model.base_model is model else f"{model.base_model_prefix}."


def stored(model: PreTrainedModel) -> Iterator[tuple[str, Tensor]]:
    """Yield parameters and buffers that a checkpoint holds, tied ones once; not the tables that a config alone implies."""
    yield from model.named_parameters()
    saved = model.state_dict(keep_vars=True)
    yield from ((name, buffer) for name, buffer in model.named_buffers() if name in saved)


def _ranks(kept: PruningPlan) -> list[tuple[str, Sequence[Tensor]]]:
    named = (("channels of the query rank", kept.query_ranks), ("channels of the KV rank", kept.kv_ranks))
    return [(what, chosen) for what, chosen in named if chosen]


def _renumber(named: Any, new_ids: dict[int, int]) -> None:
    """Give the tokens that a config names their new ids; a list of ends keeps those that are left."""
    for key in [key for key in (vars(named) if named is not None else ()) if key.endswith("_token_id")]:
        value = getattr(named, key)
        if isinstance(value, int):
            setattr(named, key, new_ids.get(value))
        elif isinstance(value, list):
            setattr(named, key, [new_ids[each] for each in value if each in new_ids] or None)
