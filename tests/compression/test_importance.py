"""Scores and choices: what speaks louder stays."""

import torch

from compression import importance


def test_activations_count_at_real_tokens_only() -> None:
    activations = torch.tensor([[[1.0, -2.0], [3.0, 0.0], [100.0, 100.0]]])
    assert importance.activation_norm(activations, torch.tensor([[1, 1, 0]])).tolist() == [4.0, 2.0]


def test_weights_count_where_a_unit_is_made_and_where_it_is_read() -> None:
    up, down = torch.tensor([[1.0, -1.0], [0.0, 0.0]]), torch.tensor([[0.5, 3.0]])
    assert importance.weight_norm([up], [down]).tolist() == [2.5, 3.0]


def test_channels_of_a_head_are_added_up() -> None:
    assert importance.grouped(torch.arange(6.0), 3).tolist() == [1.0, 5.0, 9.0]


def test_the_strongest_stay_in_their_order() -> None:
    assert importance.strongest(torch.tensor([1.0, 5.0, 2.0, 5.0, 0.0]), 3).tolist() == [1, 2, 3]
