"""Importance of a decoder's units by their weights and by what the loss would change without them, in every family."""

from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import PreTrainedModel

from compression.modalities.base import label_loss
from compression.modalities.registry import task_of
from compression.modalities.sampling import shuffled_rows
from compression.modalities.text.causal_lm.packed_examples import PackedDataset
from compression.models.adapters.registry import adapter_of
from compression.models.architectures.families import ARCHITECTURE_SPECS
from compression.models.architectures.shapes import planned_shape
from compression.pruning.scores import ImportanceScores, score_units
from compression.schema.recipe.prune import Prune
from compression.schema.recipe.recipe import Evaluate
from tests.support import tiny_language

LENGTH = 24
CUTS = {"llama": {"hidden": 0.5, "heads": 0.5, "ffn": 0.5}, "gpt2": {"hidden": 0.5, "heads": 0.5, "ffn": 0.5}}
CUTS["deepseek_v3"] = {"heads": 0.5, "experts": 0.5, "expert_ffn": 0.5, "query_rank": 0.5, "kv_rank": 0.5}


def rows_of() -> PackedDataset:
    task = task_of("causal-lm", (), Evaluate(window=LENGTH))
    return PackedDataset.of(tiny_language.TEXTS * 3, tiny_language.tokenizer(bos=True), LENGTH, task)


def scored(model: PreTrainedModel, importance: Any) -> ImportanceScores:
    return score_units(model, Prune(importance=importance, calibration_rows=8), rows_of(), 0)


def drawn(family: str) -> PreTrainedModel:
    model = tiny_language.model(family, **({"n_routed_experts": 8} if family.startswith("deepseek") else {}))
    model.set_experts_implementation("eager")
    return model


@pytest.mark.parametrize("importance", ["l1_weight", "l2_weight", "taylor"])
@pytest.mark.parametrize("family", tiny_language.FAMILIES)
def test_scores_cover_what_activations_score(family: str, importance: str) -> None:
    model = drawn(family)
    found, wanted = scored(model, importance), scored(model, "l1")
    assert {key: one.shape for key, one in found.units.items()} == {key: one.shape for key, one in wanted.units.items()}
    assert all(one.isfinite().all() and (one >= 0).all() for one in found.units.values())
    assert all(parameter.grad is None for parameter in model.parameters())


@pytest.mark.parametrize("importance", ["l1_weight", "taylor"])
@pytest.mark.parametrize("family", CUTS)
def test_what_they_choose_is_cut(family: str, importance: Any) -> None:
    model, cut = drawn(family), Prune.model_validate({"ratio": CUTS[family], "multiple": 8, "importance": importance})
    adapter = adapter_of(model)
    shape = planned_shape(ARCHITECTURE_SPECS[family], adapter.shape_of(model.config), cut)
    small = adapter.narrowed(model, scored(model, importance).choose(adapter, shape))
    assert adapter.shape_of(small.config) == shape


def of_weights(*each: Tensor) -> Tensor:
    """The L1 norms of units that are the rows of each tensor."""
    return torch.stack([one.abs().flatten(1).sum(dim=1) for one in each]).sum(dim=0).detach()


def test_weights_of_a_unit_are_all_that_make_it_and_read_it() -> None:
    model = drawn("llama")
    layer, found = model.model.layers[1], scored(model, "l1_weight").units
    mlp, own = layer.mlp, layer.self_attn
    torch.testing.assert_close(found["ffn.1"], of_weights(mlp.gate_proj.weight, mlp.up_proj.weight, mlp.down_proj.weight.t()))
    # A group is a key/value head with the query heads that read it.
    groups = [one.weight.unflatten(0, (2, -1)) for one in (own.q_proj, own.k_proj, own.v_proj)]
    torch.testing.assert_close(found["heads.1"], of_weights(*groups, own.o_proj.weight.t().unflatten(0, (2, -1))))


def test_weights_of_a_head_of_gpt2_are_its_queries_keys_and_values() -> None:
    model = drawn("gpt2")
    own, found = model.transformer.h[0].attn, scored(model, "l1_weight").units
    packed = own.c_attn.weight.t().unflatten(0, (3, 4, -1))  # queries, then keys, then values
    torch.testing.assert_close(found["heads.0"], of_weights(*packed, own.c_proj.weight.unflatten(0, (4, -1))))


def test_weights_of_experts_and_of_their_units() -> None:
    model = drawn("deepseek_v3")
    mlp, found = model.model.layers[1].mlp, scored(model, "l1_weight").units
    made, read = mlp.experts.gate_up_proj, mlp.experts.down_proj
    torch.testing.assert_close(found["experts.1"], of_weights(mlp.gate.weight, made, read))
    units = [of_weights(*one.unflatten(0, (2, -1)), two.t()) for one, two in zip(made, read, strict=True)]
    torch.testing.assert_close(found["expert_ffn.1"], torch.stack(units))
    attention = model.model.layers[1].self_attn
    rank = attention.kv_b_proj.weight.t()
    torch.testing.assert_close(found["kv_rank.1"], of_weights(attention.kv_a_proj_with_mqa.weight[: len(rank)], rank))


@pytest.mark.parametrize("family", ["qwen2", "deepseek_v2"])
def test_taylor_is_the_derivative_of_a_gate_on_each_unit(family: str) -> None:
    """A gate on a unit scales what reads it, so its derivative is the weight times its gradient, row by row."""
    model, rows = drawn(family), rows_of()
    found, wanted = scored(model, "taylor").units, dict[str, Tensor]()
    loss, layer = label_loss(rows.task, model), model.model.layers[1]

    def add(key: str, changes: Tensor) -> None:
        wanted[key] = wanted.get(key, torch.zeros_like(changes)) + changes.abs()

    for batch in shuffled_rows(rows, 8, 0).by_length(1):
        (loss(batch) * batch.weight).backward()
        out = layer.self_attn.o_proj.weight
        heads = (out * out.grad).detach().sum(dim=0)
        add("heads.1", heads.view(2 if family == "qwen2" else 4, -1).sum(dim=1))
        if family == "qwen2":
            down = layer.mlp.down_proj.weight
            add("ffn.1", (down * down.grad).detach().sum(dim=0))
        else:
            down = layer.mlp.experts.down_proj
            units = (down * down.grad).detach().sum(dim=1)
            add("expert_ffn.1", units)
            add("experts.1", units.sum(dim=1))
        model.zero_grad(set_to_none=True)
    assert len(wanted) > 1
    for key, changes in wanted.items():
        torch.testing.assert_close(found[key], changes, rtol=1e-3, atol=1e-5)
