"""Builds the narrower network of a cut, and proves that the groups are what a cut can take."""

import copy
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from compression.models.adapters.network.module import NetworkForImageClassification
from compression.models.adapters.network.structure import Structure, structure_of
from compression.models.networks.cutting import cut_graph

SHARE = 1 / 3
"""Of each group's units that the proof takes."""
TOLERANCE = 1e-4
"""Of the proof's logits, relative to the largest."""


@torch.no_grad()
def narrower(
    model: NetworkForImageClassification, kept: Mapping[str, Sequence[int]], without: Collection[str] = ()
) -> NetworkForImageClassification:
    """Build the network with the units and without the blocks that `cutting.cut_graph` is given, with a model's weights."""
    cut = cut_graph(model.config.network, kept, without)
    config = copy.deepcopy(model.config)
    config.graph = cut.graph.model_dump(mode="json")
    own = model.state_dict()
    small = NetworkForImageClassification(config)
    small.to(next(model.parameters()).device)
    for name, target in small.state_dict(keep_vars=True).items():
        values = own[name]
        for dim, indices in cut.indices.get(name, {}).items():
            values = values.index_select(dim, torch.from_numpy(indices).to(values.device))
        target.data = values.clone()
    small.train(model.training)
    if config.pinned and without:  # groups may have other numbers now
        config.pinned = ()
        config.pinned = unproven(small)
    return small


def unproven(model: NetworkForImageClassification) -> tuple[str, ...]:
    """Return the groups of which a cut changes more than the channels that it takes; the model is none the worse for it.

    On random images, the network without a third of the units must answer as the whole one with zeros in their place, wherever
    they pass. Groups that a layer_norm reads are left out: its statistics are others.
    """
    structure = structure_of(model.config)
    draw = np.random.default_rng(0)
    kept = {
        group.key: np.sort(draw.permutation(group.units)[: group.units - max(int(group.units * SHARE), 1)])
        for group in structure.groups.values()
        if not group.normalized
    }
    training = model.training
    model.eval()
    try:
        if not kept or _is_masking(model, structure, kept):
            return ()
        return tuple(key for key, units in kept.items() if not _is_masking(model, structure, {key: units}))
    finally:
        model.train(training)


@torch.no_grad()
def _is_masking(model: NetworkForImageClassification, structure: Structure, kept: Mapping[str, Any]) -> bool:
    parameter = next(model.parameters())
    drawn = torch.randn(2, *structure.graph.shape, generator=torch.Generator().manual_seed(0))
    pixels = drawn.to(parameter.device, parameter.dtype)
    with _masked(model, structure, kept):
        wanted: Tensor = model(pixels).logits
    try:
        found: Tensor = narrower(model, kept)(pixels).logits
    except (ValueError, RuntimeError, AssertionError):  # of a graph whose nodes do not fit any more
        return False
    return bool((found - wanted).abs().max() <= TOLERANCE * wanted.abs().max())


@contextmanager
def _masked(model: NetworkForImageClassification, structure: Structure, kept: Mapping[str, Any]) -> Iterator[None]:
    """Put zeros in the place of all units that do not stay, in every value."""
    lost = np.zeros(structure.channels.count + 1, bool)
    for key, units in kept.items():
        lost[np.delete(structure.channels.units[key], units)] = True
    with ExitStack() as hooks:
        for name, cut in structure.channels.values.items():
            if name in model.values and lost[cut.units].any():
                shape = [-1 if axis == cut.axis else 1 for axis in range(len(structure.shapes[name]))]
                mask = torch.from_numpy(lost[cut.units]).view(shape)
                hooks.enter_context(model.values[name].register_forward_hook(partial(_zeros, mask)))
        yield


def _zeros(mask: Tensor, _: nn.Module, __: Any, value: Tensor) -> Tensor:
    return value.masked_fill(mask.to(value.device), 0.0)
