"""Scores and choices: what speaks louder stays."""

import torch

from compression import importance


def test_activations_count_at_real_tokens_only() -> None:
    activations = torch.tensor([[[1.0, -2.0], [3.0, 0.0], [100.0, 100.0]]])
    assert importance.activation_norm(activations, torch.tensor([[1, 1, 0]])).tolist() == [4.0, 2.0]


def test_squares_count_at_real_tokens_only() -> None:
    activations = torch.tensor([[[1.0, -2.0], [3.0, 0.0], [100.0, 100.0]]])
    assert importance.activation_squares(activations, torch.tensor([[1, 1, 0]])).tolist() == [10.0, 4.0]


def test_what_the_loss_would_change_is_the_derivative_by_a_gate() -> None:
    activations = torch.randn(3, 4, 6, generator=torch.Generator().manual_seed(0))
    mask = torch.tensor([[1, 1, 1, 1], [1, 1, 0, 0], [1, 1, 1, 0]])

    def loss_of(x: torch.Tensor) -> torch.Tensor:
        return (x * mask[..., None]).sum(dim=1).square().sum(dim=1)  # one for each row

    held = activations.clone().requires_grad_(True)
    loss_of(held).sum().backward()
    assert held.grad is not None
    for groups in (None, 3):
        gates = torch.ones(3, groups or 6, requires_grad=True)
        loss_of(activations * gates.repeat_interleave(6 // (groups or 6), dim=1)[:, None]).sum().backward()
        assert gates.grad is not None
        found = importance.first_order(activations, held.grad, mask, groups)
        assert torch.allclose(found, gates.grad.abs().sum(dim=0), rtol=1e-5)


def test_a_layer_that_turns_nothing_has_no_influence() -> None:
    east, north = torch.tensor([1.0, 0.0]), torch.tensor([0.0, 1.0])
    states = torch.stack([torch.stack([east, north]), torch.stack([2 * east, 3 * north]), torch.stack([north, -north])])
    assert importance.block_influence(states).tolist() == [0.0, 3.0]  # a right angle, and about


def test_weights_count_where_a_unit_is_made_and_where_it_is_read() -> None:
    up, down = torch.tensor([[1.0, -1.0], [0.0, 0.0]]), torch.tensor([[0.5, 3.0]])
    assert importance.weight_norm([up], [down]).tolist() == [2.5, 3.0]


def test_channels_of_a_head_are_added_up() -> None:
    assert importance.grouped(torch.arange(6.0), 3).tolist() == [1.0, 5.0, 9.0]


def test_the_strongest_stay_in_their_order() -> None:
    assert importance.strongest(torch.tensor([1.0, 5.0, 2.0, 5.0, 0.0]), 3).tolist() == [1, 2, 3]
