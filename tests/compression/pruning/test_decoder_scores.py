"""Calibration of decoders: what speaks up is kept, padding says nothing, and one pass serves every shape."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from compression.modalities.text.batches import Batch
from compression.models.adapters.registry import decoder_of
from compression.models.architectures.decoder_configs import decoder_shape
from compression.models.architectures.families import ARCHITECTURE_SPECS
from compression.models.architectures.shapes import parameters_at
from compression.pruning.scores import ImportanceScores, score_activations
from tests.support.decoder_families import EXPERTS, IDS, KINDS, PADDING, logits, tiny, tiny_classifier

ALL = dict.fromkeys(("hidden", "heads", "ffn", "layers", "experts", "expert_ffn", "query_rank", "kv_rank"), 0.4)


def batch(ids: Tensor, mask: Tensor | None = None) -> Batch:
    real = torch.ones_like(ids) if mask is None else mask
    return Batch(ids * real + PADDING * (1 - real), real, torch.zeros(len(ids)), torch.arange(len(ids)))


def scored(model: PreTrainedModel, **settings: Any) -> ImportanceScores:
    return score_activations(model, [batch(IDS[:2]), batch(IDS[2:])], **settings)


def louder(linear: nn.Module, units: list[int]) -> None:
    conv1d = hasattr(linear, "nf")
    with torch.no_grad():
        linear.weight[(slice(None), units) if conv1d else units] *= 300


@pytest.mark.parametrize("kind", KINDS)
def test_what_scores_choose_is_built_at_any_shape(kind: str) -> None:
    model = tiny(kind)
    family = decoder_of(model)
    shape = family.shape_of(model.config)
    scores = scored(model)
    name = model.config.model_type
    for ratios, multiple in (({**ALL}, 8), ({**ALL, "layers": 0.0, "hidden": 0.2, "heads": 0.2}, 2)):
        together = {axis: ratio for axis, ratio in ratios.items() if name != "gpt2" or axis != "hidden"}
        to = decoder_shape(name, shape, together if name != "gpt2" else {**together, "hidden": together["heads"]}, multiple)
        kept = scores.choose(family, to)
        small = family.narrowed(model, kept)
        assert family.shape_of(small.config) == to  # also in how many layers have experts
        assert logits(small).isfinite().all()
        # What is left is chosen from without asking the model again; a save brings the scores back as they were.
        again = ImportanceScores.of_tensors(scores.tensors()).after(kept).choose(family, to)
        assert logits(family.narrowed(small, replace(again, layers=None))).equal(logits(small))


@pytest.mark.parametrize("kind", EXPERTS)
def test_a_cut_has_the_parameters_that_were_foretold_whichever_layers_are_loud(kind: str) -> None:
    model = tiny(kind)
    family = decoder_of(model)
    shape = family.shape_of(model.config)
    name = model.config.model_type
    to = decoder_shape(name, shape, {"layers": 0.4}, 8)
    scores = scored(model)
    dense = torch.arange(shape.layers) < shape.experts.dense_layers
    for quiet in (dense, ~dense):  # either kind would go first by what it says
        small = family.narrowed(model, replace(scores, influence=torch.where(quiet, 0.0, 1.0)).choose(family, to))
        untied = to.vocabulary * (not model.config.tie_word_embeddings)
        foretold = parameters_at(ARCHITECTURE_SPECS[name], to, rows=0, outputs=untied, biases=family.biases(model.config))
        assert foretold.total == sum(parameter.numel() for parameter in small.parameters())


@pytest.mark.parametrize("kind", KINDS)
def test_loud_parts_stay_and_a_layer_that_says_nothing_goes(kind: str) -> None:
    model = tiny(kind)
    family = decoder_of(model)
    shape, blocks = family.shape_of(model.config), family.layers(model)
    attention = model.get_submodule("transformer.h.0.attn" if kind == "gpt2" else "model.layers.0.self_attn")
    with torch.no_grad():
        for part in (blocks[1].attended, blocks[1].down):
            for parameter in part.parameters():
                parameter.zero_()
        if blocks[1].experts is not None:
            blocks[1].experts.down_proj.zero_()
        for norm in family.stream_norms(model):
            norm.weight[11] *= 30
    size, last = shape.head_size or 0, (shape.groups or 1) - 1
    if kind == "gpt2":
        louder(attention.c_attn, list(range(2 * 32 + last * size, 3 * 32)))
        louder(model.transformer.h[0].mlp.c_fc, [3])
    elif kind in EXPERTS:
        louder(attention.kv_b_proj, list(range(last * 16, last * 16 + 16)))
        louder(model.model.layers[0].mlp.up_proj, [3])
        with torch.no_grad():
            attention.kv_a_layernorm.weight[5] *= 30
    else:
        louder(attention.v_proj, list(range(last * size, last * size + size)))
        louder(model.model.layers[0].mlp.up_proj, [3])
    scores = scored(model)
    to = shape.model_copy(update={"layers": 2, "hidden": 8, "groups": 1, "ffn": 1})
    if to.latent is not None:
        to = to.model_copy(update={"latent": to.latent.model_copy(update={"kv": 1})})
    kept = scores.choose(family, to)
    assert kept.layers == (0, 2)
    assert 11 in kept.kept["hidden"].tolist()
    assert (kept.kept["heads.0"].tolist(), kept.kept["ffn.0"].tolist()) == ([last], [3])
    assert kind not in EXPERTS or kept.kept["kv_rank.0"].tolist() == [5]


@pytest.mark.parametrize("kind", KINDS)
def test_padding_says_nothing_and_a_head_does_not_matter(kind: str) -> None:
    model = tiny_classifier(kind)
    mask = torch.ones_like(IDS)
    mask[1, 6:] = 0
    padded = score_activations(model, [batch(IDS[:2], mask[:2])], "l2").tensors()
    alone = score_activations(model, [batch(IDS[:1]), batch(IDS[1:2, :6])], "l2").tensors()
    assert padded.keys() == alone.keys()
    for name, found in padded.items():
        assert torch.allclose(found, alone[name], rtol=1e-3, atol=1e-4), name
    assert not torch.allclose(padded["hidden"], score_activations(model, [batch(IDS[:2], mask[:2])], "l1").units["hidden"])


@pytest.mark.parametrize("kind", EXPERTS)
@torch.inference_mode()
def test_an_expert_is_worth_what_it_adds_to_the_stream(kind: str) -> None:
    model = tiny(kind)
    given: list[tuple[Tensor, ...]] = []
    experts = model.model.layers[1].mlp.experts
    hook = experts.register_forward_pre_hook(lambda _, inputs: given.append(inputs))
    found = score_activations(model, [batch(IDS[:1, :1])]).units
    hook.remove()
    tokens, chosen, weights = given[0]
    assert set(found["experts.1"].nonzero().flatten().tolist()) == set(chosen[0].tolist())
    for place, number in enumerate(chosen[0].tolist()):
        alone = experts(tokens, chosen[:, place : place + 1], weights[:, place : place + 1])
        assert torch.allclose(found["experts.1"][number], alone.norm(), rtol=1e-4)
        # A unit is worth what its column of the down projection is multiplied by.
        column = experts.down_proj[number, :, 3].clone()
        experts.down_proj[number, :, 3] = 0
        without = experts(tokens, chosen[:, place : place + 1], weights[:, place : place + 1])
        assert torch.allclose((alone - without).norm(), found["expert_ffn.1"][number, 3] * column.norm(), rtol=1e-3)
