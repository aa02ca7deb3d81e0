"""The base adapter of all families: count, select, cut and initialize a model's tensors by name.

An adapter defines what its family's config and modules mean (`shape_of`, `layers`, `observed` …). The family's layout
(`architectures/`, torch-free) says which tensors shrink together.
"""

import copy
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PretrainedConfig, PreTrainedModel

from compression.models.adapters.cutting import Cut, same_count
from compression.models.adapters.structure import Attention, Feed, Head, Layer, PruningPlan, Tap
from compression.models.architectures.decoder_configs import Biases
from compression.models.architectures.pruning_groups import (
    WITHIN,
    PruningGroup,
    Slice,
    Tensors,
    Width,
    axis_and_layer,
    groups_of,
    shape_with,
)
from compression.models.architectures.shapes import total_of
from compression.models.linear_layers import has_matrix, is_transposed
from compression.schema.report.folding import Folding
from compression.schema.report.measurements import Parameters, Shape
from compression.schema.report.network import NetworkFacts


class ArchitectureAdapter(ABC):
    """One family's adapter. `registry.adapter_of` finds it for a model or a config, whatever the head."""

    attention = "sdpa"  #: the fastest attention implementation of the stock code
    block: str  #: the name of the list of layers in the bare model
    tables: tuple[str, ...] = ()  #: names of the token, position and type tables in the bare model, the token table first
    shallow: tuple[str, ...] = ()  #: names of modules before the first layer, or beside all layers
    shared_axes: frozenset[str] = frozenset()  #: layer axes of which all layers keep the same units
    graph_writer: str | None = None  #: "module:NAME" of the `export.onnx.graph_writer.GraphWriter`; None: graphs are traced

    @abstractmethod
    def shape_of(self, config: PretrainedConfig) -> Shape:
        """Read the widths from a stock config."""

    def network(self, config: PretrainedConfig) -> NetworkFacts | None:  # noqa: ARG002 (networks' own)
        """Return what cuts of a network of images cost; None for other models."""
        return None

    def max_positions(self, config: PretrainedConfig) -> int:  # noqa: ARG002 (some families\' own)
        """Return the maximum number of tokens in a text."""
        return 0

    def types(self, config: PretrainedConfig) -> int:  # noqa: ARG002 (some families' own)
        """Return the number of token types. With fewer than two the model takes no token_type_ids."""
        return 0

    def fixed_tokens(self, config: PretrainedConfig) -> tuple[int, ...]:  # noqa: ARG002 (some families' own)
        """Return the first token ids, which must keep their numbers when the vocabulary shrinks."""
        return ()

    def biases(self, config: PretrainedConfig) -> Biases:  # noqa: ARG002 (some families' own)
        """Return the parts of a layer that have biases because the config enables them."""
        return ()

    @abstractmethod
    def head(self, model: PreTrainedModel) -> Head:
        """Return the head after the encoder or decoder."""

    def layers(self, model: PreTrainedModel) -> Sequence[Layer]:  # noqa: ARG002 (some families\' own)
        """Return the parts of each layer, shallow first."""
        return ()

    def attentions(self, model: PreTrainedModel) -> list[Attention]:  # noqa: ARG002 (some families\' own)
        """Return the attention projections of each layer, shallow first."""
        return []

    def stream_norms(self, model: PreTrainedModel) -> list[nn.Module]:  # noqa: ARG002 (some families' own)
        """Return every norm of the residual stream, shallow first. An encoder's norms write the stream, a decoder's read it."""
        return []

    def feeds(self, model: PreTrainedModel) -> list[Feed]:  # noqa: ARG002 (some families' own)
        """Return the layers whose outputs only other linear layers read, so that factors move between them exactly."""
        return []

    @abstractmethod
    def observed(self, model: PreTrainedModel) -> Mapping[str, Sequence[Tap]]:
        """Return where each group's units are observed. Scores of several taps add up; within another group they multiply."""

    def streams(self, model: PreTrainedModel) -> Sequence[tuple[Tap, Tap]]:
        """Return where the input and the output of each layer are observed, shallow first."""
        return [((layer.whole, "in"), (layer.whole, "out")) for layer in self.layers(model)]

    def feature_maps(self, model: PreTrainedModel) -> Sequence[Tap]:  # noqa: ARG002 (networks' own)
        """Return where maps of (rows, channels, height, width) are observed that distillation compares, shallow first."""
        return ()

    def weights(self, model: PreTrainedModel, key: str) -> list[tuple[Tensor, int]]:
        """Return the matrices by whose norm a group's units are scored, each with the dimension of the units, a unit's indices
        side by side; those that make the units come first.
        """
        own = dict(model.named_parameters())

        def reads(member: Slice) -> bool:
            return member.dim == 1 and not isinstance(model.get_submodule(member.tensor.rpartition(".")[0]), nn.Embedding)

        tensors = self.tensors(model)
        members = (each for each in groups_of(tensors)[key].members if each.tensor in own and own[each.tensor].ndim > 1)
        return [side_by_side(own[each.tensor], each.dim, tensors[each.tensor]) for each in sorted(members, key=reads)]

    def group_keys(self, model: PreTrainedModel) -> tuple[str, ...]:
        """Return the names of all groups."""
        return tuple(self.groups(model))

    def readers(self, model: PreTrainedModel, key: str) -> dict[str, Tensor]:
        """Return the layers with a matrix that read a group's units, by name: each with the columns of `whole_matrix` that are
        of a unit, (units, columns). Fused experts and embedding tables are none.
        """
        found: dict[str, Tensor] = {}
        for member in self.groups(model)[key].members:
            name, _, role = member.tensor.rpartition(".")
            layer, width = model.get_submodule(name), member.width
            if role == "weight" and has_matrix(layer) and member.dim == 1 - is_transposed(layer):
                columns = torch.arange(width.repeats * width.units * width.unit_size)
                found[name] = columns.view(width.repeats, width.units, -1).transpose(0, 1).flatten(1)
        return found

    def layer_groups(self, model: PreTrainedModel) -> list[tuple[str, ...]]:
        """Return the keys of the groups that each layer has for itself, shallow first."""
        keys, count = self.group_keys(model), len(self.streams(model))
        return [tuple(key for key in keys if axis_and_layer(key)[1] == number) for number in range(count)]

    def scales(self, model: PreTrainedModel, key: str) -> list[Tensor]:  # noqa: ARG002 (networks' own)
        """Return the factors of a group's units in normalizations with running statistics, a unit's side by side."""
        return []

    def has_statistics(self, model: PreTrainedModel) -> bool:  # noqa: ARG002 (networks' own)
        """Return whether the model has running statistics, which a cut makes wrong."""
        return False

    def refresh(self, model: PreTrainedModel, batches: Iterable[Mapping[str, Any]]) -> None:  # noqa: B027 (networks' own)
        """Estimate the running statistics anew, in place. batches: arguments of the model."""

    def notes(self, config: PretrainedConfig) -> list[str]:  # noqa: ARG002 (some families' own)
        """Return what the report says of a model of this config."""
        return []

    def folding(self, config: PretrainedConfig) -> Folding | None:  # noqa: ARG002 (networks' own)
        """Return what an ONNX file of a model of this config does without; None if nothing."""
        return None

    def layer_kinds(self, config: PretrainedConfig) -> Mapping[str, int]:  # noqa: ARG002 (networks' own)
        """Return by name, in order, the kind of each layer that may go: those of one kind take the same time. Empty if all
        layers do.
        """
        return {}

    def stock(self, model: PreTrainedModel) -> PreTrainedModel | str:
        """Return the model as one of transformers' own classes, or why there is none; itself if it is of one."""
        return self.evened(model)

    def evened(self, model: PreTrainedModel) -> PreTrainedModel:
        """Return the model with layers as wide as its stock config says, and the same answers; itself if it has them."""
        return model

    def lacks_form(self, config: PretrainedConfig) -> str | None:  # noqa: ARG002 (networks' own)
        """Return why the library that a model was sent from has no model of its shape; None if it has one."""
        return None

    def form_notes(self, model: PreTrainedModel) -> list[str]:  # noqa: ARG002 (some families' own)
        """Return what a stage's row says of forms in which its model is not as it is in memory. Reads no weights."""
        return []

    def made(self, kind: type[PreTrainedModel], config: PretrainedConfig) -> PreTrainedModel:
        """Build a stock model of a config, with new weights."""
        return kind(config)

    def save(self, model: PreTrainedModel, folder: Path) -> None:
        """Write a model as a checkpoint that stock code opens and `reopened` takes back."""
        model.save_pretrained(folder)

    def reopened(self, model: PreTrainedModel) -> PreTrainedModel:
        """Return what stock code opened of a checkpoint by `save` as the model that was saved. Raises ConfigMismatch."""
        return model

    def as_sent(self, config: PretrainedConfig) -> None:  # noqa: B027 (some families' own)
        """Remove from the config of an uploaded model what only `save` writes."""

    @abstractmethod
    def declared(self, config: PretrainedConfig, architecture: str, prefix: str) -> Tensors:
        """Return the tensors of a model with their widths, perhaps more than it has. prefix: before the bare model's names."""

    @abstractmethod
    def _set_widths(self, config: PretrainedConfig, shape: Shape) -> None:
        """Write the widths of a shape into a stock config. Raises ValueError if the config cannot express them."""

    def after_cut(self, cut: Cut, name: str, tensor: Tensor) -> Tensor:  # noqa: ARG002 (some families' own)
        """Adjust a cut tensor so that the narrower model computes what the whole one did. name: in the whole model."""
        return tensor

    def tensors(self, model: PreTrainedModel) -> Tensors:
        """Return a model's tensors with the widths that shrink together, in its order; the bare model's come first."""
        before = prefix(model)
        found = self.declared(model.config, type(model).__name__, before)
        names = sorted((name for name, _ in stored(model) if name in found), key=lambda name: not name.startswith(before))
        return {name: found[name] for name in names}

    def groups(self, model: PreTrainedModel) -> dict[str, PruningGroup]:
        """Return the groups of a model by name."""
        return groups_of(self.tensors(model))

    def layer_parameters(self, model: PreTrainedModel) -> list[list[nn.Parameter]]:
        """Return the parameters of each layer, shallow first."""
        return [list(block.parameters()) for block in self._blocks(model)]

    def quantization_group(self, name: str) -> int:
        """Return the depth of a module: 0 for embeddings, from 1 for layers, a large number after them."""
        parts, stack = name.split("."), self.block.rpartition(".")[2]
        if stack in parts:
            return 1 + int(parts[parts.index(stack) + 1])
        return 0 if set(self.shallow) & set(parts) else 10_000

    def depth_of(self, model: PreTrainedModel) -> Callable[[str], int]:  # noqa: ARG002 (networks' own)
        """Return `quantization_group`, or what takes its place if depths follow from the model."""
        return self.quantization_group

    def parameters_of(self, model: PreTrainedModel) -> Parameters:
        """Count the elements of unique parameters, those of the tables separately. A tied head counts as its table."""
        sizes = {name: parameter.numel() for name, parameter in model.named_parameters()}
        return total_of(sizes, [prefix(model) + name for name in self.tables])

    def shape_after(self, shape: Shape, plan: PruningPlan) -> Shape:
        """Return the shape that a plan leads to. Raises ValueError if its layers do not form one shape."""
        layers = plan.layers if plan.layers is not None else tuple(range(shape.layers))
        if not layers or not all(0 <= number < shape.layers for number in layers):
            raise ValueError(f"layers {list(layers)} of a model that has {shape.layers}")
        counts: dict[str, list[int]] = {}
        for key, kept in plan.kept.items():
            axis, layer = axis_and_layer(key)
            if layer is None or layer in layers:
                counts.setdefault(axis, []).append(kept.shape[-1])
        widths = {axis: same_count(found, axis) for axis, found in counts.items()}
        return shape_with(shape, widths, layers)

    def config_at(self, old: PretrainedConfig, shape: Shape, layers: Sequence[int]) -> PretrainedConfig:  # noqa: ARG002
        """Return the stock config of a shape, or raise ValueError. layers: the number in `old` of each layer."""
        config = copy.deepcopy(old)
        config.num_hidden_layers = shape.layers
        self._set_widths(config, shape)
        return config

    def cut(self, model: PreTrainedModel, plan: PruningPlan) -> Cut:
        """Return the cut of a plan; weights may be missing. Raises UnsupportedShape or ValueError if no config expresses it."""
        shape = self.shape_after(self.shape_of(model.config), plan)
        layers = plan.layers if plan.layers is not None else tuple(range(shape.layers))
        return self._cut(model, plan, self.config_at(model.config, shape, layers))

    def narrowed(self, model: PreTrainedModel, plan: PruningPlan) -> PreTrainedModel:
        """Build the stock model that a plan leaves, with the weights of `model`. Raises what `cut` raises."""
        return self._built(model, self.cut(model, plan))

    def drawn(self, model: PreTrainedModel, shape: Shape, layers: Sequence[int] | None = None) -> PreTrainedModel:
        """Build a stock model like `model` at another shape, with new weights. layers: the number in `model` of each layer;
        None is the first ones. Raises UnsupportedShape or ValueError.
        """
        config = self.config_at(model.config, shape, range(shape.layers) if layers is None else layers)
        return self.made(type(model), config).to(next(model.parameters()).dtype).train(model.training)

    def with_vocabulary(self, model: PreTrainedModel, kept_token_ids: list[int]) -> PreTrainedModel:
        """Build the stock model that has only the given tokens; its predictions for them do not change.

        kept_token_ids: old ids, each once, in the order of the new ids. Special tokens in the config follow. Raises ValueError
        if an id is not in the table or appears twice, if the padding token is dropped, or if `fixed_tokens` move.
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
        _renumber(config, new_ids)
        small = self._built(model, self._cut(model, PruningPlan({"vocabulary": torch.tensor(kept_token_ids)}), config))
        _renumber(getattr(small, "generation_config", None), new_ids)
        return small

    def _built(self, model: PreTrainedModel, cut: Cut) -> PreTrainedModel:
        return filled(self.made(type(model), cut.config), model, cut)

    def _cut(self, model: PreTrainedModel, plan: PruningPlan, config: PretrainedConfig) -> Cut:
        if hasattr(config, "num_mtp_layers"):
            config.num_mtp_layers = 0  # layers that predict several tokens; the stock model does not load them
        return Cut(model.config, config, self.tensors(model), plan, f"{prefix(model)}{self.block}.", self.after_cut)

    def _blocks(self, model: PreTrainedModel) -> Iterator[Any]:
        return iter(model.base_model.get_submodule(self.block).children())


@torch.no_grad()
def filled(small: PreTrainedModel, model: PreTrainedModel, cut: Cut) -> PreTrainedModel:
    """Give a model of a cut's config the weights of `model`, which does not change, and return it. Raises ValueError."""
    own = dict(stored(model))
    for name, target in stored(small):
        value = cut.of(name, own[cut.source(name)].detach())
        if value.shape != target.shape:
            raise ValueError(f"{name} would be {tuple(value.shape)}, and the config says {tuple(target.shape)}")
        # Not copied into the target: routers stay in float32 in 16-bit models, so each tensor keeps the dtype of its source.
        target.data = value
    if getattr(model, "generation_config", None) is not None:
        small.generation_config = copy.deepcopy(model.generation_config)
    return small.to(next(model.parameters()).device).train(model.training)


