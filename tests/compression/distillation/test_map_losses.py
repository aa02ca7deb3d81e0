"""What is compared of two feature maps: their channels through a projection, and where they are active."""

import math

import pytest
import torch

from compression.distillation.losses import ProjectionFit
from compression.distillation.map_losses import attention_of, attention_transfer_loss, positions, projected_map_loss


def test_a_projection_from_regression_explains_what_is_linear() -> None:
    torch.manual_seed(0)
    student, mix = torch.randn(6, 4, 5, 3), torch.randn(4, 7)
    teacher = torch.einsum("nchw,ck->nkhw", student, mix)
    fit = ProjectionFit()
    for one, other in zip(student.split(2), teacher.split(2), strict=True):
        fit.add(*positions(one, other))
    found = fit.solved(ridge=1e-6)[0]
    assert torch.allclose(found, mix, atol=1e-3)
    assert projected_map_loss(student, teacher, found).item() < 1e-5
    assert projected_map_loss(student, teacher, torch.zeros(4, 7)).item() == pytest.approx(1)
    assert projected_map_loss(student, 10 * teacher, 10 * found).item() < 1e-5


def test_positions_of_a_larger_map_are_averaged() -> None:
    large = torch.arange(32.0).view(1, 2, 4, 4)
    small = torch.zeros(1, 3, 2, 2)
    given, wanted = positions(large, small)
    assert given.shape == (1, 4, 2)
    assert wanted.shape == (1, 4, 3)
    assert given[0, 0].tolist() == [2.5, 18.5]  # the mean of the first quarter of each channel
    assert positions(small, large)[1].equal(given)


def test_attention_is_where_a_map_is_active_whatever_its_scale_and_width() -> None:
    torch.manual_seed(0)
    student = torch.randn(4, 5, 6, 6)
    assert attention_transfer_loss(student, student).item() == 0
    assert attention_transfer_loss(3 * student, student).item() == pytest.approx(0, abs=1e-6)
    assert attention_transfer_loss(torch.cat([student, student], dim=1), student).item() == pytest.approx(0, abs=1e-6)
    assert attention_of(student).norm(dim=1).tolist() == pytest.approx([1] * 4)
    left, right = torch.zeros(2, 1, 1, 2, 2).unbind()
    left[..., 0], right[..., 1] = 1, 1
    assert attention_transfer_loss(left, right).item() == pytest.approx(math.sqrt(2))
    assert attention_transfer_loss(torch.nn.functional.interpolate(left, size=8), left).item() == pytest.approx(0, abs=1e-6)


def test_gradients_flow_and_are_finite_where_maps_are_equal_or_dead() -> None:
    torch.manual_seed(0)
    teacher = torch.randn(2, 3, 4, 4)
    for start in (torch.randn(2, 5, 4, 4), teacher.clone(), torch.zeros(2, 3, 4, 4)):
        student = start.requires_grad_()
        attention_transfer_loss(student, teacher).backward()
        assert student.grad.isfinite().all()
    away = torch.randn(2, 5, 4, 4, requires_grad=True)
    optimizer = torch.optim.SGD([away], lr=5.0)
    first = attention_transfer_loss(away, teacher).item()
    for _ in range(20):
        optimizer.zero_grad()
        attention_transfer_loss(away, teacher).backward()
        optimizer.step()
    assert attention_transfer_loss(away, teacher).item() < 0.8 * first
