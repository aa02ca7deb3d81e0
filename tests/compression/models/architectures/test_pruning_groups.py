"""What a family declares to shrink together is what shrinks in its stock models, tensor by tensor, dimension by dimension."""

from typing import Any

import pytest
import torch
from torch import nn
from transformers import PretrainedConfig, PreTrainedModel

from compression.models.adapters.adapter import stored
from compression.models.adapters.cutting import Cut
from compression.models.adapters.registry import adapter_of
from compression.models.adapters.structure import PruningPlan
from compression.models.architectures.pruning_groups import WITHIN, Tensors, Width, axis_and_layer, groups_of, units_at
from compression.pruning.scores import ImportanceScores
from compression.schema.report.measurements import Shape
from tests.support import decoder_families as decoders, encoder_models as models

HEADS = ("Model", "ForSequenceClassification", "ForTokenClassification", "ForQuestionAnswering")
ENCODERS = [
    (kind, head) for kind in [*models.STEMS, "electra-base"] for head in HEADS if (kind, head) != ("electra-base", "Model")
]


def made(kind: str) -> PreTrainedModel:
    return decoders.tiny(kind) if kind in decoders.KINDS else models.tiny(kind)


@pytest.mark.parametrize(("kind", "head"), ENCODERS)
def test_an_encoder_has_the_tensors_that_are_declared(kind: str, head: str) -> None:
    model = models.tiny(kind, head)
    assert {name: tuple(tensor.shape) for name, tensor in stored(model)} == adapter_of(model).tensors(model)


@pytest.mark.parametrize("auto", [decoders.tiny, decoders.tiny_classifier])
@pytest.mark.parametrize("kind", decoders.KINDS)
def test_a_decoder_has_the_tensors_that_are_declared(kind: str, auto: Any) -> None:
    model = auto(kind)
    assert {name: tuple(tensor.shape) for name, tensor in stored(model)} == adapter_of(model).tensors(model)


def fewer(kind: str, shape: Shape) -> dict[tuple[str, ...], Shape]:
    """Shapes that lack some units of some axes, as few as the config can say, by these axes."""

    def at(**widths: Any) -> Shape:
        return shape.model_copy(update=widths)

    hidden, size = shape.hidden, shape.hidden // shape.heads
    found: dict[tuple[str, ...], Shape] = {("ffn",): at(ffn=shape.ffn - 1)}
    if kind not in decoders.KINDS:
        found["hidden", "heads", "pooled"] = at(hidden=hidden - size, heads=shape.heads - 1)
        found["hidden", "compared", "values", "pooled"] = at(hidden=hidden - shape.heads)
        return found
    groups = shape.groups or 0
    if kind == "gpt2":
        return {**found, ("hidden", "heads"): at(hidden=hidden - size, heads=shape.heads - 1, groups=groups - 1)}
    found["hidden",] = at(hidden=hidden - 8)
    heads = 2 if kind.startswith("deepseek") else groups // 2
    found["heads",] = at(groups=groups - heads, heads=(groups - heads) * (shape.heads // groups))
    if shape.experts is None or shape.latent is None:
        return found
    experts, latent = shape.experts, shape.latent
    found["experts",] = at(experts=experts.model_copy(update={"count": experts.count - experts.groups}))
    found["expert_ffn", "shared"] = at(experts=experts.model_copy(update={"ffn": 8, "shared": 16}))
    found["kv_rank",] = at(latent=latent.model_copy(update={"kv": latent.kv - 2}))
    if latent.query is not None:
        found["query_rank",] = at(latent=latent.model_copy(update={"query": latent.query - 1}))
    return found


@pytest.mark.parametrize("kind", [*models.STEMS, *decoders.KINDS])
def test_what_shrinks_in_the_stock_model_of_a_smaller_config_are_the_members_of_its_groups(kind: str) -> None:
    model = made(kind)
    family = adapter_of(model)
    shape, groups, whole = family.shape_of(model.config), family.groups(model), dict(stored(model))
    seen = set()
    for axes, to in fewer(kind, shape).items():
        seen |= {*axes}
        small = dict(stored(family.drawn(model, to)))
        shrunk = {(key, dim) for key, it in whole.items() for dim in range(it.ndim) if it.shape[dim] != small[key].shape[dim]}
        cut = [group for key, group in groups.items() if axis_and_layer(key)[0] in axes]
        assert shrunk == {(member.tensor, member.dim) for group in cut for member in group.members}
        # A choice of as many units can be built.
        scores = ImportanceScores({key: torch.ones(units_of(shape, group.axis)) for key, group in groups.items()})
        plan = scores.choose(family, to)
        assert all(tensor.shape == small[name].shape for name, tensor in stored(family.narrowed(model, plan)))
    assert seen == {group.axis for group in groups.values()} - {"vocabulary"}


def units_of(shape: Shape, axis: str) -> list[int]:
    return [units_at(shape, each) for each in (WITHIN.get(axis), axis) if each is not None]


@pytest.mark.parametrize("kind", [*models.STEMS, *decoders.KINDS])
def test_every_group_is_observed_but_experts_whose_insides_no_module_shows(kind: str) -> None:
    model = decoders.tiny_classifier(kind) if kind in decoders.KINDS else models.tiny(kind)
    family = adapter_of(model)
    apart = {"vocabulary", "experts", "expert_ffn"}
    keys = {key for key, group in family.groups(model).items() if group.axis not in apart}
    assert set(family.observed(model)) == keys - (family.shared_axes if kind == "mpnet" else set())


def test_convolutions_with_their_norms_and_buffers_are_cut_like_any_tensor() -> None:
    torch.manual_seed(0)

    def network(channels: int) -> nn.Sequential:
        apart = nn.Conv2d(channels, channels, 3, padding=1, groups=channels)
        norms = nn.BatchNorm2d(channels), nn.BatchNorm2d(channels)
        return nn.Sequential(nn.Conv2d(3, channels, 3), norms[0], nn.ReLU(), apart, norms[1], nn.Conv2d(channels, 5, 1)).eval()

    channels = Width(8, "channels")
    norm = dict.fromkeys(("weight", "bias", "running_mean", "running_var"), (channels,))
    tensors: Tensors = {
        "0.weight": (channels, 3, 3, 3),
        "0.bias": (channels,),
        **{f"1.{name}": shape for name, shape in norm.items()},
        "3.weight": (channels, 1, 3, 3),
        "3.bias": (channels,),
        **{f"4.{name}": shape for name, shape in norm.items()},
        "5.weight": (5, channels, 1, 1),
    }
    (group,) = groups_of(tensors).values()
    assert (group.axis, group.layer, group.units, len(group.members)) == ("channels", None, 8, len(tensors))
    whole, kept, images = network(8), torch.tensor([1, 2, 4, 7]), torch.randn(2, 3, 9, 9)
    with torch.no_grad():
        for name, tensor in whole.state_dict().items():
            if tensor.ndim == 1:
                tensor.copy_(torch.rand_like(tensor) + 0.5 if "5." not in name else torch.rand_like(tensor))
        cut = Cut(
            PretrainedConfig(), PretrainedConfig(), tensors, PruningPlan({"channels": kept}), "layers.", lambda _, __, it: it
        )
        small = network(4)
        small.load_state_dict({name: cut.of(name, tensor) for name, tensor in whole.state_dict().items()})
        assert small(images).shape == whole(images).shape
        gone = torch.ones(8, dtype=torch.bool)
        gone[kept] = False
        whole[5].weight[:, gone] = 0
        assert torch.allclose(small(images), whole(images), atol=1e-5)
