"""The adapter of networks of images: everything follows from the graph."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from math import prod
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PretrainedConfig, PreTrainedModel

from compression.models.adapters.adapter import ArchitectureAdapter
from compression.models.adapters.network.cut import narrower
from compression.models.adapters.network.module import as_map
from compression.models.adapters.network.statistics import reestimate_statistics, running_norms
from compression.models.adapters.network.stock_model import stock_model
from compression.models.adapters.network.structure import Structure, stock_config, structure_of
from compression.models.adapters.structure import Head, PruningPlan, Tap
from compression.models.architectures.network_shapes import whole_shape
from compression.models.architectures.pruning_groups import Tensors
from compression.models.architectures.shapes import total_of
from compression.models.linear_layers import has_matrix, whole_matrix
from compression.models.networks.families.stock_checkpoint import lacks_stock_form, stock_form
from compression.models.networks.folding import folding_of
from compression.models.networks.graph import Graph, Node
from compression.models.networks.stage_maps import stage_maps
from compression.models.networks.value_shapes import value_shapes
from compression.models.timm_form import lacks_timm_form
from compression.schema.report.folding import Folding
from compression.schema.report.measurements import Parameters, Shape
from compression.schema.report.network import NetworkFacts

_PASSES_LOGITS = frozenset({"reduce_mean", "average_pool", "max_pool", "reshape", "relu", "softmax"})


class NetworkAdapter(ArchitectureAdapter):
    """Derives channels, blocks, depths and costs of any network."""

    attention = "eager"
    graph_writer = "compression.export.onnx.network_writer:WRITER"

    def shape_of(self, config: PretrainedConfig) -> Shape:
        """Return the widths of all groups."""
        return whole_shape(self.network(config))

    def network(self, config: PretrainedConfig) -> NetworkFacts:
        """Return what any cut costs."""
        return structure_of(config).facts

    def notes(self, config: PretrainedConfig) -> list[str]:
        """Return notes on the groups that are never cut, on weights that are no longer shared, and on the norms that artifacts
        do without.
        """
        found = []
        if config.pinned:
            whole = ", ".join(config.pinned)
            found.append(f"These groups stay whole, because a trial cut changed more than the channels it took: {whole}.")
        if shared := (config.source or {}).get("shared", 0):
            found.append(
                f"Weights of the uploaded file that several layers read: {shared}. Here each of these layers has its own: they "
                "are counted, trained and shipped once for each layer."
            )
        shapes = config.network.tensors()
        held = sum(prod(shapes.get(name, ())) > 1 for name in config.fixed)
        if held and (config.source or {}).get("library") != "transformers":
            found.append(
                f"Constants of the uploaded model that are no parameters: {held}. They are masks, what images are scaled by, "
                "and others that follow from no weight; no training changes them."
            )
        if (gone := self.folding(config)) is not None:
            what = f"{gone.folded} of {gone.norms} batch normalizations are folded into the convolution before them"
            found.append(f"In ONNX files {what}.")
        return found

    def parameters_of(self, model: PreTrainedModel) -> Parameters:
        """Count the elements of the parameters; numbers that pairs of places share count once."""
        sizes = {name: parameter.numel() for name, parameter in model.named_parameters()}
        for name, height in model.config.windows.items():
            if name in sizes:
                sizes[name] = sizes[name] // height**4 * (2 * height - 1) ** 2
        return total_of(sizes, ())

    def folding(self, config: PretrainedConfig) -> Folding | None:
        """Return what ONNX files do without; None if the network has no batch normalization."""
        return folding_of(config.network)

    def head(self, model: PreTrainedModel) -> Head:
        """Return the linear layer or convolution whose outputs are the logits; none if anything mixes them afterwards."""
        made = output_layer(model.config.network)
        out: Any = None if made is None else model.get_submodule(made.name)
        return Head(dense=None, out=out)

    def observed(self, model: PreTrainedModel) -> Mapping[str, Sequence[Tap]]:
        """Observe channels where layers with matrices read them, (rows, positions, channels), a unit's side by side."""
        structure = structure_of(model.config)
        return {
            key: [(model.values[name], "out", _view(structure, key, name)) for name in structure.taps_of(key)]
            for key in structure.groups
        }

    def streams(self, model: PreTrainedModel) -> Sequence[tuple[Tap, Tap]]:
        """Return where the input and the output of each residual block are observed, (rows, positions, channels)."""
        structure = structure_of(model.config)

        def tap(name: str) -> Tap:
            cut, axes = structure.channels.values.get(name), len(structure.shapes[name])
            axis = cut.axis if cut is not None else 1 if axes == 4 else axes - 1
            return model.values[name], "out", partial(_positions, axis=axis, factor=structure.shapes[name][0])

        return [(tap(block.input), tap(block.name)) for block in structure.blocks]

    def layer_kinds(self, config: PretrainedConfig) -> Mapping[str, int]:
        """Return the kinds of the residual blocks."""
        return structure_of(config).block_kinds

    def feature_maps(self, model: PreTrainedModel) -> Sequence[Tap]:
        """Return the ends of the stages, (rows, channels, height, width), or (rows, channels, tokens, 1)."""
        structure = structure_of(model.config)
        return [(model.values[name], "out", as_map) for name in stage_maps(structure.graph, structure.shapes)]

    def weights(self, model: PreTrainedModel, key: str) -> list[tuple[Tensor, int]]:
        """Return the filters that make a group's channels, as published (Li et al. 2017), a unit's side by side."""
        return [
            (model.get_parameter(tensor).index_select(dim, places), dim)
            for tensor, dim, places in self._members(model, key)
            if dim == 0 and tensor.endswith(".weight") and model.get_parameter(tensor).ndim > 1
        ]

    def group_keys(self, model: PreTrainedModel) -> tuple[str, ...]:
        """Return the names of the groups that may be cut."""
        return tuple(structure_of(model.config).groups)

    def readers(self, model: PreTrainedModel, key: str) -> dict[str, Tensor]:
        """Return the linear layers and convolutions that read a group's units, with the columns of each unit."""
        found: dict[str, Tensor] = {}
        units = structure_of(model.config).groups[key].units
        for tensor, dim, places in self._members(model, key):
            name, _, role = tensor.rpartition(".")
            layer = model.get_submodule(name)
            if role == "weight" and dim == 1 and has_matrix(layer):
                area = whole_matrix(layer).shape[1] // model.get_parameter(tensor).shape[1]
                found[name] = (places.view(units, -1, 1) * area + torch.arange(area, device=places.device)).flatten(1).cpu()
        return found

    def layer_groups(self, model: PreTrainedModel) -> list[tuple[str, ...]]:
        """Return the keys of the groups that only a residual block's layers have, block by block."""
        facts = self.network(model.config)
        return [
            tuple(
                group.key
                for group in facts.groups
                if all(
                    layer.name in block.layers
                    for layer in facts.layers
                    if group.key in layer.outputs.units or group.key in layer.inputs.units
                )
            )
            for block in facts.blocks
        ]

    def scales(self, model: PreTrainedModel, key: str) -> list[Tensor]:
        """Return the factors of the batch normalizations of a group's channels, a unit's side by side."""
        norms = {node.tensor("weight") for node in model.config.network.nodes if node.op == "batch_norm"}
        return [
            model.get_parameter(tensor).index_select(0, places)
            for tensor, _, places in self._members(model, key)
            if tensor in norms
        ]

    def _members(self, model: PreTrainedModel, key: str) -> list[tuple[str, int, Tensor]]:
        structure, device = structure_of(model.config), next(model.parameters()).device
        tensors = structure.channels.tensors
        return [
            (member.tensor, member.dim, structure.places_of(key, tensors[member.tensor, member.dim]).to(device))
            for member in structure.groups[key].members
        ]

    def declared(self, config: PretrainedConfig, architecture: str, prefix: str) -> Tensors:  # noqa: ARG002
        """Return the tensors; what shrinks together is in the graph's groups."""
        return structure_of(config).graph.tensors()

    def _set_widths(self, config: PretrainedConfig, shape: Shape) -> None:  # noqa: ARG002
        raise ValueError("a network's config has its graph, not its widths")

    def layer_parameters(self, model: PreTrainedModel) -> list[list[nn.Parameter]]:
        """Return the parameters of each depth, shallow first."""
        found: dict[int, list[nn.Parameter]] = {}
        depth = self.depth_of(model)
        for name, parameter in model.named_parameters():
            found.setdefault(depth(name.rpartition(".")[0]), []).append(parameter)
        return [found[number] for number in sorted(found)]

    def depth_of(self, model: PreTrainedModel) -> Callable[[str], int]:
        """Return a function of a module's name: the depth of its node; for a value, of the first node that reads it."""
        structure = structure_of(model.config)
        depths, readers = structure.depths, structure.graph.readers()

        def depth(name: str) -> int:
            value = name.removeprefix("values.")
            node = readers[value][0].name if value != name and value in readers else value
            return depths[node]

        return depth

    def narrowed(self, model: PreTrainedModel, plan: PruningPlan) -> PreTrainedModel:
        """Build the network that a plan leaves; the layers of a plan are residual blocks. Raises ValueError."""
        structure = structure_of(model.config)
        gone = [] if plan.layers is None else [at for at in range(len(structure.blocks)) if at not in plan.layers]
        kept = {key: units.tolist() for key, units in plan.kept.items()}
        return narrower(model, kept, [structure.blocks[at].name for at in gone])

    def drawn(self, model: PreTrainedModel, shape: Shape, layers: Sequence[int] | None = None) -> PreTrainedModel:
        """Build a network like `model` at another shape, with any weights: latency does not depend on them."""
        kept = {key: torch.arange(units) for key, units in (shape.widths or {}).items()}
        return self.narrowed(model, PruningPlan(kept, tuple(range(shape.layers) if layers is None else layers)))

    def stock(self, model: PreTrainedModel) -> PreTrainedModel | str:
        """Return the network in the class of transformers that it came from, or why this class has no such model."""
        config = stock_config(model.config)
        if config is None:
            return "It is no model of transformers."
        tensors = {name: value.float().cpu().numpy() for name, value in model.state_dict().items()}
        labels = tuple(model.config.id2label[number] for number in sorted(model.config.id2label))
        found = stock_form(config, model.config.network, tensors, labels)
        return found if isinstance(found, str) else stock_model(found)

    def lacks_form(self, config: PretrainedConfig) -> str | None:
        """Return why transformers or timm has no model of a network's shape; None if it has one, or did not make it."""
        source = config.source or {}
        if source.get("library") == "timm":
            return lacks_timm_form(config)
        if source.get("library") != "transformers":
            return None
        labels = tuple(config.id2label[number] for number in sorted(config.id2label))
        return lacks_stock_form(source["config"], config.network, labels)

    def has_statistics(self, model: PreTrainedModel) -> bool:
        """Return whether the network has batch normalizations."""
        return bool(running_norms(model))

    def refresh(self, model: PreTrainedModel, batches: Iterable[Mapping[str, Any]]) -> None:
        """Estimate the statistics of the batch normalizations anew."""
        reestimate_statistics(model, batches)


def output_layer(graph: Graph) -> Node | None:
    """Return the layer whose outputs are the logits in their order; None if anything mixes them afterwards."""
    nodes, node = {each.name: each for each in graph.nodes}, graph.named(graph.output)
    while node.op in _PASSES_LOGITS and node.inputs[0] in nodes:
        node = nodes[node.inputs[0]]
    is_layer = node.op in ("conv", "linear") and node.tensors["weight"][0] == value_shapes(graph)[graph.output][-1]
    return node if is_layer else None


def _view(structure: Structure, key: str, name: str) -> Callable[[Tensor], Tensor]:
    cut = structure.channels.values[name]
    places = structure.places_of(key, cut.units)
    return partial(_positions, axis=cut.axis, factor=structure.shapes[name][0], places=places)


def _positions(value: Tensor, *, axis: int, factor: int, places: Tensor | None = None) -> Tensor:
    """Arrange a value as (rows, positions, channels). factor: of the batch axis; places: the channels, in this order."""
    rows = len(value) // factor
    last = value.movedim(axis, -1)
    if places is not None:
        last = last.index_select(-1, places.to(value.device))
    return last.reshape(rows, -1, last.shape[-1])
