"""Adapt decoders: pre-norm layers on one residual stream, normalized before each part reads it.

A cut selects channels of the stream once for the model, and everything else per layer: groups (a KV head with the query heads
that read it; the head size stays), feed-forward units, experts, their units and the ranks of latent attention. Unless a family
says otherwise, the cut model equals the whole model with the same parts masked, except for rounding: the weights of RMSNorms
compensate for fewer channels.
"""

import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor, nn
from transformers import PretrainedConfig, PreTrainedModel

from compression.models.adapters.adapter import ArchitectureAdapter
from compression.models.adapters.cutting import Cut, scaled
from compression.models.adapters.structure import Attention, DecoderLayer, Feed, Head, Tap
from compression.models.architectures.decoder_configs import Biases, check_decoder
from compression.models.architectures.decoder_numbers import biases_in, keys_at, numbers_of, shape_of
from compression.models.architectures.decoder_tensor_names import FAMILIES, Numbers, decoder_tensors
from compression.models.architectures.pruning_groups import Tensors, Width
from compression.schema.report.measurements import Shape

OUTS = ("lm_head", "score", "qa_outputs")
"""Names, in the stock head classes, of the layers that read the stream last."""


class PreNormDecoder(ArchitectureAdapter):
    """One family of decoders by its model_type, with the names of Llama's config and modules."""

    owns_epsilon = True  #: whether the config's ε applies only to the norms over the stream
    graph_writer = "compression.export.onnx.decoder:WRITER"

    def __init__(self, kind: str) -> None:
        self.kind, self.names = kind, FAMILIES[kind]
        self.block, self.final_norm, self.tables = self.names.block, self.names.final_norm, self.names.tables
        self.shallow = tuple(name.removesuffix(".weight") for name in self.tables)

    def shape_of(self, config: PretrainedConfig) -> Shape:
        """Read the widths from a stock config."""
        return shape_of(self._numbers(config))

    def max_positions(self, config: PretrainedConfig) -> int:
        """Return the maximum number of tokens in a text."""
        return int(config.max_position_embeddings)

    def biases(self, config: PretrainedConfig) -> Biases:
        """Return the parts of a layer that have biases because the config enables them."""
        return biases_in(self.kind, self._numbers(config))

    def head(self, model: PreTrainedModel) -> Head:
        """Return the head after the decoder: the stock classes have one layer there, or none."""
        return Head(dense=None, out=next((getattr(model, name) for name in OUTS if hasattr(model, name)), None))

    def is_unread(self, config: PretrainedConfig, name: str) -> bool:
        """Return whether a tensor belongs to the layers after the last one, which predict tokens further ahead."""
        found, last = re.match(rf"({re.escape(self.names.prefix)})?{self.block}\.(\d{{1,4}})\.", name), config.num_hidden_layers
        return found is not None and last <= int(found[2]) < last + self._numbers(config).get("ahead", 0)

    def layers(self, model: PreTrainedModel) -> list[DecoderLayer]:
        """Return the decoder's layers, shallow first."""
        return [self._layer(block) for block in self._blocks(model)]

    def attentions(self, model: PreTrainedModel) -> list[Attention]:
        """Return the attention projections of each layer, shallow first."""
        shape = self.shape_of(model.config)
        return [self._made(block, shape) for block in self._blocks(model)]

    def feeds(self, model: PreTrainedModel) -> list[Feed]:
        """Return the norms and layers whose channels can be scaled with the layers that read them, in model order."""
        found = [feed for block in self._blocks(model) for feed in self._feeds(block)]
        head = self.head(model).out
        if head is not None and head.weight is not model.get_input_embeddings().weight:
            found.append((model.base_model.get_submodule(self.final_norm), (head,)))
        return found

    def stream_norms(self, model: PreTrainedModel) -> list[nn.Module]:
        """Return every norm that reads the residual stream, shallow first."""
        last = model.base_model.get_submodule(self.final_norm)
        return [*(norm for layer in self.layers(model) for norm in layer.norms), last]

    def observed(self, model: PreTrainedModel) -> Mapping[str, Sequence[Tap]]:
        """Return the taps at which the units of each group are observed. No module shows what happens inside fused experts."""
        found: dict[str, list[Tap]] = {"hidden": [(norm, "out") for norm in self.stream_norms(model)]}
        for number, layer in enumerate(self.layers(model)):
            found[f"heads.{number}"] = [(layer.attended, "in")]
            found[f"{'ffn' if layer.experts is None else 'shared'}.{number}"] = [(layer.down, "in")]
            for axis, rank in (("query_rank", layer.query_rank), ("kv_rank", layer.kv_rank)):
                if rank is not None:
                    found[f"{axis}.{number}"] = [(rank, "out")]
        return found

    def declared(self, config: PretrainedConfig, architecture: str, prefix: str) -> Tensors:  # noqa: ARG002 (encoders')
        """Return the tensors of a model with their widths, with every head that decoders may have."""
        shape = self.shape_of(config)
        hidden = Width(shape.hidden, "hidden")
        outputs = {"lm_head": Width(shape.vocabulary, "vocabulary"), "score": config.num_labels, "qa_outputs": 2}
        bare = decoder_tensors(self.kind, shape, self.max_positions(config), self.biases(config))
        return {
            **{f"{prefix}{name}": widths for name, widths in bare.items()},
            **{f"{name}.weight": (rows, hidden) for name, rows in outputs.items()},
            "qa_outputs.bias": (2,),
        }

    def after_cut(self, cut: Cut, name: str, tensor: Tensor) -> Tensor:
        """Make an RMSNorm treat the remaining channels as it did when the others were 0.

        RMSNorm computes w · x / √(Σx²/n + ε). If the other channels are 0, the sum over fewer channels is the same, so only n
        changes:

            w / √(Σx²/n + ε)  =  w √(n/m) / √(Σx²/m + ε n/m)    for m channels of n:

        the weight grows by √(n/m), and ε by n/m if the config has an ε for these norms alone. In 16 bits the product is
        rounded.
        """
        width = cut.tensors.get(name, (0,))[0]
        if name.endswith("norm.weight") and isinstance(width, Width):
            return scaled(tensor, math.sqrt(width / len(tensor)))
        return tensor

    def config_at(self, old: PretrainedConfig, shape: Shape, layers: Sequence[int]) -> PretrainedConfig:
        """Return the stock config of a shape. layers: the number in `old` of each layer. Raises UnsupportedShape."""
        check_decoder(old.model_type, shape)
        config = super().config_at(old, shape, layers)
        if getattr(old, "layer_types", None) is not None:  # which layers attend only within a window
            config.layer_types = [old.layer_types[number] for number in layers]
        if self.owns_epsilon:
            config.rms_norm_eps = old.rms_norm_eps * old.hidden_size / shape.hidden
        return config

    def _numbers(self, config: PretrainedConfig) -> Numbers:
        return numbers_of(self.kind, vars(config))

    def _set_widths(self, config: PretrainedConfig, shape: Shape) -> None:
        for key, value in keys_at(self.kind, shape).items():
            setattr(config, key, value)

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

    def _layer(self, layer: Any) -> DecoderLayer:
        norms = (layer.input_layernorm, layer.post_attention_layernorm)
        return DecoderLayer(whole=layer, norms=norms, attended=layer.self_attn.o_proj, down=layer.mlp.down_proj)


def shared(values: Tensor, groups: int, times: int) -> Tensor:
    """Repeat each group's keys or values for its query heads. -> (rows, tokens, groups × times × size)"""
    return values.view(*values.shape[:-1], groups, -1).repeat_interleave(times, dim=-2).flatten(-2)
