"""The scores of a network's units and residual blocks: by activations, weights, norms and the loss."""

from dataclasses import replace

import pytest
import torch
from torch import nn

from compression.models.adapters.network.structure import structure_of
from compression.models.adapters.registry import adapter_of
from compression.pruning.prune_progress import PruneProgress
from compression.pruning.scores import score_activations, score_units
from compression.schema.recipe.prune import Prune
from tests.support.network_graphs import NETWORKS, resnet, vgg
from tests.support.network_models import drawn_network
from tests.support.tiny_maps import maps

KINDS = ("l1", "l2", "taylor", "l1_weight", "l2_weight")


@pytest.mark.parametrize("importance", KINDS)
@pytest.mark.parametrize("kind", NETWORKS)
def test_every_unit_of_every_network_is_scored(kind: str, importance: str) -> None:
    model = drawn_network(NETWORKS[kind]())
    shape = adapter_of(model).shape_of(model.config)
    found = score_units(model, Prune(importance=importance), maps(8, 0), 0, layers=True)
    assert {key: len(scores) for key, scores in found.units.items()} == shape.widths
    assert all(scores.isfinite().all() and scores.max() > 0 for scores in found.units.values())
    assert (0 if found.influence is None else len(found.influence)) == shape.layers


def test_activations_count_where_the_next_layer_reads_them() -> None:
    model = drawn_network(vgg())
    rows = maps(4, 0)
    found = score_activations(model, rows.by_length(3), layers=False)
    second = [module for module in model.modules() if isinstance(module, nn.Conv2d)][1]
    read: list[torch.Tensor] = []
    second.register_forward_pre_hook(lambda _, given: read.append(given[0]))
    with torch.no_grad():
        model(rows.pixels)
    assert torch.allclose(found.units["channels.0"], read[0].abs().sum(dim=(0, 2, 3)), rtol=1e-4)


def test_taylor_is_the_derivative_of_a_gate_on_a_channel() -> None:
    model = drawn_network(vgg())
    rows = maps(3, 0)
    found = score_units(model, Prune(importance="taylor"), rows, 0).units["channels.0"]
    second = [module for module in model.modules() if isinstance(module, nn.Conv2d)][1]
    total = torch.zeros_like(found)
    for number in range(3):
        gate = torch.ones(1, len(found), 1, 1, requires_grad=True)
        hook = second.register_forward_pre_hook(lambda _, given, gate=gate: (given[0] * gate,))
        row = rows.at([number])
        nn.functional.cross_entropy(model(row.pixels).logits, row.labels).backward()
        hook.remove()
        total += gate.grad.flatten().abs()
    assert torch.allclose(found, total, rtol=1e-3, atol=1e-6)


def test_norms_score_the_channels_that_they_scale() -> None:
    model = drawn_network(resnet((1,)))
    norms = {name: module for name, module in model.named_modules() if isinstance(module, nn.BatchNorm2d)}
    found = score_units(model, Prune(importance="bn_scale"), maps(8, 0), 0).units
    stem, inner, last = norms.values()
    assert torch.allclose(found["channels.0"], inner.weight.abs())
    assert torch.allclose(found["hidden.0"], stem.weight.abs() + last.weight.abs())


def test_units_without_norms_count_alike_unless_they_are_cut() -> None:
    model = drawn_network(vgg())
    found = score_units(model, Prune(importance="bn_scale", axes=("hidden",)), maps(8, 0), 0).units
    assert found.keys() == structure_of(model.config).groups.keys()
    assert all((scores == 1).all() for scores in found.values())
    with pytest.raises(ValueError, match="bn_scale"):
        score_units(model, Prune(importance="bn_scale", axes=("channels",)), maps(8, 0), 0)


def test_a_block_that_adds_little_has_the_least_influence() -> None:
    model = drawn_network(resnet((3, 2)))
    blocks = structure_of(model.config).blocks
    with torch.no_grad():
        for name in blocks[1].nodes:
            if name.startswith("batch_norm"):
                model.get_submodule(name).weight.mul_(0.01)
                model.get_submodule(name).bias.mul_(0.01)
    found = score_activations(model, maps(8, 0).by_length(8))
    assert int(found.influence.argmin()) == 1


def test_influence_is_a_mean_over_positions_so_stages_of_any_size_compare() -> None:
    model = drawn_network(resnet((2, 2)))
    rows = maps(8, 0)
    found = score_activations(model, rows.by_length(3))
    for (before, after), influence in zip(adapter_of(model).streams(model), found.influence, strict=True):
        seen: list[torch.Tensor] = []
        hooks = [tap[0].register_forward_hook(lambda _, __, value, seen=seen: seen.append(value)) for tap in (before, after)]
        with torch.no_grad():
            model(rows.pixels)
        for hook in hooks:
            hook.remove()
        assert torch.allclose(influence, (1 - nn.functional.cosine_similarity(*seen, dim=1)).mean(), rtol=1e-3)


def test_the_blocks_that_lose_least_for_each_millisecond_go_and_are_saved_with_their_times() -> None:
    model = drawn_network(resnet((3, 2)))
    family = adapter_of(model)
    shape = family.shape_of(model.config)
    assert shape.layers == 4
    scores = replace(score_activations(model, maps(8, 0).by_length(8)), influence=torch.tensor([1.0, 0.5, 0.8, 0.6]))
    to = shape.model_copy(update={"layers": 2})
    assert scores.choose(family, to).layers == (0, 2)
    timed = replace(scores, milliseconds=torch.tensor([4.0, 1.0, 1.0, 4.0], dtype=torch.float64))
    assert timed.choose(family, to).layers == (1, 2)  # 0.25 and 0.15 a millisecond are less than 0.5 and 0.8
    assert timed.choose(family, shape).layers is None
    again = PruneProgress.of_tensors(PruneProgress(timed, (0.5,)).tensors())
    assert again.scores.units.keys() == scores.units.keys()
    assert again.scores.choose(family, to).layers == (1, 2)
    assert PruneProgress.of_tensors(PruneProgress(scores, (0.5,)).tensors()).scores.milliseconds is None