def side_by_side(weight: Tensor, dim: int, widths: Sequence[int]) -> tuple[Tensor, int]:
    """Return a weight with the dimension along which a unit's indices are side by side: without indices that always stay, units
    that occur several times together, and units within others behind these. dim: of the units; widths: the weight's, declared.
    """
    width = widths[dim]
    if not isinstance(width, Width):
        raise ValueError(f"dimension {dim} of {tuple(widths)} has no units")
    whole = width.repeats * width.units * width.unit_size
    if (axis := WITHIN.get(width.axis)) is not None:
        outer = next(number for number, one in enumerate(widths) if isinstance(one, Width) and one.axis == axis)
        own = weight.movedim((outer, dim), (0, 1))
        return own.reshape(len(own), width.repeats, width.units, -1).transpose(1, 2).flatten(0, 1), 0
    if width.repeats == 1:
        return weight.narrow(dim, 0, whole), dim
    apart = weight.narrow(dim, 0, whole).movedim(dim, 0).reshape(width.repeats, width.units, width.unit_size, -1)
    return apart.transpose(0, 1).flatten(0, 2), 0


def prefix(model: PreTrainedModel) -> str:
    """Return the prefix that this class gives the names of the bare model's tensors."""
    return "" if model.base_model is model else f"{model.base_model_prefix}."


def stored(model: PreTrainedModel) -> Iterator[tuple[str, Tensor]]:
    """Yield the parameters and buffers that a checkpoint holds; tied ones come once."""
    yield from model.named_parameters()
    saved = model.state_dict(keep_vars=True)
    yield from ((name, buffer) for name, buffer in model.named_buffers() if name in saved)


def _renumber(named: Any, new_ids: dict[int, int]) -> None:
    """Replace the token ids in a config by the new ids; a list of end tokens keeps those that remain."""
    for key in [key for key in (vars(named) if named is not None else ()) if key.endswith("_token_id")]:
        value = getattr(named, key)
        if isinstance(value, int):
            setattr(named, key, new_ids.get(value))
        elif isinstance(value, list):
            setattr(named, key, [new_ids[each] for each in value if each in new_ids] or None)
