"""Scores and choices: what speaks louder stays."""

import pytest
import torch
from transformers import PreTrainedModel

from compression.modalities.registry import task_of
from compression.modalities.text.batches import TokenizedDataset
from compression.models.adapters.registry import adapter_of, encoder_of
from compression.pruning import importance
from compression.pruning.scores import score_units
from compression.schema.recipe.prune import Prune
from tests.support.encoder_models import PADDING, WORDS, tiny


def test_activations_and_their_squares_count_at_real_tokens_only() -> None:
    activations, mask = torch.tensor([[[1.0, -2.0], [3.0, 0.0], [100.0, 100.0]]]), torch.tensor([[1, 1, 0]])
    assert importance.activation_scores(activations, mask, "l1").tolist() == [4.0, 2.0]
    assert importance.activation_scores(activations, mask, "l2").tolist() == [10.0, 4.0]


def test_what_the_loss_would_change_is_the_derivative_by_a_gate() -> None:
    activations = torch.randn(3, 4, 6, generator=torch.Generator().manual_seed(0))
    mask = torch.tensor([[1, 1, 1, 1], [1, 1, 0, 0], [1, 1, 1, 0]])

    def loss_of(x: torch.Tensor) -> torch.Tensor:
        return (x * mask[..., None]).sum(dim=1).square().sum(dim=1)  # one for each row

    held = activations.clone().requires_grad_(True)
    loss_of(held).sum().backward()
    for groups in (None, 3):
        gates = torch.ones(3, groups or 6, requires_grad=True)
        loss_of(activations * gates.repeat_interleave(6 // (groups or 6), dim=1)[:, None]).sum().backward()
        found = importance.first_order(activations, held.grad, mask, groups)
        assert torch.allclose(found, gates.grad.abs().sum(dim=0), rtol=1e-5)


def test_a_layer_that_turns_nothing_has_no_influence() -> None:
    east, north = torch.tensor([1.0, 0.0]), torch.tensor([0.0, 1.0])
    states = torch.stack([torch.stack([east, north]), torch.stack([2 * east, 3 * north]), torch.stack([north, -north])])
    assert importance.block_influence(states).tolist() == [0.0, 3.0]  # a right angle, and about


def test_weights_count_where_a_unit_is_made_and_where_it_is_read() -> None:
    up, down = torch.tensor([[1.0, -1.0], [0.0, 0.0]]), torch.tensor([[0.5, 3.0]])
    assert (importance.weight_norm(up, 0) + importance.weight_norm(down, 1)).tolist() == [2.5, 3.0]
    assert importance.weight_norm(torch.ones(2, 3, 5, 5), 1).tolist() == [50.0] * 3


def test_channels_of_a_head_are_added_up_and_the_strongest_stay_in_their_order() -> None:
    assert importance.grouped(torch.arange(6.0), 3).tolist() == [1.0, 5.0, 9.0]
    assert importance.strongest(torch.tensor([1.0, 5.0, 2.0, 5.0, 0.0]), 3).tolist() == [1, 2, 3]


HEAVY, RARE, STEADY, HEEDED = 3, 11, 19, 30
"""Units of the first layer's feed-forward part, each of which another importance puts first."""


@torch.no_grad()
def four_kinds(ids: torch.Tensor, mask: torch.Tensor) -> PreTrainedModel:
    """A BERT whose units include one that is heavy and mute, one that is rarely loud, a steady one, and one that is heeded."""
    model = tiny("bert")
    layer = encoder_of(model).layers(model)[0]
    spoken: list[torch.Tensor] = []
    listening = layer.up.register_forward_pre_hook(lambda _, inputs: spoken.append(inputs[0]))
    model(input_ids=ids, attention_mask=mask)
    listening.remove()
    ways = (spoken[0] @ layer.up.weight[RARE])[mask.bool()].sort().values
    layer.down.weight[:, [HEAVY, RARE, STEADY, HEEDED]] = 0
    # gelu(−1000) is 0 and gelu(3) is 3, near enough.
    layer.up.bias[[HEAVY, STEADY, HEEDED]] = torch.tensor([-1000.0, 3.0, 0.5])
    layer.up.weight[[STEADY, HEEDED]] = 0
    layer.up.weight[HEAVY], layer.down.weight[:, HEAVY] = 5.0, 1e6
    layer.down.weight[:, HEEDED] = torch.randn(len(layer.down.weight), generator=torch.Generator().manual_seed(0))
    # Two tokens of all are above this.
    slope = 80 / (ways[-1] - ways[-3])
    layer.up.weight[RARE] *= slope
    layer.up.bias[RARE] = -slope * ways[-3]
    return model


@pytest.mark.parametrize(("importance_", "first"), [("l1", STEADY), ("l2", RARE), ("l1_weight", HEAVY), ("taylor", HEEDED)])
def test_each_importance_of_the_recipe_puts_another_unit_first(importance_: str, first: int) -> None:
    ids = torch.randint(5, len(WORDS), (16, 12), generator=torch.Generator().manual_seed(0))
    rows = TokenizedDataset(ids.tolist(), torch.arange(16) % 2, PADDING, task_of("text-classification"))
    model = four_kinds(ids, torch.ones_like(ids))
    found = score_units(model, Prune.model_validate({"importance": importance_, "calibration_rows": 16}), rows, seed=0)
    assert int(found.units["ffn.0"].argmax()) == first
    shape = adapter_of(model).shape_of(model.config).model_copy(update={"ffn": 1})
    assert found.choose(adapter_of(model), shape).kept["ffn.0"].tolist() == [first]


def test_only_so_many_rows_are_listened_to_as_the_recipe_says() -> None:
    ids = torch.randint(5, len(WORDS), (40, 6), generator=torch.Generator().manual_seed(0))
    rows = TokenizedDataset(ids.tolist(), torch.arange(40) % 2, PADDING, task_of("text-classification"))
    model = tiny("bert")
    heard: list[int] = []
    model.register_forward_pre_hook(lambda _, __, given: heard.append(len(given["input_ids"])), with_kwargs=True)
    for count, wanted in ((8, 8), (33, 33), (512, 40)):
        heard.clear()
        score_units(model, Prune(calibration_rows=count), rows, seed=0)
        assert sum(heard) == wanted


def test_what_a_taggers_loss_would_change_does_not_depend_on_who_shares_the_batch() -> None:
    draw = torch.Generator().manual_seed(0)
    lengths = [3 + n % 9 for n in range(24)]
    tokens = [torch.randint(5, len(WORDS), (length,), generator=draw).tolist() for length in lengths]
    labels = torch.full((24, 11), -100)
    for row, length in enumerate(lengths):
        labels[row, : length - row % 2] = row % 2
    rows = TokenizedDataset(tokens, labels, PADDING, task_of("token-classification", ("O", "B-X")))
    model, settings = tiny("bert", "ForTokenClassification"), Prune(importance="taylor", calibration_rows=24)
    whole, apart = (score_units(model, settings, rows, seed=0, parts=parts).tensors() for parts in (1, 16))
    assert all(torch.allclose(apart[name], score, rtol=1e-3, atol=1e-6) for name, score in whole.items())
